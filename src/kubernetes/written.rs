//! Read your own writes.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use kube::{Resource, ResourceExt};

/// Remembers the resourceVersion of our last write to each object, until the watch has caught up.
///
/// A pass that starts from an object as it was before our own last write would decide on old facts.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<String, String>>);

impl Written {
    /// Notes a write; `object` is what the API server answered.
    pub fn note<K: Resource>(&self, object: &K) {
        if let (Some(uid), Some(version)) = (object.uid(), object.resource_version()) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, version);
        }
    }

    /// Whether the object, as the watch has it, may be older than our last write to it.
    pub fn may_be_stale<K: Resource>(&self, object: &K) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(uid) = object.uid() else { return false };
        match written.get(&uid) {
            Some(version) if Some(version) == object.resource_version().as_ref() => {
                written.remove(&uid);
                false
            }
            other => other.is_some(),
        }
    }

    /// A write failed because the object is newer than we knew: what the watch has may be stale.
    pub fn suspect(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), String::new());
    }

    /// Forgets the object: it is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::ObjectMeta;

    use super::*;

    #[test]
    fn an_object_is_stale_until_the_watch_shows_our_write() {
        let at = |version: &str| ConfigMap {
            metadata: ObjectMeta {
                uid: Some("u".into()),
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        let written = Written::default();
        assert!(!written.may_be_stale(&at("1")), "nothing written yet");
        written.note(&at("2"));
        assert!(written.may_be_stale(&at("1")));
        assert!(!written.may_be_stale(&at("2")), "caught up");
        assert!(!written.may_be_stale(&at("3")), "and somebody else's later write is news");
    }
}
