use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{redirect_uri::RedirectUri, *};
use crate::api::{DcrPolicySpec, OAuthClient, RedirectUriRule};

fn policy(name: &str, spec: &Value) -> DcrPolicy {
    DcrPolicy::new(name, serde_json::from_value(spec.clone()).unwrap_or_else(|error| panic!("{spec}: {error}")))
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

/// Members that `additionalMetadata` has are never the ones that policies look at, so they are left out of the metadata.
fn verdict<'a>(
    policies: impl IntoIterator<Item = &'a DcrPolicy>,
    spec: &Value,
    labels: &BTreeMap<String, String>,
) -> Verdict {
    let part = |name: &str| spec[name].as_object().cloned().unwrap_or_default();
    let (mut metadata, additional) = (part("clientMetadata"), part("additionalMetadata"));
    if spec["keys"].is_object() {
        // As the client's document has it.
        metadata.insert("token_endpoint_auth_method".into(), json!("private_key_jwt"));
    }
    let subject = Subject {
        profile: spec["profileRef"]["name"].as_str().unwrap_or("token-service"),
        namespace_labels: labels,
        template: spec["templateId"].as_str(),
        metadata: &metadata,
        additional: &additional,
        older: Older::default(),
    };
    judge(policies, subject)
}

/// The table that the admission policy is held against too, on a real API server.
#[test]
fn the_table_of_policies_holds() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policies.yaml")).unwrap();
    let groups: Vec<Value> = serde_saphyr::from_str(&text).unwrap();
    let mut rows = 0;
    for group in &groups {
        let labels: BTreeMap<String, String> = serde_json::from_value(group["labels"].clone()).unwrap_or_default();
        let policies: Vec<DcrPolicy> = match group["policies"].as_object() {
            Some(several) => several.iter().map(|(name, spec)| policy(name, spec)).collect(),
            None => vec![policy("web", &group["policy"])],
        };
        for row in group["rows"].as_array().unwrap() {
            rows += 1;
            let (client, expected) = row.as_array().unwrap().split_first().unwrap();
            let spec = client.get("spec").cloned().unwrap_or_else(|| json!({"clientMetadata": client}));
            // Its profile is of another namespace, and so are its policies.
            let elsewhere = spec["profileRef"]["namespace"].is_string();
            let policies = policies.iter().filter(|_| !elsewhere);
            let mut found: Vec<String> = verdict(policies, &spec, &labels)
                .denied
                .iter()
                .map(|Violation { policy, field, value, .. }| match &group["policies"] {
                    Value::Null => format!("{field}: {value}"),
                    _ => format!("{policy} {field}: {value}"),
                })
                .collect();
            let mut expected: Vec<String> = expected.iter().map(|text| text.as_str().unwrap().to_owned()).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{}: {row}", group["about"]);
        }
    }
    assert!(rows >= 150, "{rows} rows");
}

#[test]
fn a_violation_names_policy_field_value_and_what_is_allowed() {
    let policies = [policy("web", &json!({"allowedScopes": ["openid", "email"], "allowedGrantTypes": []}))];
    let verdict = verdict(&policies, &json!({"clientMetadata": {"scope": "admin"}}), &BTreeMap::new());
    assert_eq!(
        joined(&verdict.denied, 1024),
        "DcrPolicy web forbids grant_types: authorization_code (nothing is allowed); \
         DcrPolicy web forbids scope: admin (allowed: openid, email)"
    );
}

#[test]
fn a_policy_that_only_audits_denies_nothing() {
    let policies = [policy("audit", &json!({"enforcement": "Audit", "allowedScopes": []}))];
    let verdict = verdict(&policies, &json!({"clientMetadata": {"scope": "admin"}}), &BTreeMap::new());
    assert!(verdict.is_allowed());
    assert_eq!(joined(&verdict.audited, 1024), "DcrPolicy audit forbids scope: admin (nothing is allowed)");
}

#[test]
fn members_of_another_type_open_no_door() {
    let policies =
        [policy("web", &json!({"allowedGrantTypes": ["a"], "allowedScopes": ["a"], "maxAccessTokenTtl": "1h"}))];
    let metadata = json!({"grant_types": "implicit", "scope": ["admin"], "access_token_ttl": {"for": "ever"}});
    let fields: Vec<&str> = verdict(&policies, &json!({"clientMetadata": metadata}), &BTreeMap::new())
        .denied
        .iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(fields, ["grant_types", "scope", "access_token_ttl"]);
}

// --- maxClientsPerNamespace

fn client(name: &str, uid: &str, created: i64, profile: &str, held: bool) -> OAuthClient {
    let mut client = OAuthClient::new(name, crate::api::OAuthClientSpec::default());
    client.spec.profile_ref.name = profile.into();
    client.spec.profile_ref.namespace = Some("identity".into());
    client.metadata.namespace = Some("shop".into());
    client.metadata.uid = Some(uid.into());
    client.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).unwrap()));
    client.metadata.finalizers = held.then(|| vec![crate::api::FINALIZER.into()]);
    client
}

fn note(seniority: &Seniority, client: &OAuthClient) {
    let _ = seniority.note("shop", client.metadata.name.as_deref().unwrap(), Some(client));
}

#[test]
fn the_oldest_clients_are_let_in_and_the_next_one_when_one_goes() {
    let seniority = Seniority::default();
    let (a, b, c) =
        (client("a", "1", 30, "p", false), client("b", "2", 20, "p", false), client("c", "3", 10, "q", false));
    for client in [&a, &b, &c] {
        note(&seniority, client);
    }
    let older = |of_profile, of_profile_namespace| Older { of_profile, of_profile_namespace };
    assert_eq!(seniority.older(&a, 9), older(1, 2));
    assert_eq!(seniority.older(&b, 9), older(0, 1));
    assert_eq!(seniority.older(&c, 9), older(0, 0));
    let of_profile = policy("web", &json!({"profileRef": {"name": "p"}, "maxClientsPerNamespace": 1}));
    let of_all = policy("web", &json!({"maxClientsPerNamespace": 1}));
    for (policy, client, refused) in
        [(&of_profile, &a, true), (&of_profile, &b, false), (&of_all, &b, true), (&of_all, &c, false)]
    {
        assert_eq!(quota::violation(policy, seniority.older(client, 1)).is_some(), refused, "{client:?}");
    }
    assert_eq!(seniority.note("shop", "b", None).as_deref(), Some("identity"));
    assert_eq!(seniority.note("shop", "b", None), None);
    assert_eq!(seniority.older(&a, 9), older(0, 1));
}

#[test]
fn a_client_that_comes_later_in_the_same_second_takes_nobodys_place() {
    let seniority = Seniority::default();
    seniority.listed();
    let (first, second) = (client("z", "1", 10, "p", false), client("a", "2", 10, "p", false));
    note(&seniority, &first);
    note(&seniority, &second);
    // An update does not move it.
    note(&seniority, &client("z", "1", 10, "p", true));
    assert_eq!((seniority.older(&first, 9).of_profile, seniority.older(&second, 9).of_profile), (0, 1));
}

#[test]
fn after_a_restart_what_may_be_registered_comes_first_and_then_the_name_decides() {
    let clients = [client("a", "1", 10, "p", false), client("b", "2", 10, "p", false), client("c", "3", 10, "p", true)];
    for order in [[0, 1, 2], [2, 1, 0]] {
        let seniority = Seniority::default();
        for index in order {
            note(&seniority, &clients[index]);
        }
        let ranks = clients.each_ref().map(|client| seniority.older(client, 9).of_profile);
        assert_eq!(ranks, [1, 2, 0]);
    }
}

#[test]
fn a_client_made_anew_under_the_same_name_is_the_youngest() {
    let seniority = Seniority::default();
    seniority.listed();
    note(&seniority, &client("a", "1", 10, "p", false));
    let b = client("b", "2", 10, "p", false);
    note(&seniority, &b);
    let again = client("a", "3", 10, "p", false);
    assert!(seniority.older(&again, 9).of_profile > 0, "before the watch has shown it, too");
    note(&seniority, &again);
    assert_eq!((seniority.older(&b, 9).of_profile, seniority.older(&again, 9).of_profile), (0, 1));
}

// --- what a server has registered

fn registered<'a>(labels: &'a BTreeMap<String, String>, metadata: &'a Map<String, Value>) -> Granted<'a> {
    Granted { profile: "p", namespace_labels: labels, metadata }
}

#[test]
fn more_than_the_policies_allow_is_found_in_an_answer_and_can_be_narrowed() {
    let policies = [
        policy(
            "web",
            &json!({
                "allowedScopes": ["openid"], "allowedGrantTypes": ["authorization_code"],
                "allowedResponseTypes": ["code", "code id_token"], "allowedAuthenticators": [],
                "allowedRedirectUris": [{"scheme": "https", "host": "shop.example.com"}],
                "requirePkce": true, "maxAccessTokenTtl": "1h", "allowedAdditionalMetadata": [],
                "registrationModes": [], "allowedTemplates": [], "maxClientsPerNamespace": 0,
            }),
        ),
        policy("audit", &json!({"enforcement": "Audit", "allowedScopes": []})),
    ];
    let answer = map(json!({
        "client_id": "c", "software_id": "s", "custom": 1,
        "scope": "openid admin", "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["id_token code", "token"], "default_acr_values": ["sms"],
        "redirect_uris": ["https://shop.example.com/cb", "https://evil.io/"],
        "require_proof_key": false, "access_token_ttl": 7200,
    }));
    let labels = BTreeMap::new();
    let verdict = granted(&policies, registered(&labels, &answer));
    let fields: Vec<String> = verdict.denied.iter().map(|found| format!("{}={}", found.field, found.value)).collect();
    assert_eq!(
        fields,
        [
            "grant_types=refresh_token",
            "response_types=token",
            "scope=admin",
            "default_acr_values=sms",
            "redirect_uris=https://evil.io/",
            "require_proof_key=false",
            "access_token_ttl=7200",
        ]
    );
    assert_eq!(verdict.audited.len(), 2);

    let narrow = narrowed(&policies, registered(&labels, &answer));
    assert!(granted(&policies, registered(&labels, &narrow)).is_allowed());
    let kept = json!({
        "client_id": "c", "software_id": "s", "custom": 1,
        "scope": "openid", "grant_types": ["authorization_code"], "response_types": ["id_token code"],
        "default_acr_values": [], "redirect_uris": ["https://shop.example.com/cb"],
        "require_proof_key": true, "access_token_ttl": 3600,
    });
    assert_eq!(Value::Object(narrow), kept);
}

#[test]
fn what_an_answer_does_not_say_is_not_held_against_it() {
    let policies =
        [policy("web", &json!({"allowedGrantTypes": [], "allowedTokenEndpointAuthMethods": [], "requirePkce": true}))];
    let labels = BTreeMap::new();
    assert_eq!(granted(&policies, registered(&labels, &map(json!({"client_id": "c"})))), Verdict::default());
}

#[test]
fn what_can_not_be_narrowed_is_still_found() {
    let policies = [policy("web", &json!({"allowedTokenEndpointAuthMethods": ["private_key_jwt"]}))];
    let (labels, answer) = (BTreeMap::new(), map(json!({"token_endpoint_auth_method": "none"})));
    let narrow = narrowed(&policies, registered(&labels, &answer));
    assert_eq!(
        joined(&granted(&policies, registered(&labels, &narrow)).denied, 1024),
        "DcrPolicy web forbids token_endpoint_auth_method: none (allowed: private_key_jwt)"
    );
}

#[test]
fn a_hundred_thousand_forbidden_values_are_counted_and_not_listed() {
    let policies = [policy("web", &json!({"allowedScopes": ["openid"], "allowedRedirectUris": []}))];
    let labels = BTreeMap::new();
    let of = |answer: Value| granted(&policies, registered(&labels, &map(answer))).denied;
    let same = of(json!({"scope": "a ".repeat(100_000), "redirect_uris": vec!["https://evil.io/"; 1000]}));
    assert_eq!(same.len(), 2, "a value is forbidden once");
    let scope = (0..100_000).map(|index| index.to_string()).collect::<Vec<_>>().join(" ");
    let different = of(json!({"scope": scope, "redirect_uris": ["https://evil.io/"]}));
    assert_eq!(different.len(), 65);
    assert_eq!(different[64].to_string(), "DcrPolicy web forbids further values: 99937 more (the first 64 are listed)");
    let text = joined(&different, 200);
    assert!(text.ends_with("scope: 2 (allowed: openid); and 99998 more") && text.len() <= 200, "{text}");
}

#[test]
fn a_text_that_is_cut_ends_with_how_many_more_there_are() {
    let policies = [policy("web", &json!({"allowedScopes": [], "allowedGrantTypes": ["authorization_code"]}))];
    let scope = "ä".repeat(300) + " b c d";
    let denied = verdict(&policies, &json!({"clientMetadata": {"scope": scope}}), &BTreeMap::new()).denied;
    let whole = joined(&denied, usize::MAX);
    assert_eq!((denied.len(), joined(&denied, whole.len())), (4, whole.clone()));
    for longest in 20..whole.len() {
        let text = joined(&denied, longest);
        let (listed, more) = text.rsplit_once("; and ").unwrap();
        let shown = listed.matches("DcrPolicy web forbids").count().max(1);
        assert_eq!((text.len() <= longest, more), (true, format!("{} more", 4 - shown).as_str()), "{text}");
        // One that does not fit even alone is cut, any other is not.
        assert!(listed.ends_with(')') || listed.ends_with('…') && shown == 1, "{text}");
    }
}

#[test]
fn the_order_in_which_a_cache_has_the_policies_changes_nothing() {
    let mut policies = ["c", "a", "d", "b"].map(|name| policy(name, &json!({"allowedScopes": []})));
    let judged = |policies: &[DcrPolicy]| {
        verdict(policies, &json!({"clientMetadata": {"scope": "x y"}}), &BTreeMap::new()).denied
    };
    let expected = ["a x", "a y", "b x", "b y", "c x", "c y", "d x", "d y"];
    for _ in 0..4 {
        policies.rotate_left(1);
        let found: Vec<_> =
            judged(&policies).into_iter().map(|found| format!("{} {}", found.policy, found.value)).collect();
        assert_eq!(found, expected);
    }
}

// --- policies that make no sense

#[test]
fn a_policy_that_contradicts_itself_says_what_is_wrong() {
    let selector = |operator: &str, values: Value| {
        json!({"namespaceSelector": {"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "a", "operator": operator, "values": values}]}})
    };
    for (spec, expected) in [
        (json!({}), ""),
        (json!({"registrationModes": ["Templatized"], "allowedTemplates": ["web"]}), ""),
        (json!({"allowedGrantTypes": [], "allowedScopes": [], "allowedRedirectUris": []}), ""),
        (json!({"registrationModes": []}), "registrationModes is empty"),
        (json!({"registrationModes": ["Templatized"], "allowedTemplates": []}), "allowedTemplates has none"),
        (json!({"registrationModes": ["NonTemplatized"], "allowedTemplates": ["a"]}), "no client can use them"),
        (json!({"allowedTokenEndpointAuthMethods": []}), "allowedTokenEndpointAuthMethods is empty"),
        (json!({"registrationModes": ["Templatized"], "allowedTokenEndpointAuthMethods": []}), ""),
        (json!({"maxClientsPerNamespace": 0}), "maxClientsPerNamespace is 0"),
        (json!({"allowedRedirectUris": [{"scheme": "https", "host": "*.xn--a.com"}]}), "allowedRedirectUris[0].host"),
        (json!({"allowedRedirectUris": [{"scheme": "app"}, {"scheme": "http", "host": "[::1]", "port": 80}]}), ""),
        (selector("In", json!(["c"])), "the label a"),
        (selector("In", json!(["b"])), ""),
        (selector("NotIn", json!(["b"])), "the label a"),
        (selector("DoesNotExist", json!([])), "the label a"),
        (selector("Exists", json!([])), ""),
    ] {
        let parsed: DcrPolicySpec = serde_json::from_value(spec.clone()).unwrap();
        let found = contradiction(&parsed).unwrap_or_default();
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{spec}: {found}");
    }
}

// --- redirect URIs, whatever they are

fn rule(host: &str, any_port: bool) -> RedirectUriRule {
    RedirectUriRule {
        scheme: "https".into(),
        host: Some(host.into()),
        any_port: Some(any_port),
        ..RedirectUriRule::default()
    }
}

proptest! {
    #[test]
    fn whatever_matches_goes_to_the_host_that_is_allowed(text in "https?:[/\\\\]{1,3}[a-z0-9.:@%#?/\\\\\\[\\]*-]{0,12}(apps[.]example[.]com)[a-z0-9.:@%#?/\\\\-]{0,12}") {
        if RedirectUri::new(text.clone()).matches(&rule("*.apps.example.com", true)) {
            let url = url::Url::parse(&text).unwrap();
            prop_assert!(url.host_str().unwrap().ends_with(".apps.example.com"), "{}", text);
            prop_assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
        }
    }

    #[test]
    fn no_text_breaks_the_reader(text in ".{0,64}") {
        let _ = RedirectUri::new(text).matches(&rule("a", false));
    }
}
