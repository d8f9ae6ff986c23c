//! `DcrPolicy`: what may be registered through the profiles of its namespace.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

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
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profileRef.name"),
    printcolumn(name = "Matching", type_ = "integer", json_path = ".status.clients.matching"),
    printcolumn(name = "Violating", type_ = "integer", json_path = ".status.clients.violating"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DcrPolicySpec {
    /// The one profile that the policy is about. Left out: every profile of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_ref: Option<PolicyProfileRef>,

    /// The grant types (capabilities) that a client may have. A client without `grant_types` has `authorization_code`
    /// (RFC 7591 section 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_grant_types: Option<Vec<String>>,

    /// The scope values that a client may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_scopes: Option<Vec<String>>,
}

/// A TokenProfile in the policy's own namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyProfileRef {
    /// Name of the TokenProfile.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
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
    /// Those of them that it forbids.
    pub violating: i64,
}
