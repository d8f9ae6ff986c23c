//! Who is concerned by a change, and what the policies say about them now.
//!
//! A client's controller judges what it finds. Then a policy may change, or a namespace's labels, or an older client may go.
//! Here the clients that such a change is about are judged again, in memory, and only those are looked at again whose status
//! says something else than the policies do now. A status that was decided on older facts is written later, and is then
//! found out in the same way: nothing depends on who is first.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{Resource, ResourceExt};
use tokio::{
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender},
    },
    time::Instant,
};

use super::audit::{self, Due};
use crate::{
    api::{DcrPolicy, OAuthClient, PolicyClients, conditions, reasons},
    context::Context,
    kubernetes::{Key, condition},
    oauth_client::{Changes, accept, metadata},
    policy::{self, Verdict},
};

/// Pauses between two counts: a thousand new clients are one write, not a thousand.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// The part of the time that counting may take where there are very many clients and policies.
const SHARE: u32 = 10;
/// Changes that are dealt with in one go.
const MOST_CHANGES: usize = 4096;

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An OAuthClient came, changed or went. If it went, `freed` is the namespace of its profile.
    Client { namespace: String, name: String, freed: Option<String> },
    /// A DcrPolicy, by namespace and name.
    Policy(String, String),
    /// A TokenProfile, by namespace and name.
    Profile(String, String),
    /// The labels of a namespace.
    Namespace(String),
}

/// How many clients the policies are about, as last counted.
#[derive(Debug, Default)]
pub struct Counts(Mutex<HashMap<Key, Count>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Count {
    uid: Option<String>,
    generation: Option<i64>,
    clients: PolicyClients,
}

impl Counts {
    /// The counts for the policy as it is now.
    #[must_use]
    pub fn of(&self, policy: &DcrPolicy) -> Option<PolicyClients> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&key(policy))?;
        (count.uid == policy.uid() && count.generation == policy.metadata.generation).then_some(count.clients)
    }
}

fn key(policy: &DcrPolicy) -> Key {
    (policy.namespace().unwrap_or_default(), policy.name_any())
}

/// Which clients a batch of changes is about, and whose counts it may change.
#[derive(Debug, Default, PartialEq, Eq)]
struct Concerned {
    /// Clients by namespace and name.
    clients: BTreeSet<Key>,
    /// All clients of these namespaces.
    homes: BTreeSet<String>,
    /// All clients of profiles of these namespaces.
    under: BTreeSet<String>,
    /// Policies that have changed themselves: they are counted at once.
    policies: BTreeSet<Key>,
    /// The policies of these namespaces may count otherwise than before.
    recount: BTreeSet<String>,
    /// So may all policies that select namespaces.
    selectors: bool,
}

impl Concerned {
    /// `namespace_of` is the namespace of a client's profile, and `limits` says whether a policy there limits how many
    /// clients a namespace may have.
    fn by(
        changes: Vec<Change>,
        namespace_of: impl Fn(&str, &str) -> Option<String>,
        limits: impl Fn(&str) -> bool,
    ) -> Self {
        let mut concerned = Self::default();
        for change in changes {
            match change {
                Change::Client { namespace, name, freed } => {
                    if let Some(profile_namespace) = freed {
                        if limits(&profile_namespace) {
                            // The next in line may take the place.
                            concerned.homes.insert(namespace.clone());
                        }
                        concerned.recount.insert(profile_namespace);
                    }
                    concerned.recount.extend(namespace_of(&namespace, &name));
                    concerned.clients.insert((namespace, name));
                }
                Change::Policy(namespace, name) => {
                    concerned.under.insert(namespace.clone());
                    concerned.policies.insert((namespace, name));
                }
                // Its clients are looked at anyway; the policies about it tell whether it is there.
                Change::Profile(namespace, _) => {
                    concerned.recount.insert(namespace);
                }
                Change::Namespace(name) => {
                    concerned.homes.insert(name);
                    concerned.selectors = true;
                }
            }
        }
        concerned
    }

    /// No more than single clients.
    fn is_narrow(&self) -> bool {
        self.homes.is_empty() && self.under.is_empty()
    }

    fn is(&self, client: &OAuthClient) -> bool {
        let home = client.metadata.namespace.as_deref().unwrap_or_default();
        self.under.contains(policy::namespace_of(client))
            || self.homes.contains(home)
            || !self.clients.is_empty() && self.clients.contains(&(home.to_owned(), client.name_any()))
    }
}

/// Judges until the context's token stops it. `recounted` are told of policies whose status is out of date, `look` of
/// clients whose status is, and `policies_changed` of policies that come and go.
pub async fn judge(
    context: Arc<Context>,
    mut changes: UnboundedReceiver<Change>,
    recounted: Vec<UnboundedSender<Key>>,
    look: impl Fn(Changes) + Send + 'static,
    policies_changed: Arc<Notify>,
) {
    let mut policies = Arc::new(Policies::default());
    let mut pending: BTreeSet<String> = BTreeSet::new();
    let due = Arc::new(Due::default());
    tokio::spawn(audit::publish(Arc::clone(&context), Arc::clone(&due)));
    let mut next_count = Instant::now();
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            () = context.stop.cancelled() => return,
            received = changes.recv_many(&mut batch, MOST_CHANGES) => if received == 0 { return },
            () = tokio::time::sleep_until(next_count), if !pending.is_empty() => {}
        }
        if batch.iter().any(|change| matches!(change, Change::Policy(..))) {
            policies = Arc::new(by_namespace(&context));
            policies_changed.notify_one();
        }
        let any =
            |namespace: &str, is: fn(&DcrPolicy) -> bool| policies.get(namespace).is_some_and(|of| of.iter().any(is));
        let concerned = Concerned::by(
            batch,
            |namespace, name| context.clients.look(namespace, name, |client| policy::namespace_of(client).to_owned()),
            |namespace| any(namespace, |policy| policy.spec.max_clients_per_namespace.is_some()),
        );
        pending.extend(concerned.recount.iter().cloned());
        if concerned.selectors {
            let selecting = |namespace: &&String| any(namespace, |policy| policy.spec.namespace_selector.is_some());
            pending.extend(policies.keys().filter(selecting).cloned());
        }

        let begin = Instant::now();
        let counting = if begin >= next_count { std::mem::take(&mut pending) } else { BTreeSet::new() };
        let sweep = sweep(&context, &policies, &concerned, &counting);
        for (namespace, name) in sweep.outdated {
            look(Changes::Verdict(namespace, name));
        }
        for key in context.counts.take_in(sweep.counts, &policies) {
            for sender in &recounted {
                // Nobody listens any more: the process is stopping.
                let _ = sender.send(key.clone());
            }
        }
        due.add(&policies, sweep.audited);
        if !counting.is_empty() {
            next_count = Instant::now() + COUNT_INTERVAL.max(begin.elapsed() * SHARE);
        }
        // A long sweep must not keep a thread from others.
        tokio::task::yield_now().await;
    }
}

/// By namespace.
pub type Policies = BTreeMap<String, Vec<DcrPolicy>>;

fn by_namespace(context: &Context) -> Policies {
    let mut policies = Policies::default();
    for policy in context.policies.filter_map(|policy| Some(policy.clone())) {
        policies.entry(policy.namespace().unwrap_or_default()).or_default().push(policy);
    }
    policies
}

/// What comes of looking at many clients.
#[derive(Debug, Default)]
struct Sweep {
    /// Clients whose status says something else than the policies.
    outdated: Vec<Key>,
    counts: HashMap<Key, PolicyClients>,
    /// Clients about which policies that only audit find what no event may have told yet.
    audited: Vec<Key>,
}

/// Judges the clients that are concerned, and counts for the namespaces of `counting` and for policies that have changed.
fn sweep(context: &Context, policies: &Policies, concerned: &Concerned, counting: &BTreeSet<String>) -> Sweep {
    let mut sweep = Sweep::default();
    for policy in policies.values().flatten() {
        let key = key(policy);
        if counting.contains(&key.0) || concerned.policies.contains(&key) {
            sweep.counts.insert(key, PolicyClients::default());
        }
    }
    if sweep.counts.is_empty() && concerned.is_narrow() {
        for (namespace, name) in &concerned.clients {
            context.clients.look(namespace, name, |client| sweep.visit(context, policies, client, true));
        }
        return sweep;
    }
    let sweep = RefCell::new(sweep);
    context.clients.filter_map(|client| {
        let is_concerned = concerned.is(client);
        if is_concerned || counting.contains(policy::namespace_of(client)) {
            sweep.borrow_mut().visit(context, policies, client, is_concerned);
        }
        None::<()>
    });
    sweep.into_inner()
}

impl Sweep {
    fn visit(&mut self, context: &Context, policies: &Policies, client: &OAuthClient, is_concerned: bool) {
        let verdict = verdict(context, policies, client, |policy, violates| self.count(policy, violates));
        let Some(verdict) = verdict.filter(|_| is_concerned && client.meta().deletion_timestamp.is_none()) else {
            return;
        };
        let key = || (client.namespace().unwrap_or_default(), client.name_any());
        let contradicts = accept::contradicts(client.status.as_ref(), &verdict);
        if contradicts {
            self.outdated.push(key());
        }
        if !verdict.audited.is_empty() && (contradicts || !is_accepted(client)) {
            self.audited.push(key());
        }
    }

    fn count(&mut self, policy: &DcrPolicy, violates: bool) {
        if self.counts.is_empty() {
            return;
        }
        if let Some(count) = self.counts.get_mut(&key(policy)) {
            count.matching += 1;
            count.violating += i64::from(violates);
        }
    }
}

/// What the policies say about the client, and to `count` whether each that is about it finds anything. `None` if it is
/// not for them to judge.
pub fn verdict<'a>(
    context: &Context,
    policies: &'a Policies,
    client: &OAuthClient,
    mut count: impl FnMut(&'a DcrPolicy, bool),
) -> Option<Verdict> {
    let policies = policies.get(policy::namespace_of(client)).map_or(&[][..], Vec::as_slice);
    // Its clients are judged when it is seen.
    let labels = context.namespace_labels(&client.namespace().unwrap_or_default())?;
    let Ok(document) = metadata::document(&client.spec) else {
        // Refused for its metadata, and not by a policy.
        let profile = &client.spec.profile_ref.name;
        for policy in policies.iter().filter(|policy| policy::concerns(policy, profile, &labels)) {
            count(policy, false);
        }
        return None;
    };
    let subject = accept::subject(client, &document, &labels, context.older(client, policies));
    let mut verdict = Verdict::default();
    policy::each(policies, subject, |policy, violations| {
        count(policy, !violations.is_empty());
        verdict.add(policy, violations);
    });
    Some(verdict)
}

/// The status of an accepted client tells of what is audited: if it is right, an event has told it before.
fn is_accepted(client: &OAuthClient) -> bool {
    let accepted = client.status.as_ref().and_then(|status| condition(&status.conditions, conditions::ACCEPTED));
    accepted.is_some_and(|accepted| accepted.reason == reasons::ACCEPTED)
}

impl Counts {
    /// Keeps the counts, and returns the policies whose status does not have them.
    fn take_in(&self, counted: HashMap<Key, PolicyClients>, policies: &Policies) -> Vec<Key> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retain(|(namespace, name), _| {
            policies.get(namespace).is_some_and(|of| of.iter().any(|policy| policy.name_any() == *name))
        });
        let mut outdated = Vec::new();
        for policy in policies.values().flatten() {
            let Some(clients) = counted.get(&key(policy)) else { continue };
            let count = Count { uid: policy.uid(), generation: policy.metadata.generation, clients: *clients };
            counts.insert(key(policy), count);
            // What the profile and the namespaces around it are like is in the status too; it is written if it differs.
            outdated.push(key(policy));
        }
        outdated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_concerns_just_the_clients_that_it_is_about() {
        let client = |namespace: &str, name: &str, profile: Option<&str>| {
            let mut client = OAuthClient::new(name, crate::api::OAuthClientSpec::default());
            client.metadata.namespace = Some(namespace.into());
            client.spec.profile_ref.namespace = profile.map(Into::into);
            client
        };
        let clients = [client("shop", "a", Some("identity")), client("shop", "b", None), client("bank", "a", None)];
        let gone = |from: &str| Change::Client { namespace: "shop".into(), name: "z".into(), freed: Some(from.into()) };
        for (change, expected) in [
            (Change::Policy("identity".into(), "web".into()), [true, false, false]),
            (Change::Namespace("shop".into()), [true, true, false]),
            (Change::Client { namespace: "shop".into(), name: "b".into(), freed: None }, [false, true, false]),
            (gone("identity"), [true, true, false]),
            (gone("elsewhere"), [false, false, false]),
            (Change::Profile("identity".into(), "p".into()), [false, false, false]),
        ] {
            let concerned = Concerned::by(vec![change.clone()], |_, _| None, |namespace| namespace == "identity");
            assert_eq!(clients.each_ref().map(|client| concerned.is(client)), expected, "{change:?}");
        }
    }
}
