//! The custom resources: types, schema and validation rules. No behaviour.
//!
//! Group `dcr-operator.dev`, version `v1alpha1`, all namespaced, category `dcr`.

mod client_metadata;
mod dcr_policy;
mod oauth_client;
mod schema;
mod token_profile;

pub use client_metadata::ClientMetadata;
pub use dcr_policy::{
    DcrPolicy, DcrPolicySpec, DcrPolicyStatus, Enforcement, PolicyClients, PolicyProfileRef, RedirectUriRule,
    RegistrationMode, reserved_members,
};
pub use oauth_client::{
    Adopt, AnnotationValue, Binding, DeletionPolicy, Keys, LabelValue, OAuthClient, OAuthClientSpec, OAuthClientStatus,
    PossibleOrphan, ProfileRef, Replacement, ReplacementReason, RetiringClient, RolloutRestartTarget, Rotation,
    SecretFormat, SecretTarget, ServerChange, SigningAlgorithm, TemplateText, WorkloadKind,
};
pub use schema::crds;
pub use token_profile::{
    AllowedNamespaces, BearerToken, CaBundleKind, CaBundleRef, ClientAuthMethod, ClientCredentials, Endpoints,
    InitialAccessToken, Limits, ManagementClient, NamespacesFrom, SecretKeyRef, SecretRef, ServerBehaviour, ServerType,
    Tls, TokenProfile, TokenProfileSpec, TokenProfileStatus, TokenReuse, UpdateSemantics,
};

/// The API group of all three kinds.
pub const GROUP: &str = "dcr-operator.dev";
/// Keeps an OAuthClient (and its registration Secret) until the server has been told.
pub const FINALIZER: &str = "dcr-operator.dev/deregister";
/// Value of [`labels::MANAGED_BY`], and the field manager of what the operator applies.
pub const OPERATOR: &str = "dcr-operator";

/// Members of a registration that only the server gives (RFC 7591 section 3.2.1, RFC 7592 section 3).
pub const ISSUED_BY_SERVER: [&str; 6] = [
    "client_id",
    "client_secret",
    "client_id_issued_at",
    "client_secret_expires_at",
    "registration_access_token",
    "registration_client_uri",
];

/// Labels that the operator sets or asks for.
pub mod labels {
    /// Kubernetes' recommended label; the operator's Secrets carry [`super::OPERATOR`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// On the operator's Secrets: the name of the OAuthClient.
    pub const CLIENT: &str = "dcr-operator.dev/client";
    /// On a Secret that a spec reads: its owner's consent, value `true`.
    pub const CREDENTIALS: &str = "dcr-operator.dev/credentials";
}

/// Annotations on an OAuthClient.
pub mod annotations {
    /// Written by the operator: the last registration attempt (intent, and how it ended).
    pub const ATTEMPT: &str = "dcr-operator.dev/registration-attempt";
    /// Set by people: reconcile now; any new value counts.
    pub const RECONCILE: &str = "dcr-operator.dev/reconcile-requested-at";
    /// Set by people: rotate the credentials now; any new value counts.
    pub const ROTATE: &str = "dcr-operator.dev/rotate-requested-at";
    /// On a workload's pod template: the credentials that it was restarted for.
    pub const RESTARTED_FOR: &str = "dcr-operator.dev/credentials-rotated-at";
    /// Set by people: `"true"` stops everything but deletion.
    pub const PAUSED: &str = "dcr-operator.dev/paused";
    /// Set by people: `"true"` gives up on the server when the client is deleted.
    pub const FORCE_DELETE: &str = "dcr-operator.dev/force-delete";
}

/// Condition types.
pub mod conditions {
    pub const READY: &str = "Ready";
    pub const RECONCILING: &str = "Reconciling";
    pub const STALLED: &str = "Stalled";

    pub const ACCEPTED: &str = "Accepted";
    pub const REGISTERED: &str = "Registered";
    pub const IN_SYNC: &str = "InSync";
    pub const SECRET_SYNCED: &str = "SecretSynced";

    pub const DISCOVERY_RESOLVED: &str = "DiscoveryResolved";
    pub const CREDENTIALS_VALID: &str = "CredentialsValid";
}

/// Condition reasons. They are API: people write alerts on them.
///
/// Reasons of failed calls come from [`crate::dcr::Error::reason`].
pub mod reasons {
    pub const READY: &str = "Ready";
    pub const PROGRESSING: &str = "Progressing";
    pub const PROGRESSING_WITH_RETRY: &str = "ProgressingWithRetry";
    pub const SUSPENDED: &str = "Suspended";
    pub const KUBERNETES_UNAVAILABLE: &str = "KubernetesUnavailable";
    pub const SERVER_UNAVAILABLE: &str = "ServerUnavailable";

    pub const ACCEPTED: &str = "Accepted";
    pub const POLICY_DENIED: &str = "PolicyDenied";
    pub const PROFILE_NOT_FOUND: &str = "ProfileNotFound";
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    pub const INVALID_METADATA: &str = "InvalidMetadata";
    pub const PROFILE_NOT_READY: &str = "ProfileNotReady";

    /// Of an event: a policy that only audits would have denied the client.
    pub const POLICY_AUDITED: &str = "PolicyAudited";
    /// Of a DcrPolicy that can't be satisfied, or that has a part which can't match anything.
    pub const CONTRADICTORY: &str = "Contradictory";

    pub const REGISTERED: &str = "Registered";
    pub const ADOPTED: &str = "Adopted";
    pub const REPLACED: &str = "Replaced";
    pub const CLIENT_CONFLICT: &str = "ClientConflict";
    pub const SECRET_EXPIRED: &str = "SecretExpired";
    pub const REGISTRATION_LOST: &str = "RegistrationLost";
    pub const OUTCOME_UNKNOWN: &str = "OutcomeUnknown";

    pub const IN_SYNC: &str = "InSync";
    pub const METADATA_REPLACED: &str = "MetadataReplaced";
    pub const DRIFTED: &str = "Drifted";
    pub const SECRET_EXPIRING: &str = "SecretExpiring";
    pub const REGISTRATION_ACCESS_TOKEN_EXPIRING: &str = "RegistrationAccessTokenExpiring";
    pub const UPDATE_UNSUPPORTED: &str = "UpdateUnsupported";
    pub const UPDATE_REJECTED: &str = "UpdateRejected";
    pub const NOT_COMPARED: &str = "NotCompared";

    pub const SECRET_SYNCED: &str = "SecretSynced";
    pub const TEMPLATE_ERROR: &str = "TemplateError";
    pub const SECRET_CONFLICT: &str = "SecretConflict";
    pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

    pub const METADATA_FETCHED: &str = "MetadataFetched";
    pub const ENDPOINTS_GIVEN: &str = "EndpointsGiven";
    pub const INVALID_ENDPOINT: &str = "InvalidEndpoint";
    pub const NO_REGISTRATION_ENDPOINT: &str = "NoRegistrationEndpoint";
    pub const TOKEN_OBTAINED: &str = "TokenObtained";
    pub const TOKEN_REQUEST_REJECTED: &str = "TokenRequestRejected";
    pub const NOT_REQUIRED: &str = "NotRequired";
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    pub const SECRET_NOT_LABELLED: &str = "SecretNotLabelled";
    pub const DISCOVERY_FAILED: &str = "DiscoveryFailed";
}
