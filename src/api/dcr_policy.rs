//! `DcrPolicy`: what may be registered through the profiles of its namespace.

mod schema;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema, core::Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use schema::reserved_members;

/// What may be registered through the TokenProfiles of the policy's own namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dcr-operator.dev",
    version = "v1alpha1",
    kind = "DcrPolicy",
    plural = "dcrpolicies",
    shortname = "dcrp",
    category = "dcr",
    namespaced,
    status = "DcrPolicyStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What may be registered through the TokenProfiles of the policy's own namespace. All policies that apply must allow a client; an absent field restricts nothing, an empty list allows nothing. Belongs to the platform team.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profileRef.name"),
    printcolumn(name = "Enforcement", type_ = "string", json_path = ".spec.enforcement"),
    printcolumn(name = "Matching", type_ = "integer", json_path = ".status.clients.matching"),
    printcolumn(name = "Violating", type_ = "integer", json_path = ".status.clients.violating"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DcrPolicySpec {
    /// The one profile that the policy is about. Left out: every profile of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_ref: Option<PolicyProfileRef>,

    /// The namespaces whose OAuthClients the policy is about, by their labels. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespace_selector")]
    pub namespace_selector: Option<LabelSelector>,

    /// `Enforce`: what the policy forbids is refused. `Audit`: it is reported on the client and in the policy's status,
    /// and nothing is refused.
    #[serde(default)]
    pub enforcement: Enforcement,

    /// How clients may be registered: `NonTemplatized` (with clientMetadata), `Templatized` (with templateId). Without
    /// `Templatized`, clientMetadata must not have a `software_id` either: some servers take it for a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub registration_modes: Option<Vec<RegistrationMode>>,

    /// The templates that a client may be made from: values of templateId, and of `software_id` in clientMetadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_templates: Option<Vec<String>>,

    /// The grant types (capabilities) that a client may have. A client without `grant_types` has `authorization_code`
    /// (RFC 7591 section 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_grant_types: Option<Vec<String>>,

    /// The response types that a client may have; the order of the words in `code id_token` means nothing. A client
    /// without `response_types` has `code` (RFC 7591 section 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_response_types: Option<Vec<String>>,

    /// The scope values that a client may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_scopes: Option<Vec<String>>,

    /// The authenticators that a client may name: values of `default_acr_values`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_authenticators: Option<Vec<String>>,

    /// How a client may authenticate at the token endpoint. A client without `token_endpoint_auth_method` has
    /// `client_secret_basic` (RFC 7591 section 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_token_endpoint_auth_methods: Option<Vec<String>>,

    /// Where a server may send a browser: each of `redirect_uris`, `post_logout_redirect_uris` and
    /// `claims_redirect_uris` must match one of these. A URI with user information, with characters that need encoding,
    /// with dot segments, or with an encoded slash, backslash, dot or percent sign in its path matches none; neither
    /// may a client have `allow_per_request_redirect_uris`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub allowed_redirect_uris: Option<Vec<RedirectUriRule>>,

    /// Whether `require_proof_key` (PKCE, RFC 7636) must be true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_pkce: Option<bool>,

    /// The longest `access_token_ttl` that a client may have, such as `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::lifetime)]
    pub max_access_token_ttl: Option<Duration>,

    /// The longest `refresh_token_ttl` that a client may have, such as `720h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::lifetime)]
    pub max_refresh_token_ttl: Option<Duration>,

    /// The names that a client may have in additionalMetadata; a name with a language tag (`client_name#de`) is a name
    /// of its own. A name of clientMetadata is never allowed there, whatever the case of its letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::additional_names)]
    pub allowed_additional_metadata: Option<Vec<String>>,

    /// How many OAuthClients of one namespace the policy allows, the oldest first; the rest is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 0, max = 100_000))]
    pub max_clients_per_namespace: Option<u32>,
}

/// A TokenProfile in the policy's own namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyProfileRef {
    /// Name of the TokenProfile.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// See [`DcrPolicySpec::enforcement`].
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforcement {
    #[default]
    Enforce,
    Audit,
}

/// A way to register a client.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistrationMode {
    NonTemplatized,
    Templatized,
}

impl RegistrationMode {
    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NonTemplatized => "NonTemplatized",
            Self::Templatized => "Templatized",
        }
    }
}

/// A set of redirect URIs, by the parts of a URI.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.port) && has(self.anyPort) && self.anyPort)")
        .message("port and anyPort exclude each other: leave one of them out")
)]
#[x_kube(
    validation = Rule::new("has(self.host) || !(self.scheme in ['https', 'http'])")
        .message("an https or http URI has a host: set host")
)]
#[x_kube(
    validation = Rule::new("has(self.host) || !(has(self.port) || has(self.anyPort) && self.anyPort)")
        .message("port and anyPort go with host")
)]
pub struct RedirectUriRule {
    /// The scheme, in lower case: `https`, `http`, or one of an application's own such as `com.example.shop`.
    #[schemars(transform = schema::scheme)]
    pub scheme: String,

    /// The host, in lower case: a name (an international one in punycode), `*.` and a name for any subdomain of it (and
    /// not the name itself; a subdomain in punycode must be listed), an IPv4 address, or an IPv6 address in brackets.
    /// Left out: only URIs without a host, such as `com.example.shop:/callback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::host)]
    pub host: Option<String>,

    /// The port. Without it and anyPort: the scheme's default port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    pub port: Option<u16>,

    /// Any port, as the loopback redirects of native applications need it (RFC 8252 section 7.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any_port: Option<bool>,

    /// The path, and what is below it: `/callback` matches `/callback` and `/callback/x`, and not `/callbacks`. Left
    /// out: any path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::path_prefix)]
    pub path_prefix: Option<String>,
}

/// What the policy does at present.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DcrPolicyStatus {
    /// The generation that the rest of the status is about; -1 until the operator has seen the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The OAuthClients that the policy is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<PolicyClients>,

    /// `Ready`; `Reconciling` and `Stalled` only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Numbers of OAuthClients.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyClients {
    /// OAuthClients that the policy applies to.
    pub matching: i64,
    /// Those of them that it forbids, or would forbid if it did not only audit.
    pub violating: i64,
}
