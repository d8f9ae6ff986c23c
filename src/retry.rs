//! What may cure an error: the one question that a reconciler asks of every failure.

use std::time::Duration;

/// What may cure an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Only a change of the spec, the policy, the profile or one of their Secrets.
    OnChange,
    /// Time: try again with growing delays.
    Backoff,
    /// The server said when (`Retry-After`), bounded.
    After(Duration),
}
