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
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
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
    validation = Rule::new("!has(self.initialAccessToken) || !has(self.initialAccessToken.clientCredentials) || !has(self.initialAccessToken.clientCredentials.authMethod) || self.initialAccessToken.clientCredentials.authMethod != 'tls_client_auth' || (has(self.tls) && has(self.tls.clientCertificateSecretRef))")
        .message("authMethod tls_client_auth needs tls.clientCertificateSecretRef"),
    validation = Rule::new("!has(self.server) || !has(self.server.managementClient) || !has(self.server.managementClient.authMethod) || self.server.managementClient.authMethod != 'tls_client_auth' || (has(self.tls) && has(self.tls.clientCertificateSecretRef))")
        .message("server.managementClient: authMethod tls_client_auth needs tls.clientCertificateSecretRef"),
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

    /// How the server behaves where servers differ.
    #[serde(default)]
    pub server: ServerBehaviour,

    /// TLS towards the authorization server. Left out: the operator's own trust store, and no client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// Which namespaces' OAuthClients may use this profile.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,

    /// How hard the operator may press the server, over all clients of this profile.
    #[serde(default)]
    pub limits: Limits,

    /// How often clients are compared with what the server holds, each at its own time within the interval; `0s` = never.
    /// Not done where reading a client rotates its credentials.
    #[serde(default = "default_resync")]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && (duration(self) == duration('0s') || duration(self) >= duration('10s')) && duration(self) <= duration('720h')")
            .message("resyncInterval must be 0s or a duration between 10s and 720h, such as 1h")
    )]
    #[schemars(length(max = 16))]
    pub resync_interval: Option<Duration>,

    /// Stops all calls to the server for this profile, but the removal of deleted clients; existing Secrets stay.
    #[serde(default)]
    pub suspend: bool,
}

#[allow(clippy::unnecessary_wraps)]
fn default_resync() -> Option<Duration> {
    Some(std::time::Duration::from_hours(1).into())
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

    /// Whether a token of `clientCredentials` serves for more than one registration: `Never` fetches a fresh one for each
    /// attempt, `UntilExpiry` keeps it until shortly before it ends.
    #[serde(default)]
    pub reuse: TokenReuse,
}

/// See [`InitialAccessToken::reuse`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenReuse {
    #[default]
    Never,
    UntilExpiry,
}

/// A client of the platform team, for the client credentials grant (RFC 6749 section 4.4).
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretRef) != (has(self.authMethod) && self.authMethod == 'tls_client_auth')")
        .message("set secretRef, except with authMethod tls_client_auth, which uses tls.clientCertificateSecretRef")
        .reason(Reason::FieldValueRequired)
)]
pub struct ClientCredentials {
    /// The client's id at the token endpoint.
    #[schemars(length(min = 1, max = 256))]
    pub client_id: String,

    /// The Secret with the client's secret (key `client-secret` unless given) or, with `private_key_jwt`, with its private
    /// key as PKCS#8 PEM (key `private-key` unless given, and its key id under `key-id`, if there is one). It must carry
    /// the label `dcr-operator.dev/credentials: "true"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,

    /// The scope to ask for; `""` asks for none. Left out: `dcr` for initial access tokens and `dcrm` for the management
    /// client; none with `server.type: Keycloak`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub scope: Option<String>,

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

/// Client authentication at the token endpoint (RFC 6749 section 2.3.1, RFC 7523, RFC 8705).
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMethod {
    #[default]
    ClientSecretBasic,
    ClientSecretPost,
    PrivateKeyJwt,
    TlsClientAuth,
}

/// How the server behaves where servers differ. What is left out is as usual for its `type`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerBehaviour {
    /// The product, for the defaults of the other fields. `Keycloak` moreover leaves `openid` out of the registered scope.
    #[serde(default, rename = "type")]
    pub type_: ServerType,

    /// Reading a client (RFC 7592 section 2.1) issues a new registration access token and a new client secret: then
    /// nothing is read on a timer, and credentials are rotated by reading. Default: true for `Curity`, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_rotates_credentials: Option<bool>,

    /// What an update does with members that it leaves out: `Replace` empties them (RFC 7592 section 2.2), `Merge` keeps
    /// them, so that they must be emptied explicitly. Default: `Merge` for `Keycloak`, else `Replace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UpdateSemantics")]
    pub update_semantics: Option<UpdateSemantics>,

    /// How long a registration access token can be used to read and update its client; it is renewed before it ends. Left
    /// out: as the server's answer says, 672h for `Curity`, else for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1m') && duration(self) <= duration('87600h')")
            .message("registrationAccessTokenLifetime must be a duration between 1m and 87600h, such as 672h")
    )]
    #[schemars(length(max = 16))]
    pub registration_access_token_lifetime: Option<Duration>,

    /// A client whose access token manages any client: for adoption, and where a registration access token is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_client: Option<ManagementClient>,
}

/// A client of the platform team whose access token reads, changes and deletes any client of the server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagementClient {
    #[serde(flatten)]
    pub credentials: ClientCredentials,

    /// The namespaces whose OAuthClients may adopt clients (`spec.adopt`) by this management client, without their
    /// registration access token. Whoever may adopt a client gets its secret: such a namespace can take over any client of
    /// the server that no OAuthClient of this profile has. The namespace must be among the profile's `allowedNamespaces`,
    /// too. Clients that are adopted already, and adoptions with a registration access token, do not depend on it.
    #[serde(default)]
    pub adoption_namespaces: AllowedNamespaces,
}

/// An authorization server product.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerType {
    #[default]
    Generic,
    Curity,
    Keycloak,
    Hydra,
}

/// See [`ServerBehaviour::update_semantics`].
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateSemantics {
    Replace,
    Merge,
}

impl ServerBehaviour {
    /// See [`ServerBehaviour::read_rotates_credentials`].
    #[must_use]
    pub fn reading_rotates(&self) -> bool {
        self.read_rotates_credentials.unwrap_or(self.type_ == ServerType::Curity)
    }

    /// Whether an update keeps the members that it leaves out.
    #[must_use]
    pub fn updates_merge(&self) -> bool {
        self.update_semantics
            .map_or(self.type_ == ServerType::Keycloak, |semantics| semantics == UpdateSemantics::Merge)
    }

    /// See [`ServerBehaviour::registration_access_token_lifetime`].
    #[must_use]
    pub fn token_lifetime(&self) -> Option<std::time::Duration> {
        let curity = (self.type_ == ServerType::Curity).then_some(std::time::Duration::from_hours(672));
        self.registration_access_token_lifetime.map(Into::into).or(curity)
    }

    /// Whether `openid` is a scope that a client registers.
    #[must_use]
    pub fn registers_openid(&self) -> bool {
        self.type_ != ServerType::Keycloak
    }

    /// The scope of a token request that names none.
    #[must_use]
    pub fn default_scope(&self, usual: &'static str) -> Option<&'static str> {
        (self.type_ != ServerType::Keycloak).then_some(usual)
    }
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

    /// The operator's own certificate towards the server: a Secret of type `kubernetes.io/tls`, with the label
    /// `dcr-operator.dev/credentials: "true"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<SecretRef>,
}

/// A Secret in the object's own namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
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

    /// The token endpoint for those who show a certificate (RFC 8705 section 5), as the server's metadata tell it: the
    /// operator's own with `authMethod: tls_client_auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls_token_endpoint: Option<String>,

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
