//! One watch per kind.

use std::fmt::Debug;

use futures::{Stream, StreamExt, stream};
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

/// A watch that is under way: what it has seen, and which objects it has seen change.
pub struct Watched<K: Resource<DynamicType = ()> + 'static> {
    pub store: Store<DeserializeGuard<K>>,
    changed: UnboundedReceiver<ObjectRef<DeserializeGuard<K>>>,
}

/// Whether the object has gone.
pub type Gone = bool;

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Watches a kind from now on. `on_change` sees every object that comes, changes or goes.
    ///
    /// The watch does not wait for its controller: controllers start when all the watches have delivered their first
    /// lists, so that none decides on half of the facts.
    pub fn start<F>(api: Api<DeserializeGuard<K>>, mut on_change: F) -> Self
    where
        F: FnMut(&K, Gone) + Send + 'static,
    {
        let (store, writer) = reflector::store();
        // References alone: the objects are in the store.
        let (sender, changed) = unbounded_channel();
        let mut events = watcher(api, watcher::Config::default())
            .default_backoff()
            .modify(|object| {
                // Nobody reads them, and they are the larger part of many objects.
                object.managed_fields_mut().clear();
                object.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
            })
            .reflect(writer)
            .boxed();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let (object, gone) = match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => (object, false),
                    Ok(watcher::Event::Delete(object)) => (object, true),
                    Ok(watcher::Event::Init | watcher::Event::InitDone) => continue,
                    Err(error) => {
                        tracing::warn!(%error, kind = %K::kind(&()), "the watch was cut; watching again");
                        continue;
                    }
                };
                if let Ok(object) = &object.0 {
                    on_change(object, gone);
                }
                if sender.send(ObjectRef::from_obj(&object)).is_err() {
                    return;
                }
            }
        });
        Self { store, changed }
    }

    /// A controller that looks at each object that the watch sees change.
    #[must_use]
    pub fn controller(self) -> Controller<DeserializeGuard<K>> {
        Controller::for_stream(stream::pending(), self.store).reconcile_on(receive(self.changed))
    }
}

/// The receiver as a stream.
pub fn receive<T: Send>(receiver: UnboundedReceiver<T>) -> impl Stream<Item = T> + Send {
    stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|item| (item, receiver)))
}

/// Watches the metadata of a kind by label: no payload is ever read.
pub fn metadata_watch<K>(
    api: Api<PartialObjectMeta<K>>,
    labels: &str,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    watcher(api, watcher::Config::default().labels(labels)).default_backoff().touched_objects()
}
