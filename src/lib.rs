//! `dcr-operator`: OAuth clients by Dynamic Client Registration (RFC 7591, RFC 7592), as Kubernetes resources.
//!
//! Data flows one way, and the folders show it:
//!
//! ```text
//!                                            ┌──────────── what the step changed ───────────┐
//!                                            ▼                                              │
//! watch event ─> <kind>/controller.rs ─> <kind>/observe.rs ─> <kind>/plan.rs ─> step ─> <kind>/act.rs
//!                triggers, loop          reads only           pure    │                 writes only
//!                                                                     └─> at rest: status.rs (pure), written last
//! ```
//!
//! - [`api`]: the custom resources.
//! - [`dcr`]: the authorization server as a client library; knows nothing of Kubernetes.
//! - [`policy`]: what a DcrPolicy means.
//! - [`token_profile`], [`dcr_policy`], [`oauth_client`]: one controller each.
//! - [`kubernetes`]: what the controllers share.
//! - [`ops`]: health, metrics, log.
//! - `crds`: waits for the CRDs, and warns of older ones.
//! - `crash_point`: where tests let the process die; empty in a release build.
//! - [`cli`] and [`run`]: from flags to running controllers, and back.

#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod context;
mod crash_point;
mod crds;
pub mod dcr;
pub mod dcr_policy;
pub mod kubernetes;
pub mod oauth_client;
pub mod ops;
pub mod policy;
pub mod retry;
pub mod run;
pub mod text;
pub mod token_profile;
