//! What the controllers share about talking to Kubernetes.

mod apply;
mod backoff;
mod cache;
mod client;
mod conditions;
mod error;
mod events;
pub mod lease;
mod schema;
mod secret_data;
mod watch;
mod written;

pub use apply::{Precondition, SecretSpec, apply_secret, apply_status, check_secret, patch_metadata, remove_secret};
pub use backoff::Backoff;
pub use cache::Cache;
pub use client::connect;
pub use conditions::{ConditionStatus, Finding, condition, merge};
pub use error::{Error, words};
pub use events::{Events, LONGEST_NOTE, transitions};
pub use schema::{missing_fields, missing_kinds};
pub use secret_data::SecretData;
pub use watch::{Key, SecretChange, Watched, follow, follow_by_name, receive, watch_secrets};
pub use written::Written;
