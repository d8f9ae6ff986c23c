//! One watch per kind.
//!
//! A watch may be cut for longer than the API server remembers (410 Gone). Then everything is listed anew, and what
//! changed or went in between is told when the new list is complete: not before, because the store still has the old one.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Resource, ResourceExt,
    api::PartialObjectMeta,
    core::DeserializeGuard,
    runtime::{
        Controller, WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::error::words;

/// A watch that is under way: what it has seen, and which objects it has seen change.
pub struct Watched<K: Resource<DynamicType = ()> + 'static> {
    pub store: Store<DeserializeGuard<K>>,
    changed: UnboundedReceiver<ObjectRef<DeserializeGuard<K>>>,
}

/// Namespace (empty for cluster-wide kinds) and name.
pub type Key = (String, String);

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Watches a kind from now on. `on_change` sees every object that comes or changes, and `None` for one that goes.
    ///
    /// The watch does not wait for its controller: controllers start when all the watches have delivered their first
    /// lists, so that none decides on half of the facts.
    pub fn start<F>(api: Api<DeserializeGuard<K>>, mut on_change: F) -> Self
    where
        F: FnMut(Key, Option<&K>) + Send + 'static,
    {
        // References alone: the objects are in the store.
        let (sender, changed) = unbounded_channel();
        let store = follow(api, move |reference: ObjectRef<DeserializeGuard<K>>, object| {
            let key = (reference.namespace.clone().unwrap_or_default(), reference.name.clone());
            match &object {
                None => on_change(key, None),
                Some(object) => {
                    if let Ok(object) = &object.0 {
                        on_change(key, Some(object));
                    }
                }
            }
            // Nobody listens any more: the process is stopping.
            let _ = sender.send(reference);
        });
        Self { store, changed }
    }

    /// A controller that looks at each object that the watch sees change.
    #[must_use]
    pub fn controller(self) -> Controller<DeserializeGuard<K>> {
        Controller::for_stream(stream::pending(), self.store).reconcile_on(receive(self.changed))
    }
}

/// Watches a kind into a store, and tells what comes, changes and (`None`) goes, when the store has it.
pub fn follow<T, F>(api: Api<T>, tell: F) -> Store<T>
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    F: FnMut(ObjectRef<T>, Option<Arc<T>>) + Send + 'static,
{
    collect(watcher(api, watcher::Config::default()).default_backoff(), tell)
}

/// [`follow`] for objects that may be read by name, but neither listed nor watched: looks at them every so often.
pub fn follow_by_name<T, F>(api: Api<T>, names: Vec<String>, every: Duration, tell: F) -> Store<T>
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    F: FnMut(ObjectRef<T>, Option<Arc<T>>) + Send + 'static,
{
    let kind = T::kind(&());
    // Told once: at the first look, and when it changes.
    let said: HashMap<String, Option<String>> = HashMap::new();
    let looks = stream::unfold((api, names, said, false), move |(api, names, mut said, wait)| {
        let kind = kind.clone();
        async move {
            if wait {
                tokio::time::sleep(every).await;
            }
            let mut events = vec![Ok(watcher::Event::Init)];
            let mut complete = true;
            for name in &names {
                let complaint = match api.get_opt(name).await {
                    Ok(Some(object)) => {
                        events.push(Ok(watcher::Event::InitApply(object)));
                        None
                    }
                    Ok(None) => Some(format!("{kind} {name} does not exist")),
                    Err(error) => {
                        complete = false;
                        Some(format!("can't read {kind} {name}: {}", words(&error)))
                    }
                };
                let last = said.insert(name.clone(), complaint.clone()).flatten();
                if let Some(complaint) = complaint.filter(|complaint| last.as_ref() != Some(complaint)) {
                    tracing::warn!("{complaint}; looking again every {every:?}");
                }
            }
            // Half a list would look like deletions.
            if complete {
                events.push(Ok(watcher::Event::InitDone));
            } else {
                events.clear();
            }
            Some((stream::iter(events), (api, names, said, true)))
        }
    });
    collect(looks.flatten(), tell)
}

/// What a watch delivers, into a store; `tell` as in [`follow`].
fn collect<T, F, S>(events: S, mut tell: F) -> Store<T>
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    F: FnMut(ObjectRef<T>, Option<Arc<T>>) + Send + 'static,
    S: Stream<Item = watcher::Result<watcher::Event<T>>> + Send + 'static,
{
    let (store, writer) = reflector::store();
    let reader = store.clone();
    let mut events = events
        .modify(|object| {
            // Nobody reads them, and they are the larger part of many objects.
            object.managed_fields_mut().clear();
            object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
        })
        .reflect(writer)
        .boxed();
    tokio::spawn(async move {
        let mut known: HashSet<ObjectRef<T>> = HashSet::new();
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.insert(ObjectRef::from_obj(&object));
                }
                Ok(watcher::Event::InitDone) => {
                    for gone in known.difference(&listed) {
                        tell(gone.clone(), None);
                    }
                    known = std::mem::take(&mut listed);
                    for reference in &known {
                        tell(reference.clone(), reader.get(reference));
                    }
                }
                Ok(watcher::Event::Apply(object)) => {
                    let reference = ObjectRef::from_obj(&object);
                    known.insert(reference.clone());
                    tell(reference, Some(Arc::new(object)));
                }
                Ok(watcher::Event::Delete(object)) => {
                    let reference = ObjectRef::from_obj(&object);
                    known.remove(&reference);
                    tell(reference, None);
                }
                Err(error) => {
                    tracing::warn!(error = cause(&error), kind = %T::kind(&()), "the watch was cut; watching again");
                }
            }
        }
    });
    store
}

fn cause(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => words(error),
        watcher::Error::WatchError(status) => status.message.clone(),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// The receiver as a stream.
pub fn receive<T: Send>(receiver: UnboundedReceiver<T>) -> impl Stream<Item = T> + Send {
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|item| (item, receiver)))
}

/// What happened to Secrets.
#[derive(Clone, Debug)]
pub enum SecretChange {
    /// This one came, changed or went.
    Of(Box<PartialObjectMeta<Secret>>),
    /// The watch was cut: any of them.
    Unknown,
}

/// Watches the metadata of Secrets by label: no payload is ever read, and nothing is stored.
pub fn watch_secrets(
    api: Api<PartialObjectMeta<Secret>>,
    labels: &str,
) -> impl Stream<Item = SecretChange> + Send + use<> {
    let events = watcher(api, watcher::Config::default().labels(labels)).default_backoff();
    // Whether something may have happened that no event tells of.
    let mut has_a_gap = false;
    events.filter_map(move |event| {
        let change = match event {
            Ok(watcher::Event::Apply(secret) | watcher::Event::Delete(secret)) => {
                Some(SecretChange::Of(Box::new(secret)))
            }
            // The first list tells nothing new, if it comes at once: every object is looked at when the controllers start.
            Ok(watcher::Event::InitDone) => std::mem::replace(&mut has_a_gap, true).then_some(SecretChange::Unknown),
            // But one that is being deleted may be all that is left of its owner.
            Ok(watcher::Event::InitApply(secret)) if secret.metadata.deletion_timestamp.is_some() => {
                Some(SecretChange::Of(Box::new(secret)))
            }
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
            Err(error) => {
                tracing::warn!(error = cause(&error), kind = "Secret", "the watch was cut; watching again");
                has_a_gap = true;
                None
            }
        };
        futures::future::ready(change)
    })
}
