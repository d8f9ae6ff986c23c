//! What the controllers share at run time.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client, Resource, ResourceExt,
    api::PartialObjectMeta,
    runtime::reflector::{ObjectRef, Store},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{DcrPolicy, OAuthClient, TokenProfile},
    kubernetes::{Backoff, Cache, Events, Written, lease},
    oauth_client::Compared,
    ops::Metrics,
    token_profile::{Circuits, Connections, Findings},
};

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct Settings {
    pub allow_insecure_http: bool,
    pub deletion_timeout: Duration,
    pub workers: u16,
}

/// Shared by all controllers.
pub struct Context {
    pub client: Client,
    pub settings: Settings,
    pub clients: Cache<OAuthClient>,
    pub profiles: Cache<TokenProfile>,
    pub policies: Cache<DcrPolicy>,
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    pub connections: Connections,
    /// What the profile controller has found out about the servers.
    pub findings: Findings,
    pub events: Events,
    pub metrics: Metrics,
    pub client_backoff: Backoff,
    pub profile_backoff: Backoff,
    pub written: Written,
    /// When each client was last compared with the server.
    pub compared: Compared,
    /// Which servers are down.
    pub circuits: Circuits,
    /// How long this process leads for sure.
    pub term: lease::Term,
    /// Fires when the process has been asked to stop.
    pub stop: CancellationToken,
}

impl Context {
    /// The labels of a namespace.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        self.namespaces.get(&ObjectRef::new(name)).map(|namespace| namespace.labels().clone()).unwrap_or_default()
    }

    /// Whether a namespace is being deleted: it takes nothing new, and nothing can stop it.
    #[must_use]
    pub fn namespace_is_terminating(&self, name: &str) -> bool {
        self.namespaces.get(&ObjectRef::new(name)).is_some_and(|found| found.meta().deletion_timestamp.is_some())
    }
}
