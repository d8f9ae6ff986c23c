//! Install and operate it as people do: the chart, the plain manifests, and what Helm, Argo CD, Flux and Prometheus make
//! of them.

// A test may panic.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::type_complexity)]

#[path = "../support/mod.rs"]
mod support;

// What the integration tests apply, and how they look at it.
#[allow(dead_code, unused_imports)]
#[path = "../integration/fixtures.rs"]
mod fixtures;

mod chart;
mod compatibility;
mod generated;
mod gitops;
mod image;
mod kubectl;
mod observability;
mod reasons;
mod release;
mod schemas;
mod tools;
mod trouble;
