//! The operator as a process, against the real Kubernetes API server and a real authorization server.

// A test may panic.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::type_complexity)]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod adoption;
mod authentication;
mod authorization_server;
mod bindings;
mod changes;
mod crash_points;
mod crashes;
mod crds;
mod credentials;
mod deletion;
mod drift;
mod expiry;
mod fault_proxy;
mod fixtures;
mod hostile;
mod keycloak;
mod leaks;
mod lifecycle;
mod operating;
mod pages;
mod policies;
mod profiles;
mod references;
mod registration;
mod rotation;
mod secrets;
mod storm;
mod tampering;
mod teams;
