//! What the watches have seen.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use kube::{
    Resource,
    core::DeserializeGuard,
    runtime::reflector::{ObjectRef, Store},
};

/// The objects of one kind, over all namespaces that are watched.
///
/// Objects that do not fit the schema are left out: one malformed object must not stop the others.
#[derive(Debug)]
pub struct Cache<K: Resource<DynamicType = ()> + 'static>(Vec<Store<DeserializeGuard<K>>>);

impl<K: Resource<DynamicType = ()> + 'static> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
    K::DynamicType: Eq + Hash,
{
    /// A view over the stores of one or more watches.
    #[must_use]
    pub fn new(stores: Vec<Store<DeserializeGuard<K>>>) -> Self {
        Self(stores)
    }

    /// One object; `namespace` is empty for cluster-wide kinds.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<K> {
        let key = ObjectRef::new(name);
        let key = if namespace.is_empty() { key } else { key.within(namespace) };
        self.0.iter().find_map(|store| store.get(&key)).and_then(|object| object.0.as_ref().ok().cloned())
    }

    /// What `pick` makes of one object, without copying it.
    pub fn look<T>(&self, namespace: &str, name: &str, pick: impl FnOnce(&K) -> T) -> Option<T> {
        let key = ObjectRef::new(name).within(namespace);
        let object = self.0.iter().find_map(|store| store.get(&key))?;
        object.0.as_ref().ok().map(pick)
    }

    /// Looks at each object, without copying any.
    pub fn for_each(&self, mut look: impl FnMut(&K)) {
        for object in self.0.iter().flat_map(Store::state) {
            if let Ok(object) = &object.0 {
                look(object);
            }
        }
    }

    /// What `pick` makes of each object, without copying the others.
    pub fn filter_map<T>(&self, pick: impl Fn(&K) -> Option<T>) -> Vec<T> {
        self.0
            .iter()
            .flat_map(Store::state)
            .filter_map(|object: Arc<DeserializeGuard<K>>| object.0.as_ref().ok().and_then(&pick))
            .collect()
    }

    /// Resolves when every watch has delivered its first list.
    pub async fn ready(&self) {
        for store in &self.0 {
            // Fails only if the watch has ended, and then so does the process.
            let _ = store.wait_until_ready().await;
        }
    }
}
