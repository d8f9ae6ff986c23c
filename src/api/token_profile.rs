//! `TokenProfile`: one authorization server, and how to get an initial access token there.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One authorization server: where it is, how to get an initial access token there, and who may use it.
///
/// Give `issuer` (the endpoints are then discovered) or both `endpoints`.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dcr-operator.dev",
    version = "v1alpha1",
    kind = "TokenProfile",
    plural = "tokenprofiles",
    shortname = "tprof",
    category = "dcr",
    namespaced,
    status = "TokenProfileStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "One authorization server: where it is, how to get an initial access token there, and who may register clients through it. Belongs to the platform team.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Issuer", type_ = "string", json_path = ".status.issuer"),
    printcolumn(name = "Clients", type_ = "integer", json_path = ".status.clients"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.issuer) || (has(self.endpoints) && has(self.endpoints.token) && has(self.endpoints.registration))")
        .message("set issuer, or both endpoints.token and endpoints.registration")
        .reason(Reason::FieldValueRequired)
)]
pub struct TokenProfileSpec {
    /// The issuer identifier, exactly as the server's metadata states it. The endpoints are discovered from it: OpenID
    /// Connect Discovery first, then RFC 8414.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("isURL(self) && (self.startsWith('https://') || self.startsWith('http://')) && !self.contains('?') && !self.contains('#') && !self.contains('@')")
            .message("issuer must be an https:// URL without user, query and fragment (http:// only if the operator runs with --allow-insecure-http)")
    )]
    pub issuer: Option<String>,

    /// Endpoints that override discovery. With both set, `issuer` may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,

    /// How to get the initial access token of RFC 7591 section 3. Left out: open registration, no token is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_access_token: Option<InitialAccessToken>,

    /// Trust in the authorization server's certificate. Left out: the operator's own trust store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// Which namespaces' OAuthClients may use this profile.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,

    /// How hard the operator may press the server, over all clients of this profile.
    #[serde(default)]
    pub limits: Limits,

    /// Stops all calls to the server for this profile, but the removal of deleted clients; existing Secrets stay.
    #[serde(default)]
    pub suspend: bool,
}

/// Endpoint URLs that override discovery.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// The token endpoint (RFC 6749 section 3.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("isURL(self) && (self.startsWith('https://') || self.startsWith('http://')) && !self.contains('#') && !self.contains('@')")
            .message("must be an https:// URL without user and fragment (http:// only if the operator runs with --allow-insecure-http)")
    )]
    pub token: Option<String>,

    /// The client registration endpoint (RFC 7591 section 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("isURL(self) && (self.startsWith('https://') || self.startsWith('http://')) && !self.contains('#') && !self.contains('@')")
            .message("must be an https:// URL without user and fragment (http:// only if the operator runs with --allow-insecure-http)")
    )]
    pub registration: Option<String>,
}

/// Exactly one way to get an initial access token.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.clientCredentials) != has(self.bearerToken)")
        .message("set exactly one of clientCredentials and bearerToken; leave initialAccessToken out for open registration")
)]
pub struct InitialAccessToken {
    /// Obtain a fresh token for each registration attempt by the client credentials grant (RFC 6749 section 4.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_credentials: Option<ClientCredentials>,

    /// Use a token that was issued beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<BearerToken>,
}

/// A client that may obtain initial access tokens.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCredentials {
    /// The client's id at the token endpoint.
    #[schemars(length(min = 1, max = 256))]
    pub client_id: String,

    /// The Secret with the client's secret; key `client-secret` unless given. It must carry the label
    /// `dcr-operator.dev/credentials: "true"`.
    pub secret_ref: SecretKeyRef,

    /// The scope to ask for; `""` asks for none.
    #[serde(default = "default_scope")]
    #[schemars(length(max = 1024))]
    pub scope: String,

    /// How the client authenticates at the token endpoint.
    #[serde(default)]
    pub auth_method: ClientAuthMethod,

    /// Further form parameters of the token request, such as `audience` or `resource`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(
        validation = Rule::new("self.all(name, !(name in ['grant_type', 'client_id', 'client_secret', 'scope', 'client_assertion', 'client_assertion_type']))")
            .message("grant_type, scope and the client's own credentials have fields of their own")
    )]
    pub parameters: BTreeMap<String, ParameterValue>,
}

/// A form parameter's value.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParameterValue(#[schemars(length(max = 1024))] pub String);

fn default_scope() -> String {
    "dcr".into()
}

/// Client authentication at the token endpoint (RFC 6749 section 2.3.1).
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMethod {
    #[default]
    ClientSecretBasic,
    ClientSecretPost,
}

/// An initial access token that was issued beforehand.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BearerToken {
    /// The Secret with the token; key `token` unless given. It must carry the label
    /// `dcr-operator.dev/credentials: "true"`.
    pub secret_ref: SecretKeyRef,
}

/// A key of a Secret in the object's own namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret's data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// TLS towards the authorization server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificates to trust, in PEM. They are the only ones that this profile trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
}

/// A key of a ConfigMap or Secret that holds PEM certificates.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaBundleRef {
    /// Where the bundle is. A Secret must carry the label `dcr-operator.dev/credentials: "true"`.
    #[serde(default)]
    pub kind: CaBundleKind,

    /// Name of the ConfigMap or Secret, in the profile's own namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in its data.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".into()
}

/// Kind of the object that holds a CA bundle.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaBundleKind {
    #[default]
    ConfigMap,
    Secret,
}

/// Which namespaces may refer to the profile.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.from) && self.from == 'Selector') == has(self.selector)")
        .message("selector goes with from: Selector, and only with it")
)]
pub struct AllowedNamespaces {
    /// `Same`: the profile's own namespace. `All`: every namespace. `Selector`: those whose labels match `selector`.
    #[serde(default)]
    pub from: NamespacesFrom,

    /// Selects namespaces by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = StructMerge::Atomic)]
    pub selector: Option<LabelSelector>,
}

/// See [`AllowedNamespaces::from`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespacesFrom {
    #[default]
    Same,
    All,
    Selector,
}

/// Limits for calls to the server.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Calls under way at the same time.
    #[serde(default = "default_concurrency")]
    #[schemars(with = "i32", range(min = 1, max = 256))]
    pub max_concurrent_requests: u16,

    /// Calls started per second; 0 = no limit.
    #[serde(default)]
    #[schemars(with = "i32", range(min = 0, max = 10000))]
    pub requests_per_second: u16,

    /// How long one call may take, connection included.
    #[serde(default = "default_timeout")]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('100ms') && duration(self) <= duration('2m')")
            .message("requestTimeout must be a duration between 100ms and 2m, such as 10s")
    )]
    #[schemars(length(max = 16))]
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_concurrent_requests: default_concurrency(),
            requests_per_second: 0,
            request_timeout: default_timeout(),
        }
    }
}

fn default_concurrency() -> u16 {
    8
}

fn default_timeout() -> Duration {
    std::time::Duration::from_secs(10).into()
}

/// What the operator knows about the authorization server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenProfileStatus {
    /// The generation that the rest of the status is about; -1 until the operator has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The issuer, as discovered or given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,

    /// The token endpoint in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,

    /// The registration endpoint in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_endpoint: Option<String>,

    /// The authorization endpoint that discovery told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_endpoint: Option<String>,

    /// The JWK set that discovery told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,

    /// The userinfo endpoint that discovery told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userinfo_endpoint: Option<String>,

    /// When the token of `bearerToken` ends, where it can be known (a JWT with `exp`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_access_token_expires_at: Option<Time>,

    /// How many OAuthClients name this profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<i64>,

    /// `Ready`, `DiscoveryResolved`, `CredentialsValid`; `Reconciling` and `Stalled` only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
