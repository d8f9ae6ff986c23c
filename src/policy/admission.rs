//! The policies' rules in CEL: a ValidatingAdmissionPolicy whose parameters are DcrPolicies, so that `kubectl apply` of a
//! forbidden client is refused with the words of [`super::Violation`], and no webhook server is needed.
//!
//! CEL sees one client and one policy. How many other clients there are (`maxClientsPerNamespace`) and what the server
//! answers, it can't see.

use k8s_openapi::{
    api::admissionregistration::v1::{
        AuditAnnotation, MatchCondition, MatchResources, NamedRuleWithOperations, ParamKind, ParamRef,
        ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec,
        ValidatingAdmissionPolicySpec, Validation, Variable,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Resource, api::ObjectMeta};

use super::{
    facts::REDIRECT_MEMBERS,
    redirect_uri::{AMBIGUOUS, WELL_FORMED},
    verdict::{LONGEST_SHOWN, hints},
};
use crate::api::{DcrPolicy, GROUP, OPERATOR, labels, reserved_members};

/// Name of the ValidatingAdmissionPolicy.
pub const NAME: &str = "oauthclients.dcr-operator.dev";

/// The API server takes no longer message than 5 KiB, and a character has at most four bytes.
const LONGEST_MESSAGE: usize = 1200;

/// The ValidatingAdmissionPolicy, as it is committed under `deploy/base/`.
#[must_use]
pub fn policy() -> ValidatingAdmissionPolicy {
    let message = format!(
        "variables.message.size() > {LONGEST_MESSAGE} ? variables.message.substring(0, {LONGEST_MESSAGE}) + '…' : variables.message"
    );
    ValidatingAdmissionPolicy {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            labels: Some([("app.kubernetes.io/name".to_owned(), OPERATOR.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(ValidatingAdmissionPolicySpec {
            failure_policy: Some("Fail".into()),
            param_kind: Some(ParamKind {
                api_version: Some(DcrPolicy::api_version(&()).into_owned()),
                kind: Some(DcrPolicy::kind(&()).into_owned()),
            }),
            match_constraints: Some(MatchResources {
                match_policy: Some("Equivalent".into()),
                resource_rules: Some(vec![NamedRuleWithOperations {
                    api_groups: Some(vec![GROUP.into()]),
                    api_versions: Some(vec!["v1alpha1".into()]),
                    operations: Some(vec!["CREATE".into(), "UPDATE".into()]),
                    resources: Some(vec!["oauthclients".into()]),
                    ..NamedRuleWithOperations::default()
                }]),
                ..MatchResources::default()
            }),
            match_conditions: Some(vec![
                // A finalizer can always be removed.
                condition("is-not-being-deleted", "!has(object.metadata.deletionTimestamp)"),
                // What is there already stays, whatever a newer policy says: only a changed spec is judged.
                condition("spec-has-changed", "request.operation == 'CREATE' || object.spec != oldObject.spec"),
            ]),
            variables: Some(variables()),
            validations: Some(vec![Validation {
                expression: "variables.audited || variables.found.size() == 0".into(),
                message: Some("a DcrPolicy forbids this OAuthClient".into()),
                message_expression: Some(message.clone()),
                reason: Some("Forbidden".into()),
            }]),
            audit_annotations: Some(vec![AuditAnnotation {
                key: "audited".into(),
                value_expression: format!("variables.audited ? string({message}) : ''"),
            }]),
        }),
        status: None,
    }
}

/// Name of the binding for the policies of a namespace.
#[must_use]
pub fn binding_name(namespace: &str) -> String {
    format!("{NAME}.{namespace}")
}

/// The ValidatingAdmissionPolicyBinding that puts the DcrPolicies of a namespace into force.
#[must_use]
pub fn binding(namespace: &str) -> ValidatingAdmissionPolicyBinding {
    ValidatingAdmissionPolicyBinding {
        metadata: ObjectMeta {
            name: Some(binding_name(namespace)),
            labels: Some([(labels::MANAGED_BY.to_owned(), OPERATOR.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(ValidatingAdmissionPolicyBindingSpec {
            policy_name: Some(NAME.into()),
            param_ref: Some(ParamRef {
                namespace: Some(namespace.into()),
                // All of them.
                selector: Some(LabelSelector::default()),
                parameter_not_found_action: Some("Allow".into()),
                name: None,
            }),
            validation_actions: Some(vec!["Deny".into(), "Audit".into()]),
            match_resources: None,
        }),
    }
}

fn condition(name: &str, expression: &str) -> MatchCondition {
    MatchCondition { name: name.into(), expression: expression.into() }
}

/// Set and not null: the API server keeps nulls.
fn given(path: &str) -> String {
    format!("(has({path}) && dyn({path}) != null)")
}

/// A member of the client metadata, or the default.
fn member(name: &str, default: &str) -> String {
    format!("{} ? dyn(variables.metadata.{name}) : {default}", given(&format!("variables.metadata.{name}")))
}

/// Cut as [`super::Violation`] cuts it. `text` is short: it is written three times.
fn cut(text: &str) -> String {
    format!("({text}.size() > {LONGEST_SHOWN} ? {text}.substring(0, {LONGEST_SHOWN}) + '…' : {text})")
}

/// Field, value and hint of each value of a list.
fn violations(field: &str, values: &str, hint: &str) -> String {
    format!("{values}.map(v, ['{field}', string(v), {hint}])")
}

/// The variables are evaluated when they are first used, once, and each has a cost budget of its own.
struct Variables(Vec<Variable>, Vec<String>);

impl Variables {
    fn set(&mut self, name: &str, expression: impl Into<String>) {
        self.0.push(Variable { name: name.into(), expression: expression.into() });
    }

    /// A variable with violations.
    fn judge(&mut self, name: &str, expression: impl Into<String>) {
        self.set(name, expression);
        self.1.push(format!("variables.{name}"));
    }

    /// The values that a list of the policy does not have. `v` is a value, and `permits` finds it in the list.
    fn judge_list(&mut self, field: &str, values: &str, list: &str, permits: &str) {
        let hint = self.hint(list, &format!("params.spec.{list}"));
        let found = violations(field, &format!("{values}.filter(v, !({permits}))"), &hint);
        self.judge(list, format!("{} ? {found} : []", given(&format!("params.spec.{list}"))));
    }

    /// What a list of texts allows.
    fn hint(&mut self, name: &str, list: &str) -> String {
        let (joined, hint) = (format!("{name}Joined"), format!("{name}Hint"));
        self.set(&joined, format!("{list}.join(', ')"));
        let all = cut(&format!("variables.{joined}"));
        self.set(&hint, format!("{list}.size() == 0 ? '{}' : 'allowed: ' + {all}", hints::NOTHING_ALLOWED));
        format!("variables.{hint}")
    }
}

fn variables() -> Vec<Variable> {
    let mut all = Variables(Vec::new(), Vec::new());
    applicability(&mut all);
    client(&mut all);
    registration(&mut all);
    lists(&mut all);
    redirect_uris(&mut all);
    limits(&mut all);
    additional_metadata(&mut all);
    let found = all.1.join(" + ");
    all.set("found", format!("variables.applies ? {found} : []"));
    // On one line: a message with a line break would be replaced.
    let line = ["\\n", "\\r", "\\t"].iter().fold("f[1]".to_owned(), |text, c| format!("{text}.replace('{c}', ' ')"));
    all.set("lines", format!("variables.found.map(f, [f[0], {line}, f[2]])"));
    let value = cut("f[1]");
    let policy = "'DcrPolicy ' + string(params.metadata.name) + ' forbids '";
    all.set("violations", format!("variables.lines.map(f, {policy} + f[0] + ': ' + {value} + ' (' + f[2] + ')')"));
    all.set("message", "variables.violations.join('; ')");
    all.0
}

fn applicability(all: &mut Variables) {
    let selector = "params.spec.namespaceSelector";
    // The namespace is not there yet when match conditions are evaluated.
    all.set("labels", "has(namespaceObject.metadata.labels) ? namespaceObject.metadata.labels : {}");
    let labels = format!(
        "(!{} || {selector}.matchLabels.all(k, k in variables.labels && variables.labels[k] == {selector}.matchLabels[k]))",
        given(&format!("{selector}.matchLabels"))
    );
    let values = format!("({} && e.key in variables.labels && variables.labels[e.key] in e.values)", given("e.values"));
    let expressions = format!(
        "(!{} || {selector}.matchExpressions.all(e, e.operator == 'In' ? {values} : e.operator == 'NotIn' ? !{values} : e.operator == 'Exists' ? e.key in variables.labels : e.operator == 'DoesNotExist' && !(e.key in variables.labels)))",
        given(&format!("{selector}.matchExpressions"))
    );
    let reference = "object.spec.profileRef.namespace";
    all.set(
        "applies",
        format!(
            "({} ? {reference} : request.namespace) == params.metadata.namespace && (!{} || params.spec.profileRef.name == object.spec.profileRef.name) && (!{} || {labels} && {expressions})",
            given(reference),
            given("params.spec.profileRef"),
            given(selector),
        ),
    );
    all.set("audited", "has(params.spec.enforcement) && params.spec.enforcement == 'Audit'");
}

/// The client, with the defaults of RFC 7591 section 2 unless its members are a template's.
fn client(all: &mut Variables) {
    all.set("templatized", given("object.spec.templateId"));
    let metadata = "object.spec.clientMetadata";
    all.set("metadata", format!("{} ? dyn({metadata}) : dyn({{}})", given(metadata)));
    let default = |value: &str| format!("(variables.templatized ? dyn([]) : dyn(['{value}']))");
    all.set("grantTypes", member("grant_types", &default("authorization_code")));
    all.set("responseTypes", member("response_types", &default("code")));
    all.set("scopes", format!("({}).split(' ').filter(v, v != '')", member("scope", "dyn('')")));
    all.set("authenticators", member("default_acr_values", "dyn([])"));
    let method = "variables.metadata.token_endpoint_auth_method";
    // With keys of its own, a client signs.
    let otherwise = format!("{} ? dyn([{method}]) : {}", given(method), default("client_secret_basic"));
    all.set("authMethods", format!("{} ? dyn(['private_key_jwt']) : ({otherwise})", given("object.spec.keys")));
}

fn registration(all: &mut Variables) {
    let modes = "params.spec.registrationModes";
    all.judge_list(
        "registrationMode",
        "[variables.templatized ? 'Templatized' : 'NonTemplatized']",
        "registrationModes",
        &format!("v in {modes}"),
    );
    let id = "variables.metadata.software_id";
    all.set("softwareIds", format!("!variables.templatized && {} ? dyn([{id}]) : dyn([])", given(id)));
    let found = violations("software_id", "variables.softwareIds", &format!("'{}'", hints::SOFTWARE_ID));
    all.judge("templateInDisguise", format!("{} && !('Templatized' in {modes}) ? {found} : []", given(modes)));
    for (name, field, values) in [
        ("templates", "templateId", "(variables.templatized ? dyn([object.spec.templateId]) : dyn([]))"),
        ("softwareIdsAsTemplates", "software_id", "variables.softwareIds"),
    ] {
        let templates = "params.spec.allowedTemplates";
        let hint = all.hint(name, templates);
        let found = violations(field, &format!("{values}.filter(v, !(v in {templates}))"), &hint);
        all.judge(name, format!("{} ? {found} : []", given(templates)));
    }
}

fn lists(all: &mut Variables) {
    for (field, values, list) in [
        ("grant_types", "variables.grantTypes", "allowedGrantTypes"),
        ("response_types", "variables.responseTypes", "allowedResponseTypes"),
        ("scope", "variables.scopes", "allowedScopes"),
        ("default_acr_values", "variables.authenticators", "allowedAuthenticators"),
        ("token_endpoint_auth_method", "variables.authMethods", "allowedTokenEndpointAuthMethods"),
    ] {
        let permits = if field == "response_types" {
            // The order of the words means nothing.
            format!("params.spec.{list}.exists(a, sets.equivalent(string(v).split(' '), a.split(' ')))")
        } else {
            format!("v in params.spec.{list}")
        };
        all.judge_list(field, values, list, &permits);
    }
}

fn redirect_uris(all: &mut Variables) {
    let rules = "params.spec.allowedRedirectUris";
    let (given_rules, given_host) = (given(rules), given("r.host"));
    let (any_port, given_port) = (format!("({} && r.anyPort)", given("r.anyPort")), given("r.port"));
    let given_prefix = given("r.pathPrefix");
    let shown = format!(
        "{rules}.map(r, r.scheme + ':' + ({given_host} ? '//' + r.host : '') + ({any_port} ? ':*' : {given_port} ? ':' + string(r.port) : '') + ({given_prefix} ? r.pathPrefix : ''))"
    );
    all.set("redirectRules", shown);
    let hint = all.hint("redirect", "variables.redirectRules");
    // An address that is read in one way only, and its parts; an empty scheme matches no rule.
    let well_formed = format!(
        "u.matches(r\"{WELL_FORMED}\") && !u.matches(r\"{AMBIGUOUS}\") && isURL(u) && (url(u).getPort() == '' || int(url(u).getPort()) <= 65535)"
    );
    let default_port = |scheme: &str| format!("({scheme} == 'https' ? 443 : {scheme} == 'http' ? 80 : 0)");
    let host =
        "(url(u).getHostname().contains(':') ? '[' + url(u).getHostname() + ']' : url(u).getHostname()).lowerAscii()";
    let scheme = "url(u).getScheme()";
    let port = format!("(url(u).getPort() == '' ? {} : int(url(u).getPort()))", default_port(scheme));
    let path = "(url(u).getEscapedPath() == '' ? '/' : url(u).getEscapedPath())";
    let parts = format!(
        "{well_formed} ? dyn({{'text': dyn(u), 'scheme': dyn({scheme}), 'host': dyn({host}), 'port': dyn({port}), 'path': dyn({path})}}) : dyn({{'text': dyn(u), 'scheme': dyn('')}})"
    );
    let host_matches = format!(
        "({given_host} ? (r.host.startsWith('*') ? p.host.endsWith(r.host.substring(1)) && p.host.size() >= r.host.size() && !p.host.substring(0, p.host.size() - r.host.size() + 1).contains('xn--') : p.host == r.host) : p.host == '')"
    );
    let port_matches = format!("({any_port} || p.port == ({given_port} ? r.port : {}))", default_port("p.scheme"));
    let path_matches = format!(
        "(!{given_prefix} || p.path == r.pathPrefix || p.path.startsWith(r.pathPrefix.endsWith('/') ? r.pathPrefix : r.pathPrefix + '/'))"
    );
    let permits =
        format!("{rules}.exists(r, p.scheme == r.scheme && {host_matches} && {port_matches} && {path_matches})");
    for name in REDIRECT_MEMBERS {
        all.set(&format!("{name}_parts"), format!("({}).map(u, {parts})", member(name, "dyn([])")));
        let forbidden = format!("variables.{name}_parts.filter(p, !({permits})).map(p, p.text)");
        let found = violations(name, &forbidden, &hint);
        all.judge(name, format!("{given_rules} ? {found} : []"));
    }
    let flag = member("allow_per_request_redirect_uris", "dyn(false)");
    let found = violations("allow_per_request_redirect_uris", "['true']", &format!("'{}'", hints::ANY_REDIRECT_URI));
    all.judge("perRequestRedirectUris", format!("{given_rules} && ({flag}) ? {found} : []"));
}

fn limits(all: &mut Variables) {
    let key = "variables.metadata.require_proof_key";
    let (key_given, pkce) = (given(key), given("params.spec.requirePkce"));
    let stated = format!("({key_given} ? dyn({key} ? [] : ['false']) : dyn(variables.templatized ? [] : ['absent']))");
    let found = violations("require_proof_key", &stated, &format!("'{}'", hints::PROOF_KEY));
    all.judge("proofKey", format!("{pkce} && params.spec.requirePkce ? {found} : []"));
    for (name, limit) in [("access_token_ttl", "maxAccessTokenTtl"), ("refresh_token_ttl", "maxRefreshTokenTtl")] {
        let (value, longest) = (format!("variables.metadata.{name}"), format!("params.spec.{limit}"));
        let seconds = format!("duration({longest}).getSeconds()");
        let found = violations(name, &format!("[{value}]"), &format!("'at most ' + string({seconds}) + ' seconds'"));
        all.judge(limit, format!("{} && {} && {value} > {seconds} ? {found} : []", given(&longest), given(&value)));
    }
}

fn additional_metadata(all: &mut Variables) {
    let additional = "object.spec.additionalMetadata";
    all.set("additional", format!("{} ? dyn({additional}).map(k, k) : []", given(additional)));
    let known = reserved_members().iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    // Some servers read names without regard to case, as Unicode folds it.
    let folded = "string(v).replace('\\u017f', 's').replace('\\u212a', 'k').lowerAscii()";
    all.set("smuggled", format!("variables.additional.filter(v, {folded} in [{known}])"));
    let found = violations("additionalMetadata", "variables.smuggled", &format!("'{}'", hints::SMUGGLED));
    all.judge("misplaced", found);
    let list = "allowedAdditionalMetadata";
    let permits = format!("v in variables.smuggled || v in params.spec.{list}");
    all.judge_list("additionalMetadata", "variables.additional", list, &permits);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// `make crds` sets the variable, and the file is written instead of compared.
    #[test]
    fn the_admission_policy_is_committed() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/admission-policy.yaml");
        let yaml = serde_saphyr::to_string(&policy()).unwrap();
        if std::env::var_os("UPDATE_CRDS").is_some() {
            fs::write(&path, yaml).unwrap();
            return;
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == yaml, "{} is not what the code says: run `make crds`", path.display());
    }

    #[test]
    fn every_member_of_a_policy_is_judged_or_said_to_be_invisible() {
        let text = serde_json::to_string(&policy()).unwrap();
        let crd = serde_json::to_value(<DcrPolicy as kube::CustomResourceExt>::crd()).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        for field in spec.as_object().unwrap().keys() {
            let judged = text.contains(&format!("params.spec.{field}"));
            assert!(judged != (field == "maxClientsPerNamespace"), "{field}");
        }
    }
}
