//! `OAuthClient`: one registered client, and the Secret that carries its credentials.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{client_metadata::ClientMetadata, schema};

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
    printcolumn(name = "Expires", type_ = "date", json_path = ".status.clientSecretExpiresAt", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must have at most 63 characters: it becomes a label value"),
    validation = Rule::new("!has(self.spec.secret) || !has(self.spec.secret.name) || self.spec.secret.name != self.metadata.name + '-registration'").message("spec.secret.name must not be the OAuthClient's name followed by -registration: that Secret is the operator's own"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.clientMetadata) != has(self.templateId)")
        .message("set exactly one of clientMetadata (the client states its own metadata) and templateId (the server has a template for it)")
        .reason(Reason::FieldValueRequired)
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

    /// The names of the keys: `ServiceBinding` (`client-id`, ...), `Env` (`CLIENT_ID`, ...) or `Rfc7591` (`client_id`, ...).
    #[serde(default)]
    pub format: SecretFormat,
}

impl Default for SecretTarget {
    fn default() -> Self {
        Self { name: None, type_: default_secret_type(), format: SecretFormat::default() }
    }
}

fn default_secret_type() -> String {
    "Opaque".into()
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

    /// When the server issued the client identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id_issued_at: Option<Time>,

    /// When the client secret ends; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_expires_at: Option<Time>,

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

    /// Registration attempts whose answer never arrived: the server may hold a client that nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["attempt".into()]))]
    pub possible_orphans: Vec<PossibleOrphan>,

    /// The last value of the annotation `dcr-operator.dev/reconcile-requested-at` that has been handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,

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

/// A registration attempt without an answer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PossibleOrphan {
    /// The attempt's id; it is in the operator's log.
    pub attempt: String,

    /// When the attempt was started: look on the server for clients that were registered from then on.
    pub started_at: Time,
}
