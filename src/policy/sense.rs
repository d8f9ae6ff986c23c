//! Policies that contradict themselves: they are enforced all the same, and their status says what is wrong.

use super::redirect_uri;
use crate::api::{DcrPolicySpec, RegistrationMode};

/// What makes no sense about the policy, whatever clients there are; `None` if it can be meant so.
#[must_use]
pub fn contradiction(spec: &DcrPolicySpec) -> Option<String> {
    let modes = spec.registration_modes.as_deref();
    let can_be = |mode| modes.is_none_or(|modes| modes.contains(&mode));
    let templates_only = !can_be(RegistrationMode::NonTemplatized);
    if modes.is_some_and(<[_]>::is_empty) {
        return Some("registrationModes is empty: every client is refused".into());
    }
    if let Some(templates) = &spec.allowed_templates {
        if templates_only && templates.is_empty() {
            return Some(
                "registrationModes asks for a template and allowedTemplates has none: every client is refused".into(),
            );
        }
        if !templates.is_empty() && !can_be(RegistrationMode::Templatized) {
            return Some(
                "allowedTemplates names templates and registrationModes has no Templatized: no client can use them"
                    .into(),
            );
        }
    }
    if !templates_only && spec.allowed_token_endpoint_auth_methods.as_ref().is_some_and(Vec::is_empty) {
        return Some(
            "allowedTokenEndpointAuthMethods is empty: every client with clientMetadata is refused, because each has a \
             method, client_secret_basic by default; allow none for public clients"
                .into(),
        );
    }
    if spec.max_clients_per_namespace == Some(0) {
        return Some("maxClientsPerNamespace is 0: every client is refused".into());
    }
    if let Some(selector) = &spec.namespace_selector {
        for requirement in selector.match_expressions.iter().flatten() {
            let key = &requirement.key;
            let values = requirement.values.as_deref().unwrap_or_default();
            let label = selector.match_labels.as_ref().and_then(|labels| labels.get(key));
            let contradicts = |value: &String| match requirement.operator.as_str() {
                "In" => !values.contains(value),
                "NotIn" => values.contains(value),
                "DoesNotExist" => true,
                _ => false,
            };
            if label.is_some_and(contradicts) {
                return Some(format!(
                    "namespaceSelector contradicts itself about the label {key}: it can select no namespace"
                ));
            }
        }
    }
    for (index, rule) in spec.allowed_redirect_uris.iter().flatten().enumerate() {
        if !redirect_uri::can_exist(rule) {
            let host = rule.host.as_deref().unwrap_or_default();
            return Some(format!(
                "allowedRedirectUris[{index}].host {host} is no host name that browsers know: no URI can match it"
            ));
        }
    }
    None
}
