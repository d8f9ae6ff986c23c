//! Tells by events what policies find that only audit.
//!
//! One change of a policy may be about ten thousand clients, and events are slow. So only names wait, each once, and an
//! event tells what the policies say when it is published.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use tokio::sync::Notify;

use super::judge::{Policies, verdict};
use crate::{
    api::reasons,
    context::Context,
    kubernetes::{Key, LONGEST_NOTE},
    policy,
};

/// Events that are published at the same time.
const AT_ONCE: usize = 4;
/// Clients that are gone are forgotten in bulk; what is told twice then does no harm.
const MOST_TOLD: usize = 100_000;

/// The clients that an event is due about.
#[derive(Debug, Default)]
pub struct Due {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    policies: Arc<Policies>,
    clients: BTreeSet<Key>,
}

impl Due {
    /// Adds clients; all that wait are judged by these policies.
    pub fn add(&self, policies: &Arc<Policies>, clients: Vec<Key>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.policies = Arc::clone(policies);
        waiting.clients.extend(clients);
        self.more.notify_one();
    }

    async fn next(&self) -> (Arc<Policies>, Key) {
        loop {
            if let Some(next) = self.pop() {
                return next;
            }
            self.more.notified().await;
        }
    }

    fn pop(&self) -> Option<(Arc<Policies>, Key)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let client = waiting.clients.pop_first()?;
        Some((Arc::clone(&waiting.policies), client))
    }
}

/// Publishes what is due until the context's token stops it, and nothing twice.
pub async fn publish(context: Arc<Context>, due: Arc<Due>) {
    let (hasher, mut told) = (RandomState::new(), HashMap::new());
    let due = stream::unfold(due, async |due| Some((due.next().await, due)));
    let news = due.filter_map(|(policies, key)| {
        let note = note(&context, &policies, &key).filter(|(client, note)| {
            if told.len() > MOST_TOLD {
                told.clear();
            }
            let digest = hasher.hash_one(note);
            told.insert(client.uid.clone(), digest) != Some(digest)
        });
        std::future::ready(note)
    });
    news.take_until(context.stop.cancelled())
        .for_each_concurrent(AT_ONCE, async |(client, note)| {
            context.events.warning(&client, reasons::POLICY_AUDITED, &note).await;
        })
        .await;
}

fn note(context: &Context, policies: &Policies, (namespace, name): &Key) -> Option<(ObjectReference, String)> {
    let note = context.clients.look(namespace, name, |client| {
        let audited = verdict(context, policies, client, |_, _| ())?.audited;
        (!audited.is_empty()).then(|| (client.object_ref(&()), policy::joined(&audited, LONGEST_NOTE)))
    });
    note.flatten()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Request, Response};
    use kube::{
        Client,
        client::Body,
        core::DeserializeGuard,
        runtime::{reflector, watcher::Event},
    };
    use serde_json::{Value, json};
    use tokio::sync::{mpsc::unbounded_channel, watch};

    use super::*;
    use crate::{
        api::{DcrPolicy, OAuthClient},
        dcr_policy::{Change, judge},
        kubernetes::Cache,
    };

    const CLIENTS: usize = 20;

    fn object<T: serde::de::DeserializeOwned>(kind: &str, [namespace, name]: [&str; 2], spec: &Value) -> T {
        let metadata = json!({"namespace": namespace, "name": name, "uid": name, "generation": 1});
        let version = "dcr-operator.dev/v1alpha1";
        serde_json::from_value(json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
            .unwrap()
    }

    fn policy(allowed: &[&str]) -> Event<DeserializeGuard<DcrPolicy>> {
        let spec = json!({"enforcement": "Audit", "allowedScopes": allowed});
        Event::Apply(object("DcrPolicy", ["identity", "web"], &spec))
    }

    async fn until(what: &str, mut is: impl FnMut() -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
    }

    #[tokio::test]
    async fn what_a_policy_says_now_takes_the_place_of_what_has_not_been_told_yet() {
        // Events are not answered before `open`.
        let (notes, (open, opened)) = (Arc::new(Mutex::new(Vec::<String>::new())), watch::channel(false));
        let written = Arc::clone(&notes);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (written, mut opened) = (Arc::clone(&written), opened.clone());
            async move {
                let event = request.into_body().collect_bytes().await?;
                written.lock().unwrap().push(serde_json::from_slice::<Value>(&event)?["note"].to_string());
                opened.wait_for(|opened| *opened).await?;
                Ok::<_, tower::BoxError>(Response::builder().status(201).body(Body::from(event.to_vec()))?)
            }
        });
        let (clients, mut writer) = reflector::store();
        for number in 0..CLIENTS {
            let spec =
                json!({"profileRef": {"name": "p", "namespace": "identity"}, "clientMetadata": {"scope": "openid a"}});
            let client = object("OAuthClient", ["shop", &format!("client-{number}")], &spec);
            writer.apply_watcher_event(&Event::<DeserializeGuard<OAuthClient>>::Apply(client));
        }
        let (policies, mut policy_writer) = reflector::store();
        let (namespaces, mut writer) = reflector::store();
        writer
            .apply_watcher_event(&Event::Apply(serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap()));
        let context = Context {
            clients: Cache::new(vec![clients]),
            policies: Cache::new(vec![policies]),
            namespaces,
            ..Context::test(Client::new(service, "default"))
        };
        let (changes, receiver) = unbounded_channel();
        let (sender, mut recounted) = unbounded_channel();
        tokio::spawn(judge(Arc::new(context), receiver, vec![sender], |_| (), Arc::default()));
        let mut edit = async |allowed: &[&str]| {
            policy_writer.apply_watcher_event(&policy(allowed));
            changes.send(Change::Policy("identity".into(), "web".into())).unwrap();
            recounted.recv().await.unwrap();
        };

        edit(&[]).await;
        until("some are being written", || notes.lock().unwrap().len() == AT_ONCE).await;
        edit(&["a"]).await;
        edit(&["openid"]).await;
        open.send(true).unwrap();
        let of = |hint: &str| notes.lock().unwrap().iter().filter(|note| note.contains(hint)).count();
        until("all have been told of the last change", || of("(allowed: openid)") == CLIENTS).await;
        assert_eq!((of("(nothing is allowed)"), of("(allowed: a)")), (AT_ONCE, 0));

        // What is due again and has been told is not told again; what is new then is.
        edit(&["openid"]).await;
        edit(&[]).await;
        until("all have been told", || of("(nothing is allowed)") == AT_ONCE + CLIENTS).await;
        assert_eq!(of("(allowed: openid)"), CLIENTS);
    }
}
