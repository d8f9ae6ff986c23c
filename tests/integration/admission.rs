//! The ValidatingAdmissionPolicy on a real API server: it says what the operator's own judgement says.

use std::{fs, sync::OnceLock};

use dcr_operator::{
    api::{DcrPolicy, OAuthClient},
    oauth_client::{accept, metadata},
    policy::{Older, Verdict, admission, joined, judge},
};
use futures::{StreamExt, stream};
use proptest::{
    strategy::{Strategy, ValueTree},
    string::string_regex,
    test_runner::TestRunner,
};
use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        control_plane::{ControlPlane, ControlPlaneOptions},
        process::{once_per_process, wait_until},
        repository,
    },
};

/// A profile that no client of the tests has: what its policy refuses shows that the API server knows the policies.
const SENTINEL: &str = "sentinel";

pub async fn install_admission_policy(plane: &ControlPlane) {
    let file = repository("deploy/base/admission-policy.yaml");
    plane.kubectl_ok(&["apply", "--server-side", "--filename", file.to_str().expect("UTF-8")], None).await;
}

/// A control plane whose CRD lets through what it usually refuses itself: here the admission policy answers alone.
fn lenient_plane() -> &'static ControlPlane {
    static LENIENT: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    fn loosen(schema: &mut Value) {
        if let Some(members) = schema.as_object_mut() {
            for rule in ["x-kubernetes-validations", "minLength", "maxLength", "enum", "minimum", "maximum"] {
                members.remove(rule);
            }
            // A list that is a set takes no value twice, and would need bounds.
            if members.get("x-kubernetes-list-type").is_some_and(|kind| kind == "set") {
                members.insert("x-kubernetes-list-type".into(), json!("atomic"));
            }
            members.values_mut().for_each(loosen);
        }
    }
    once_per_process(&LENIENT, || async {
        let folder = tempfile::tempdir().expect("a folder");
        let mut crds = Vec::new();
        for plural in [CLIENTS, PROFILES, POLICIES] {
            let text = fs::read_to_string(repository(&format!("crds/{plural}.yaml"))).expect("a CRD");
            let mut crd: Value = serde_saphyr::from_str(&text).expect("YAML");
            if plural == CLIENTS {
                let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/clientMetadata";
                loosen(crd.pointer_mut(spec).expect("a schema"));
            }
            let path = folder.path().join(format!("{plural}.yaml"));
            fs::write(&path, crd.to_string()).expect("a file");
            crds.push(path);
        }
        let plane = ControlPlane::start(ControlPlaneOptions { crds, ..Default::default() }).await;
        install_admission_policy(&plane).await;
        plane
    })
}

/// A client as the API server would take it, to be created and not kept.
fn try_create(home: &Home, spec: &Value) -> impl Future<Output = Result<(), String>> + use<> {
    let path = format!(
        "/apis/dcr-operator.dev/v1alpha1/namespaces/{}/oauthclients?dryRun=All&fieldValidation=Strict",
        home.name
    );
    let mut spec = spec.clone();
    if spec["profileRef"].is_null() {
        spec["profileRef"] = json!({"name": PROFILE});
    }
    let client = json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "OAuthClient", "metadata": {"name": "shop"}, "spec": spec,
    });
    let api = home.client.clone();
    async move {
        let request = http::Request::post(&path).header("content-type", "application/json");
        let request = request.body(client.to_string().into_bytes()).expect("a request");
        match api.request::<Value>(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("{client}: {error}"),
        }
    }
}

/// A namespace with policies that are in force.
async fn bound(plane: &'static ControlPlane, labels: &Value, policies: &[(String, Value)]) -> Home {
    let home = Home::on(plane, "vectors").await;
    for (key, value) in labels.as_object().into_iter().flatten() {
        home.label_namespace(key, value.as_str().expect("a label")).await;
    }
    let binding = serde_json::to_value(admission::binding(&home.name)).expect("JSON");
    plane.kubectl_ok(&["create", "--filename", "-"], Some(&binding.to_string())).await;
    for (name, spec) in policies {
        home.apply(&policy(name, spec)).await;
    }
    home.apply(&policy(SENTINEL, &json!({"profileRef": {"name": SENTINEL}, "registrationModes": []}))).await;
    until_in_force(&home).await;
    home
}

/// The API server learns of policies in the order in which they were made, and this one comes last.
async fn until_in_force(home: &Home) {
    let spec = json!({"profileRef": {"name": SENTINEL}, "clientMetadata": {}});
    wait_until("the policies are in force", WAIT, || {
        let tried = try_create(home, &spec);
        async move {
            match tried.await {
                Err(message) if message.contains("DcrPolicy sentinel forbids") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    })
    .await;
}

/// The message without what the API server puts before it, as sorted clauses: names have no order in CEL's maps.
fn clauses(message: &str) -> Vec<String> {
    let said = message.split_once("denied request: ").map_or(message, |(_, said)| said);
    let mut clauses: Vec<String> =
        said.split("; DcrPolicy ").map(|clause| clause.trim_start_matches("DcrPolicy ").to_owned()).collect();
    clauses.sort();
    clauses
}

fn own_verdict(client: &Value, policies: &[(String, Value)], labels: &Value, namespace: &str) -> Verdict {
    let mut object = json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "OAuthClient",
        "metadata": {"name": "shop", "namespace": namespace}, "spec": client,
    });
    if client["profileRef"].is_null() {
        object["spec"]["profileRef"] = json!({"name": PROFILE});
    }
    let client: OAuthClient = serde_json::from_value(object).expect("a client");
    let elsewhere = client.spec.profile_ref.namespace.is_some();
    let policies: Vec<DcrPolicy> = policies
        .iter()
        .filter(|_| !elsewhere)
        .map(|(name, spec)| DcrPolicy::new(name, serde_json::from_value(spec.clone()).expect("a policy")))
        .collect();
    let labels = serde_json::from_value(labels.clone()).unwrap_or_default();
    // What additionalMetadata smuggles is refused before there is a document, and is judged here all the same.
    let mut without = client.spec.clone();
    without.additional_metadata.clear();
    let document = metadata::document(&without).expect("a document");
    judge(&policies, accept::subject(&client, &document, &labels, Older::default()))
}

#[tokio::test]
async fn the_admission_policy_and_the_operator_are_of_the_same_opinion_row_by_row() {
    let plane = lenient_plane();
    let text = fs::read_to_string(repository("tests/policies.yaml")).expect("the table");
    let groups: Vec<Value> = serde_saphyr::from_str(&text).expect("YAML");
    let outcomes: Vec<Vec<String>> = stream::iter(groups)
        .map(|group| async move {
            let policies: Vec<(String, Value)> = match group["policies"].as_object() {
                Some(several) => several.iter().map(|(name, spec)| (name.clone(), spec.clone())).collect(),
                None => vec![("web".to_owned(), group["policy"].clone())],
            };
            let home = bound(plane, &group["labels"], &policies).await;
            let rows = group["rows"].as_array().expect("rows").clone();
            let (home, policies, group) = (&home, &policies, &group);
            let checks = stream::iter(rows).map(|row| async move {
                let client = &row[0];
                let spec = client.get("spec").cloned().unwrap_or_else(|| json!({"clientMetadata": client}));
                let expected = own_verdict(&spec, policies, &group["labels"], &home.name);
                assert_eq!(expected.denied.len(), row.as_array().expect("a row").len() - 1, "{row}");
                let answer = try_create(home, &spec).await;
                let agrees = match &answer {
                    Ok(()) => expected.is_allowed(),
                    // The API server tells of one policy, and which one is left to chance.
                    Err(message) => policies.iter().any(|(name, _)| {
                        let of: Vec<_> =
                            expected.denied.iter().filter(|found| found.policy == *name).cloned().collect();
                        !of.is_empty() && clauses(message) == clauses(&joined(&of, usize::MAX))
                    }),
                };
                (!agrees).then(|| {
                    format!(
                        "{}: {row}\n  admission: {answer:?}\n  operator:  {}",
                        group["about"],
                        joined(&expected.denied, usize::MAX)
                    )
                })
            });
            checks.buffer_unordered(8).filter_map(async |outcome| outcome).collect::<Vec<_>>().await
        })
        .buffer_unordered(8)
        .collect()
        .await;
    let differences: Vec<String> = outcomes.into_iter().flatten().collect();
    assert!(differences.is_empty(), "{} rows differ:\n{}", differences.len(), differences.join("\n"));
}

#[tokio::test]
async fn the_admission_policy_compiles_without_a_warning() {
    // With the CRDs as they are. The tests' shared operator must not bind it: they look at what the operator refuses.
    let plane = Home::without_operator("types").await.plane;
    install_admission_policy(plane).await;
    wait_until("the API server has checked the types", WAIT, async || {
        let args = ["get", "validatingadmissionpolicy", admission::NAME, "-o", "json"];
        let policy: Value = serde_json::from_str(&plane.kubectl_ok(&args, None).await).expect("JSON");
        let status = &policy["status"];
        if status["observedGeneration"] != policy["metadata"]["generation"] || status["typeChecking"].is_null() {
            return Err(status.to_string());
        }
        let warnings = &status["typeChecking"]["expressionWarnings"];
        assert!(warnings.is_null(), "{warnings:#}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_largest_client_can_be_judged_by_the_largest_policy() {
    let plane = lenient_plane();
    let many = |count: usize, length: usize| -> Vec<String> {
        (0..count).map(|number| format!("{number:0>4}{}", "x".repeat(length - 4))).collect()
    };
    let rules: Vec<Value> = (0..32)
        .map(|number| {
            let host = format!("*.{number}{}.example", "a".repeat(50));
            json!({"scheme": "https", "host": host, "port": number + 1, "pathPrefix": format!("/{}", "p".repeat(255))})
        })
        .collect();
    let spec = json!({
        "allowedGrantTypes": many(32, 256), "allowedResponseTypes": many(32, 256), "allowedScopes": many(256, 256),
        "allowedAuthenticators": many(64, 256), "allowedTemplates": many(64, 256),
        "allowedTokenEndpointAuthMethods": many(16, 256), "allowedRedirectUris": rules,
        "allowedAdditionalMetadata": many(64, 256), "requirePkce": true, "maxAccessTokenTtl": "1h",
    });
    let home = bound(plane, &json!({}), &[("largest".to_owned(), spec)]).await;
    let uris: Vec<String> = (0..64).map(|n| format!("https://a.{n}.example/{}", "q".repeat(1000))).collect();
    let words: Vec<String> = (0..32).map(|n| format!("{n} {}", "ab ".repeat(80))).collect();
    let scope: Vec<String> = (0..2000).map(|number| format!("{:x}", number % 16)).collect();
    let additional: serde_json::Map<String, Value> =
        many(64, 250).into_iter().map(|name| (format!("no{name}"), json!("x"))).collect();
    let client = json!({"clientMetadata": {
        "grant_types": many(32, 255), "response_types": words, "scope": scope.join(" "),
        "default_acr_values": many(32, 255), "redirect_uris": uris, "post_logout_redirect_uris": uris,
        "claims_redirect_uris": uris[..32],
    }, "additionalMetadata": additional});
    let message = try_create(&home, &client).await.expect_err("a refusal");
    assert_says(&message, &["DcrPolicy largest forbids grant_types: 0000xxx"]);
}

#[tokio::test]
async fn a_client_that_does_not_change_is_not_refused_and_neither_is_a_deletion() {
    let plane = lenient_plane();
    let home = bound(plane, &json!({}), &[]).await;
    let mut client = home.oauth_client("shop");
    client["metadata"]["finalizers"] = json!(["example.com/hold"]);
    home.apply(&client).await;
    home.apply(&policy("strict", &json!({"allowedScopes": []}))).await;
    wait_until("the policy is in force", WAIT, || {
        let tried = try_create(&home, &json!({"clientMetadata": {"scope": "openid"}}));
        async move { tried.await.err().filter(|message| message.contains("DcrPolicy strict forbids")) }
    })
    .await;
    home.annotate("shop", "example.com/touched", "yes").await;
    let change = json!({"spec": {"clientMetadata": {"client_name": "Another"}}}).to_string();
    let change = ["patch", CLIENTS, "shop", "--namespace", &home.name, "--type=merge", "--patch", &change];
    assert_says(
        &plane.kubectl_err(&change, None).await,
        &["DcrPolicy strict forbids scope: openid", "nothing is allowed"],
    );
    home.delete(CLIENTS, "shop").await;
    home.patch(CLIENTS, "shop", json!({"metadata": {"finalizers": null}})).await;
    home.until_gone(CLIENTS, "shop").await;
}

#[tokio::test]
async fn a_long_refusal_is_cut_and_still_says_what_is_wrong() {
    let home = bound(lenient_plane(), &json!({}), &[("web".to_owned(), json!({"allowedScopes": []}))]).await;
    let scope: Vec<String> = (0..500).map(|number| format!("scope-{number}")).collect();
    let message =
        try_create(&home, &json!({"clientMetadata": {"scope": scope.join(" ")}})).await.expect_err("a refusal");
    assert_says(
        &message,
        &["DcrPolicy web forbids scope: scope-0 (nothing is allowed); DcrPolicy web forbids scope: scope-1 ", "…"],
    );
}

/// The table has what people thought of. This has the rest: texts near the border, made at random and always the same.
#[tokio::test]
async fn redirect_uris_made_at_random_are_judged_alike() {
    let rules = json!({"allowedRedirectUris": [
        {"scheme": "https", "host": "*.a.example", "pathPrefix": "/p"},
        {"scheme": "http", "host": "127.0.0.1", "anyPort": true},
        {"scheme": "http", "host": "[::1]", "port": 8080, "pathPrefix": "/"},
        {"scheme": "app", "pathPrefix": "/cb"},
    ]});
    let policies = [("web".to_owned(), rules)];
    let home = bound(lenient_plane(), &json!({}), &policies).await;
    let pattern = "(https://([a-z0-9_.%@-]{0,4}[.])?a[.]example|http://127[.]0[.]0[.]1|http://\\[::1\\]|app:)\
        (:(443|80|8080|0|70000|[0-9]{0,6}))?(/(p|cb|[.]{1,2}|%2[efEF5]|%5c|[a-z;=@:%!*'(),-]{0,3}|[ -~]))?\
        (/|/[.]|//|;|[ -~]|é)?([?#][ -~]{0,3})?";
    let strategy = string_regex(pattern).expect("an expression");
    let mut runner = TestRunner::deterministic();
    let uris: Vec<String> = (0..500).map(|_| strategy.new_tree(&mut runner).expect("a text").current()).collect();
    let (home, policies) = (&home, &policies);
    let verdicts: Vec<(String, bool, Result<(), String>)> = stream::iter(uris)
        .map(|uri| async move {
            let spec = json!({"clientMetadata": {"redirect_uris": [uri]}});
            let expected = own_verdict(&spec, policies, &Value::Null, &home.name).is_allowed();
            (uri, expected, try_create(home, &spec).await)
        })
        .buffer_unordered(16)
        .collect()
        .await;
    let differ: Vec<_> = verdicts.iter().filter(|(_, expected, answer)| answer.is_ok() != *expected).collect();
    assert!(differ.is_empty(), "{differ:#?}");
    let failed = |answer: &Result<(), String>| {
        answer.as_ref().is_err_and(|message| !message.contains("DcrPolicy web forbids redirect_uris: "))
    };
    let failures: Vec<_> = verdicts.iter().filter(|(_, _, answer)| failed(answer)).collect();
    assert!(failures.is_empty(), "refused for another reason: {failures:#?}");
    let allowed = verdicts.iter().filter(|(_, allowed, _)| *allowed).count();
    assert!((25..475).contains(&allowed), "both verdicts should be common, {allowed} of 500 are allowed");
}
