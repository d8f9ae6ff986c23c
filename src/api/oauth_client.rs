//! `OAuthClient`: one registered client, and the Secret that carries its credentials.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{client_metadata::ClientMetadata, schema, token_profile::SecretRef};

/// One OAuth client at an authorization server.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dcr-operator.dev",
    version = "v1alpha1",
    kind = "OAuthClient",
    plural = "oauthclients",
    shortname = "oac",
    category = "dcr",
    namespaced,
    status = "OAuthClientStatus",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".spec.profileRef.name",
    selectable = ".spec.secret.name",
    doc = "One OAuth client: the operator registers it at the authorization server of its TokenProfile (RFC 7591), keeps it as the spec says, and keeps its credentials in a Secret. Belongs to the application team.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Client ID", type_ = "string", json_path = ".status.clientId"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.binding.name"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profileRef.name", priority = 1),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.clientSecretExpiresAt", priority = 1),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must have at most 63 characters: it becomes a label value"),
    validation = Rule::new("!has(self.spec.secret) || !has(self.spec.secret.name) || self.spec.secret.name != self.metadata.name + '-registration'").message("spec.secret.name must not be the OAuthClient's name followed by -registration: that Secret is the operator's own"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.clientMetadata) != has(self.templateId)")
        .message("set exactly one of clientMetadata (the client states its own metadata) and templateId (the server has a template for it)")
        .reason(Reason::FieldValueRequired),
    validation = Rule::new("!has(self.keys) || (has(self.clientMetadata) && !has(self.clientMetadata.jwks) && !has(self.clientMetadata.jwks_uri))")
        .message("keys goes with clientMetadata, and excludes its jwks and jwks_uri: the operator registers the public keys")
        .field_path(".keys"),
    validation = Rule::new("!has(self.keys) || !has(self.clientMetadata) || !has(self.clientMetadata.token_endpoint_auth_method) || self.clientMetadata.token_endpoint_auth_method == 'private_key_jwt'")
        .message("with keys, clientMetadata.token_endpoint_auth_method is private_key_jwt: leave it out")
        .field_path(".clientMetadata.token_endpoint_auth_method")
)]
pub struct OAuthClientSpec {
    /// The TokenProfile to register at. Immutable: make a new OAuthClient to move to another server.
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("profileRef is immutable: make a new OAuthClient to register at another profile")
            .reason(Reason::FieldValueForbidden)
    )]
    pub profile_ref: ProfileRef,

    /// The client metadata of RFC 7591 under its wire names, sent as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_metadata: Option<ClientMetadata>,

    /// Vendor-specific and custom members, and language-tagged names such as `client_name#de`; merged into the request.
    /// Free-form. Names that clientMetadata knows belong there.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "schema::free_form_map")]
    pub additional_metadata: Map<String, Value>,

    /// The template that the server makes the client from (templatized registration); sent as `software_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub template_id: Option<String>,

    /// The Secret that carries the credentials.
    #[serde(default)]
    pub secret: SecretTarget,

    /// The client authenticates by `private_key_jwt` (RFC 7523) with a key pair that the operator makes: the public key is
    /// registered as `jwks`, the private key goes to the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Keys>,

    /// Scheduled rotation of the client secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,

    /// When a *new* client, with a new client id, may take the place of the old one. Left out: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,

    /// Take over a client that exists on the server, instead of registering one. Without effect once it is taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,

    /// Workloads of the same namespace that are restarted once for each new set of credentials, as
    /// `kubectl rollout restart` does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub rollout_restart_targets: Vec<RolloutRestartTarget>,

    /// What happens to the registration when the OAuthClient is deleted: `Delete` removes it on the server, `Retain` leaves it.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Stops all work on this client, except its deletion; what exists stays.
    #[serde(default)]
    pub suspend: bool,
}

/// A TokenProfile.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProfileRef {
    /// Name of the TokenProfile.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Its namespace, if it is not the client's own. The profile must allow the client's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// The application's Secret.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretTarget {
    /// Name of the Secret; the OAuthClient's own name unless given. A Secret of that name that is not the operator's is
    /// never touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("!format.dns1123Subdomain().validate(self).hasValue()")
            .message("secret.name must be a DNS-1123 subdomain: lower case letters, digits, '-' and '.'")
    )]
    pub name: Option<String>,

    /// Type of the Secret, such as `servicebinding.io/oauth2`.
    #[serde(default = "default_secret_type", rename = "type")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("!self.startsWith('kubernetes.io/') && !self.startsWith('bootstrap.kubernetes.io/') && self != 'dcr-operator.dev/registration'")
            .message("secret.type must not be one of Kubernetes' own types or of the operator's")
    )]
    pub type_: String,

    /// Labels for the Secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(
        validation = Rule::new("self.all(name, !name.startsWith('dcr-operator.dev/') && name != 'app.kubernetes.io/managed-by')")
            .message("the labels dcr-operator.dev/* and app.kubernetes.io/managed-by are the operator's own")
    )]
    pub labels: BTreeMap<String, LabelValue>,

    /// Annotations for the Secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(
        validation = Rule::new("self.all(name, !name.startsWith('dcr-operator.dev/'))")
            .message("the annotations dcr-operator.dev/* are the operator's own")
    )]
    pub annotations: BTreeMap<String, AnnotationValue>,

    /// Further or overriding keys, rendered with minijinja over the Rfc7591 names: `client_id`, `client_secret`, `issuer`,
    /// `token_endpoint`, `scope`, ... A name that the client does not have is an error; `{{ name | default('') }}` allows
    /// for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(
        validation = Rule::new("self.all(key, key.matches('^[-._a-zA-Z0-9]{1,253}$'))")
            .message("the keys of secret.template are keys of a Secret: letters, digits, '-', '_' and '.'")
    )]
    pub template: BTreeMap<String, TemplateText>,

    /// The names of the keys: `ServiceBinding` (`client-id`, ...), `Env` (`CLIENT_ID`, ...) or `Rfc7591` (`client_id`, ...).
    #[serde(default)]
    pub format: SecretFormat,
}

impl Default for SecretTarget {
    fn default() -> Self {
        Self {
            name: None,
            type_: default_secret_type(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            template: BTreeMap::new(),
            format: SecretFormat::default(),
        }
    }
}

fn default_secret_type() -> String {
    "Opaque".into()
}

/// A label's value.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelValue(
    #[schemars(length(max = 63), regex(pattern = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"))] pub String,
);

/// An annotation's value.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AnnotationValue(#[schemars(length(max = 4096))] pub String);

/// A template.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TemplateText(#[schemars(length(max = 16384))] pub String);

/// Key pairs that the operator makes for the client.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keys {
    /// The signature algorithm (RFC 7518 section 3.1, RFC 8037).
    #[serde(default)]
    pub algorithm: SigningAlgorithm,

    /// How often a new key pair takes the place of the old one; both are registered during `replacement.overlap`. Left
    /// out: only on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1h') && duration(self) <= duration('87600h')")
            .message("keys.rotationInterval must be a duration between 1h and 87600h, such as 720h")
    )]
    #[schemars(length(max = 16))]
    pub rotation_interval: Option<Duration>,
}

/// See [`Keys::algorithm`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SigningAlgorithm {
    #[default]
    ES256,
    RS256,
    EdDSA,
}

/// See [`OAuthClientSpec::rotation`].
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// How often the client secret is rotated, up to a tenth of it earlier, so that not all clients come at once. In place
    /// where the server does that, else by a new client (`replacement.when: [Rotation]`).
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1h') && duration(self) <= duration('87600h')")
            .message("rotation.interval must be a duration between 1h and 87600h, such as 720h")
    )]
    #[schemars(length(max = 16))]
    pub interval: Duration,
}

/// See [`OAuthClientSpec::replacement`].
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacement {
    /// `UpdateUnsupported`: the spec has changed and the server can't change the client. `RegistrationLost`: the server no
    /// longer knows the client, or access to it is lost. `Rotation`: credentials are due for rotation and the server does
    /// not rotate them in place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub when: Vec<ReplacementReason>,

    /// How long the old client stays valid beside the new one; then it is deleted on the server. For `keys`: how long
    /// the old key stays registered.
    #[serde(default = "default_overlap")]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('0s') && duration(self) <= duration('8760h')")
            .message("replacement.overlap must be a duration between 0s and 8760h, such as 24h")
    )]
    #[schemars(length(max = 16))]
    pub overlap: Duration,
}

impl Default for Replacement {
    fn default() -> Self {
        Self { when: Vec::new(), overlap: default_overlap() }
    }
}

fn default_overlap() -> Duration {
    std::time::Duration::from_hours(24).into()
}

/// A case in which a new client may take the place of the old one.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplacementReason {
    UpdateUnsupported,
    RegistrationLost,
    Rotation,
}

/// A client that exists on the server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adopt {
    /// Its client id.
    #[schemars(length(min = 1, max = 1024))]
    pub client_id: String,

    /// Its client configuration endpoint (RFC 7592 section 2). Of it, the path is used, at the origin of the profile's
    /// registration endpoint. Left out: the registration endpoint followed by the client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub registration_client_uri: Option<String>,

    /// The Secret with its `registration-access-token` and `client-secret`, as far as there are any. It must carry the
    /// label `dcr-operator.dev/credentials: "true"`. Left out: the profile's `server.managementClient` reads the
    /// client, if its `adoptionNamespaces` include this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
}

/// A workload that reads the Secret.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRestartTarget {
    /// Kind of the workload.
    #[serde(default)]
    pub kind: WorkloadKind,

    /// Name of the workload, in the client's own namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// See [`RolloutRestartTarget::kind`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadKind {
    #[default]
    Deployment,
    StatefulSet,
    DaemonSet,
}

/// The key names of the application's Secret.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretFormat {
    #[default]
    ServiceBinding,
    Env,
    Rfc7591,
}

/// See [`OAuthClientSpec::deletion_policy`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    #[default]
    Delete,
    Retain,
}

/// What the operator and the server made of the client.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OAuthClientStatus {
    /// The generation that the rest of the status is about; -1 until the operator has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The client identifier that the server issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,

    /// The server has said itself that the client is this object's: it has registered it, or has taken its registration
    /// access token. Only then is the profile's management client used for it; the registration Secret alone, which others
    /// can write, is no proof.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,

    /// When the server issued the client identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id_issued_at: Option<Time>,

    /// When the client secret ends; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_expires_at: Option<Time>,

    /// When the registration access token can no longer be used to read and update the client; absent = not known, or
    /// never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_access_token_expires_at: Option<Time>,

    /// When the credentials were last replaced by new ones; absent = they are the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_rotated_at: Option<Time>,

    /// The client configuration endpoint (RFC 7592 section 2), if the server gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_client_uri: Option<String>,

    /// The Secret with the credentials (a "Provisioned Service" of the Service Binding specification).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,

    /// Members that the server registered with another value than the spec asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub server_changes: Vec<ServerChange>,

    /// Former clients of this object that still exist on the server, until they are deleted there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["clientId".into()]))]
    pub retiring: Vec<RetiringClient>,

    /// Registration attempts whose answer never arrived: the server may hold a client that nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["attempt".into()]))]
    pub possible_orphans: Vec<PossibleOrphan>,

    /// The last value of the annotation `dcr-operator.dev/reconcile-requested-at` that has been handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

    /// The last value of the annotation `dcr-operator.dev/rotate-requested-at` that has been handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_rotate_at: Option<String>,

    /// `Ready`, `Accepted`, `Registered`, `InSync`, `SecretSynced`; `Reconciling` and `Stalled` only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A Secret in the same namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Name of the Secret.
    pub name: String,
}

/// A member that the server registered differently (RFC 7591 section 3.2.1 allows that).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerChange {
    /// The member's name.
    pub name: String,

    /// The value asked for.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schemars(schema_with = "schema::free_form")]
    pub requested: Value,

    /// The value registered; absent = the server dropped the member.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schemars(schema_with = "schema::free_form")]
    pub registered: Value,
}

/// A former client.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetiringClient {
    /// Its client id.
    pub client_id: String,

    /// As `status.confirmed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,

    /// Its client configuration endpoint, if the server gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_client_uri: Option<String>,

    /// When it is deleted on the server.
    pub delete_after: Time,
}

/// A registration attempt without an answer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PossibleOrphan {
    /// The attempt's id; it is in the operator's log.
    pub attempt: String,

    /// When the attempt was started: look on the server for clients that were registered from then on.
    pub started_at: Time,
}
