//! When each registration was last compared with what the server has. In memory alone: a comparison that changes nothing
//! writes nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

/// Times by the uid of the OAuthClient.
#[derive(Debug)]
pub struct Compared {
    /// Counts as a comparison of all: what was due while the operator was away is not done all at once.
    started_at: Timestamp,
    times: Mutex<HashMap<String, Timestamp>>,
}

impl Compared {
    #[must_use]
    pub fn new(started_at: Timestamp) -> Self {
        Self { started_at, times: Mutex::default() }
    }

    /// When it was last compared, or when the operator started.
    #[must_use]
    pub fn at(&self, uid: &str) -> Timestamp {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.get(uid).copied().unwrap_or(self.started_at)
    }

    /// It is compared at this time.
    pub fn note(&self, uid: &str, now: Timestamp) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), now);
    }

    /// The OAuthClient is gone.
    pub fn forget(&self, uid: &str) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
