//! What `kubectl apply` refuses, and with which words.

use serde_json::{Value, json};

use crate::{fixtures::*, support::control_plane::ControlPlane};

type Change = Box<dyn FnOnce(&mut Value)>;

/// What kubectl says when it applies the object with this change, and nothing is applied.
async fn refusal(home: &Home, mut object: Value, change: impl FnOnce(&mut Value)) -> String {
    change(&mut object);
    let args = ["apply", "--namespace", &home.name, "--filename", "-"];
    home.plane.kubectl_err(&args, Some(&object.to_string())).await
}

#[tokio::test]
async fn a_client_that_can_not_be_meant_so_is_refused_with_the_reason() {
    let home = Home::without_operator("refused").await;
    let client = || home.oauth_client("shop");
    let redirect = |uri: &'static str| move |c: &mut Value| c["spec"]["clientMetadata"]["redirect_uris"] = json!([uri]);
    let rows: Vec<(Change, &[&str])> = vec![
        (
            Box::new(|c| c["spec"]["clientMetadata"]["redirect_uri"] = json!("https://a/cb")),
            &["unknown field", "spec.clientMetadata.redirect_uri"],
        ),
        (Box::new(|c| c["spec"]["clientMetadat"] = json!({})), &["unknown field", "spec.clientMetadat"]),
        (Box::new(|c| c["spec"]["clientMetadata"]["client_id"] = json!("mine")), &["spec.clientMetadata.client_id"]),
        (
            Box::new(|c| {
                c["spec"].as_object_mut().unwrap().remove("clientMetadata");
            }),
            &["exactly one of clientMetadata", "templateId"],
        ),
        (Box::new(|c| c["spec"]["templateId"] = json!("web")), &["exactly one of clientMetadata", "templateId"]),
        (
            Box::new(|c| {
                c["spec"]["clientMetadata"]["jwks"] = json!({"keys": []});
                c["spec"]["clientMetadata"]["jwks_uri"] = json!("https://a/jwks");
            }),
            &["jwks", "jwks_uri"],
        ),
        (Box::new(redirect("https://a/cb#top")), &["redirect_uris[0]", "https://a/cb#top", "fragment"]),
        (Box::new(redirect("https://*.a/cb")), &["redirect_uris[0]", "https://*.a/cb", "wildcard"]),
        (Box::new(redirect("/callback")), &["redirect_uris[0]", "/callback", "scheme"]),
        (Box::new(redirect("javascript:alert(1)")), &["redirect_uris[0]", "javascript:"]),
        (Box::new(|c| c["metadata"]["name"] = json!("x".repeat(64))), &["metadata.name", "63"]),
        (Box::new(|c| c["spec"]["secret"] = json!({"format": "Yaml"})), &["spec.secret.format", "ServiceBinding"]),
        (Box::new(|c| c["spec"]["secret"] = json!({"name": "Shop_1"})), &["secret.name", "DNS-1123"]),
        (Box::new(|c| c["spec"]["secret"] = json!({"type": "kubernetes.io/tls"})), &["secret.type"]),
        (
            Box::new(|c| c["spec"]["secret"] = json!({"template": {"a b": "x"}})),
            &["spec.secret.template", "keys of a Secret"],
        ),
        (
            Box::new(|c| c["spec"]["secret"] = json!({"labels": {"dcr-operator.dev/client": "x"}})),
            &["spec.secret.labels", "the operator's own"],
        ),
        (Box::new(|c| c["spec"]["secret"] = json!({"labels": {"team": "a b"}})), &["spec.secret.labels.team"]),
        (
            Box::new(|c| c["spec"]["keys"] = json!({"algorithm": "HS256"})),
            &["spec.keys.algorithm", "HS256", "ES256", "RS256", "EdDSA"],
        ),
        (Box::new(|c| c["spec"]["keys"] = json!({"rotationInterval": "1m"})), &["keys.rotationInterval", "between 1h"]),
        (
            Box::new(|c| {
                c["spec"]["keys"] = json!({});
                c["spec"]["clientMetadata"]["jwks_uri"] = json!("https://a/jwks");
            }),
            &["spec.keys", "excludes its jwks and jwks_uri"],
        ),
        (
            Box::new(|c| {
                c["spec"]["keys"] = json!({});
                c["spec"]["clientMetadata"]["token_endpoint_auth_method"] = json!("client_secret_post");
            }),
            &["spec.clientMetadata.token_endpoint_auth_method", "leave it out"],
        ),
        (Box::new(|c| c["spec"]["rotation"] = json!({"interval": "5m"})), &["rotation.interval", "between 1h"]),
        (Box::new(|c| c["spec"]["rotation"] = json!({"interval": "-2h"})), &["rotation.interval"]),
        (Box::new(|c| c["spec"]["rotation"] = json!({})), &["spec.rotation.interval", "Required"]),
        (
            Box::new(|c| c["spec"]["replacement"] = json!({"when": ["Always"]})),
            &["spec.replacement.when", "Always", "UpdateUnsupported"],
        ),
        (Box::new(|c| c["spec"]["replacement"] = json!({"overlap": "ages"})), &["replacement.overlap"]),
        (
            Box::new(|c| c["spec"]["adopt"] = json!({"secretRef": {"name": "old"}})),
            &["spec.adopt.clientId", "Required"],
        ),
        (
            Box::new(|c| c["spec"]["rolloutRestartTargets"] = json!([{"kind": "Job", "name": "a"}])),
            &["spec.rolloutRestartTargets[0].kind", "Job", "Deployment"],
        ),
        (
            Box::new(|c| {
                c["spec"]["rolloutRestartTargets"] = json!([{"name": "a"}, {"kind": "Deployment", "name": "a"}])
            }),
            &["spec.rolloutRestartTargets[1]", "Duplicate"],
        ),
    ];
    for (change, words) in rows {
        let message = refusal(&home, client(), change).await;
        assert_says(&message, words);
    }
    assert!(home.get(CLIENTS, "shop").await.is_none());
}

#[tokio::test]
async fn a_profile_that_can_not_work_is_refused_with_the_reason() {
    let home = Home::without_operator("refused").await;
    let rows: Vec<(Change, &[&str])> = vec![
        (
            Box::new(|p| {
                p["spec"].as_object_mut().unwrap().remove("issuer");
            }),
            &["set issuer, or both endpoints.token and endpoints.registration"],
        ),
        (Box::new(|p| p["spec"]["issuer"] = json!("login.example.com")), &["spec.issuer", "https:// URL"]),
        (Box::new(|p| p["spec"]["issuer"] = json!("https://a/?x=1")), &["spec.issuer", "query"]),
        (
            Box::new(|p| p["spec"]["endpoints"] = json!({"token": "ftp://a/token"})),
            &["spec.endpoints.token", "https:// URL"],
        ),
        (
            Box::new(|p| p["spec"]["initialAccessToken"]["bearerToken"] = json!({"secretRef": {"name": "iat"}})),
            &["exactly one of clientCredentials and bearerToken"],
        ),
        (Box::new(|p| p["spec"]["initialAccessToken"] = json!({})), &["exactly one of", "open registration"]),
        (
            Box::new(|p| p["spec"]["allowedNamespaces"] = json!({"from": "All", "selector": {}})),
            &["selector goes with from: Selector"],
        ),
        (Box::new(|p| p["spec"]["allowedNamespaces"] = json!({"from": "Selector"})), &["selector goes with"]),
        (
            Box::new(|p| p["spec"]["limits"] = json!({"requestTimeout": "0s"})),
            &["requestTimeout", "between 100ms and 2m"],
        ),
        (Box::new(|p| p["spec"]["limits"] = json!({"requestTimeout": "soon"})), &["requestTimeout"]),
        (Box::new(|p| p["spec"]["limits"] = json!({"maxConcurrentRequests": 0})), &["maxConcurrentRequests"]),
        (
            Box::new(|p| p["spec"]["resyncInterval"] = json!("1s")),
            &["spec.resyncInterval", "0s or a duration between 10s"],
        ),
        (Box::new(|p| p["spec"]["server"] = json!({"type": "Okta"})), &["spec.server.type", "Okta", "Generic"]),
        (
            Box::new(|p| p["spec"]["server"] = json!({"registrationAccessTokenLifetime": "1s"})),
            &["registrationAccessTokenLifetime", "between 1m"],
        ),
        (
            Box::new(|p| p["spec"]["server"] = json!({"managementClient": {"clientId": "manager"}})),
            &["spec.server.managementClient", "set secretRef"],
        ),
        (
            Box::new(|p| {
                let client = &mut p["spec"]["initialAccessToken"]["clientCredentials"];
                client["authMethod"] = json!("tls_client_auth");
            }),
            &["set secretRef, except with authMethod tls_client_auth"],
        ),
        (
            Box::new(|p| {
                let client = &mut p["spec"]["initialAccessToken"]["clientCredentials"];
                client["authMethod"] = json!("tls_client_auth");
                client.as_object_mut().unwrap().remove("secretRef");
            }),
            &["needs tls.clientCertificateSecretRef"],
        ),
        (Box::new(|p| p["spec"]["initialAccessToken"]["reuse"] = json!("Always")), &["reuse", "Always", "UntilExpiry"]),
    ];
    for (change, words) in rows {
        let message = refusal(&home, profile("https://login.example.com"), change).await;
        assert_says(&message, words);
    }
}

#[tokio::test]
async fn the_profile_of_a_client_can_not_be_changed() {
    let home = Home::without_operator("immutable").await;
    home.apply(&home.oauth_client("shop")).await;
    let message = refusal(&home, home.oauth_client("shop"), |c| c["spec"]["profileRef"]["name"] = json!("other")).await;
    assert_says(&message, &["profileRef is immutable", "make a new OAuthClient"]);
    let elsewhere = |c: &mut Value| c["spec"]["profileRef"]["namespace"] = json!("other");
    assert_says(&refusal(&home, home.oauth_client("shop"), elsewhere).await, &["profileRef is immutable"]);
}

#[tokio::test]
async fn what_nobody_has_looked_at_is_in_progress() {
    let home = Home::without_operator("unseen").await;
    home.apply(&home.oauth_client("shop")).await;
    home.apply(&profile("https://login.example.com")).await;
    home.apply(&policy("web", &json!({}))).await;
    for (plural, name) in [(CLIENTS, "shop"), (PROFILES, PROFILE), (POLICIES, "web")] {
        let object = home.get(plural, name).await.unwrap();
        assert_eq!(object["status"], json!({"observedGeneration": -1}), "{plural}");
    }
}

#[tokio::test]
async fn the_crds_are_structural_and_explain_themselves() {
    let plane = ControlPlane::shared();
    for plural in [CLIENTS, PROFILES, POLICIES] {
        let crd = plane.kubectl_ok(&["get", "crd", &format!("{plural}.dcr-operator.dev"), "-o", "json"], None).await;
        let crd: Value = serde_json::from_str(&crd).unwrap();
        assert_eq!(verdict(&crd, "Established"), "True InitialNamesAccepted");
        assert_eq!(verdict(&crd, "NonStructuralSchema"), "", "{plural}");
        assert_eq!(crd["spec"]["names"]["categories"], json!(["dcr"]));
    }
    for (field, words) in [
        ("oauthclient.spec", "clientMetadata"),
        ("oauthclient.spec.clientMetadata.redirect_uris", "redirect"),
        ("oac.status.possibleOrphans", "answer never arrived"),
        ("tprof.spec.initialAccessToken.clientCredentials.secretRef", "dcr-operator.dev/credentials"),
        ("dcrp.spec.allowedGrantTypes", "authorization_code"),
    ] {
        let text = plane.kubectl_ok(&["explain", field], None).await.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_says(&text, &[words]);
    }
}
