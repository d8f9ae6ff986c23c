//! What the integration tests, the demo and the benchmarks share: real servers as local processes.
//!
//! | module | gives |
//! |---|---|
//! | `process` | child processes that cannot outlive the test, and `wait_until`, which tests use instead of sleeping |
//! | `control_plane` | etcd, kube-apiserver, kube-controller-manager, kubectl, and the audit log |
//! | `authorization_server` | the real authorization server, and an application that logs in with a client |
//! | `keycloak` | another real authorization server, with its own idea of the standards |
//! | `certificates` | certificates of authorities that nobody else knows |
//! | `clock` | a clock for a process that jumps |
//! | `operator` | the operator binary, with the ServiceAccount and RBAC that are shipped |
//! | `fault_proxy` | stands between the operator and the API server, and loses, delays or refuses what it is told to |
//! | `fault_server` | an authorization server that misbehaves on request |
//! | `ledger` | compares what the authorization servers have with what the cluster has, and names what is missing |

// Each of the programs that include this module uses only a part of it; and a test may panic, with words that help.
#![allow(dead_code, unused_imports, clippy::expect_used, clippy::unwrap_used)]

pub mod authorization_server;
pub mod certificates;
pub mod clock;
pub mod control_plane;
pub mod fault_proxy;
pub mod fault_server;
pub mod keycloak;
pub mod ledger;
pub mod operator;
pub mod process;

use std::path::{Path, PathBuf};

/// A path inside the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// kube and reqwest need one process-wide TLS provider. The operator installs the same one in its `main`.
pub fn install_crypto_provider() {
    // An error means that another test of this process was first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
