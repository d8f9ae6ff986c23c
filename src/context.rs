//! What the controllers share at run time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client, Resource, ResourceExt,
    api::PartialObjectMeta,
    runtime::reflector::{ObjectRef, Store},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{DcrPolicy, OAuthClient, TokenProfile},
    dcr_policy::Counts,
    kubernetes::{Backoff, Cache, Events, Written, lease},
    oauth_client::Compared,
    ops::Metrics,
    policy::{Older, Seniority},
    token_profile::{Circuits, Connections, Findings},
};

/// What the command line decides.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The namespaces that are watched; none = all.
    pub namespaces: BTreeSet<String>,
    pub allow_insecure_http: bool,
    pub deletion_timeout: Duration,
    pub workers: u16,
    pub admission_bindings: bool,
}

impl Settings {
    /// Whether the operator watches this namespace.
    #[must_use]
    pub fn watches(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}

/// Shared by all controllers.
pub struct Context {
    pub client: Client,
    pub settings: Settings,
    pub clients: Cache<OAuthClient>,
    pub profiles: Cache<TokenProfile>,
    pub policies: Cache<DcrPolicy>,
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
    /// The clients by age.
    pub seniority: Arc<Seniority>,
    /// How many clients each policy is about.
    pub counts: Counts,
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
    /// The labels of a namespace; `None` = the watch has not shown it yet, and they are not known.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.namespaces.get(&ObjectRef::new(name)).map(|namespace| namespace.labels().clone())
    }

    /// The clients that came before this one, as far as one of these policies counts them.
    #[must_use]
    pub fn older<'a>(&self, client: &OAuthClient, policies: impl IntoIterator<Item = &'a DcrPolicy>) -> Older {
        let most = policies.into_iter().filter_map(|policy| policy.spec.max_clients_per_namespace).max();
        most.map_or_else(Older::default, |most| {
            self.seniority.older(client, usize::try_from(most).unwrap_or(usize::MAX))
        })
    }

    /// Whether a namespace is being deleted: it takes nothing new, and nothing can stop it.
    #[must_use]
    pub fn namespace_is_terminating(&self, name: &str) -> bool {
        self.namespaces.get(&ObjectRef::new(name)).is_some_and(|found| found.meta().deletion_timestamp.is_some())
    }

    /// A context that has seen nothing, for tests.
    #[cfg(test)]
    pub fn test(client: Client) -> Self {
        Self {
            settings: Settings { admission_bindings: true, ..Settings::default() },
            clients: Cache::new(Vec::new()),
            profiles: Cache::new(Vec::new()),
            policies: Cache::new(Vec::new()),
            namespaces: kube::runtime::reflector::store().0,
            seniority: Arc::default(),
            counts: Counts::default(),
            connections: Connections::new(client.clone(), false),
            findings: Findings::default(),
            events: Events::new(client.clone(), None),
            metrics: Metrics::default(),
            client_backoff: Backoff::new(Duration::ZERO, Duration::ZERO),
            profile_backoff: Backoff::new(Duration::ZERO, Duration::ZERO),
            written: Written::default(),
            compared: Compared::new(jiff::Timestamp::UNIX_EPOCH),
            circuits: Circuits::default(),
            term: lease::Term::without_end(),
            stop: CancellationToken::new(),
            client,
        }
    }
}
