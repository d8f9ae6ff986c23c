//! The operator as a process, against the real Kubernetes API server and a real authorization server.

#[path = "../support/mod.rs"]
mod support;
