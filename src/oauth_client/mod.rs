//! The OAuthClient controller: from the spec to a registered client and a Secret with its credentials.
//!
//! `observe` gathers the facts; `plan` names the next step, or says that there is none; `act` carries the step out and
//! returns what it changed; and so on until `plan` is at rest. The status is written last.

mod abandoned;
pub mod accept;
mod act;
mod adoption;
mod attempt;
mod compared;
mod controller;
mod keys;
pub mod metadata;
mod observe;
mod ownership;
mod plan;
mod registration;
mod secret;
mod status;

pub use compared::Compared;
pub use controller::{Changes, run};
