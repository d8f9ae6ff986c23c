//! The data of a Secret, which never shows its values.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, api::core::v1::Secret};

/// The data of a Secret. `Debug` prints the keys alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretData(BTreeMap<String, Vec<u8>>);

impl SecretData {
    /// The data of a Secret as read.
    #[must_use]
    pub fn of(secret: &Secret) -> Self {
        Self(secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect())
    }

    /// Sets a key.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), value.into());
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// The value of a key, if it is text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether every key of `other` is here with the same value; further keys belong to other people.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// Whether a key, whichever, has this value.
    #[must_use]
    pub fn holds(&self, value: &str) -> bool {
        self.0.values().any(|held| held == value.as_bytes())
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn to_kubernetes(&self) -> BTreeMap<String, ByteString> {
        self.0.iter().map(|(key, value)| (key.clone(), ByteString(value.clone()))).collect()
    }
}

impl FromIterator<(String, String)> for SecretData {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(entries: T) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key, value.into_bytes())).collect())
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_keys_and_no_value() {
        let data: SecretData = [("client-secret".to_owned(), "hunter2".to_owned())].into_iter().collect();
        assert_eq!(format!("{data:?}"), r#"{"client-secret"}"#);
    }

    #[test]
    fn foreign_keys_do_not_count_as_drift() {
        let ours: SecretData = [("a".to_owned(), "1".to_owned())].into_iter().collect();
        let mut live = ours.clone();
        live.insert("theirs", "2");
        assert!(live.contains(&ours));
        live.insert("a", "edited");
        assert!(!live.contains(&ours));
    }
}
