//! The operator as a process, against the real Kubernetes API server and a real authorization server.

// A test may panic.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::type_complexity)]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod bindings;
mod changes;
mod crashes;
mod crds;
mod credentials;
mod deletion;
mod fixtures;
mod hostile;
mod leaks;
mod operating;
mod policies;
mod profiles;
mod references;
mod registration;
mod secrets;
mod teams;
