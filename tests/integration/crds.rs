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
                c["spec"]["rolloutRestartTargets"] = json!([{"name": "a"}, {"kind": "Deployment", "name": "a"}]);
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
        (
            Box::new(|p| {
                let manager = json!({"clientId": "manager", "authMethod": "tls_client_auth"});
                p["spec"]["server"] = json!({"managementClient": manager});
            }),
            &["server.managementClient", "needs tls.clientCertificateSecretRef"],
        ),
        (Box::new(|p| p["spec"]["initialAccessToken"]["reuse"] = json!("Always")), &["reuse", "Always", "UntilExpiry"]),
    ];
    for (change, words) in rows {
        let message = refusal(&home, profile("https://login.example.com"), change).await;
        assert_says(&message, words);
    }
}

#[tokio::test]
async fn a_policy_that_can_not_be_meant_so_is_refused_with_the_reason() {
    let home = Home::without_operator("refused").await;
    let uri = |rule: Value| json!({"allowedRedirectUris": [rule]});
    let https = |host: &str| uri(json!({"scheme": "https", "host": host}));
    let expression = |operator: &str, values: Value| json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": operator, "values": values}]}});
    let rows: Vec<(Value, &[&str])> = vec![
        (https("shop.*.example.com"), &["spec.allowedRedirectUris[0].host", "a star has no other place"]),
        (https("*"), &["host", "a star has no other place"]),
        (https("*.*.example.com"), &["host", "a star has no other place"]),
        (https("*example.com"), &["host", "a star has no other place"]),
        (https("Shop.example.com"), &["host", "in lower case"]),
        (https("shop.example.com:443"), &["host", "without scheme, port and path"]),
        (https("https://shop.example.com"), &["host", "without scheme, port and path"]),
        (https("bücher.example.com"), &["host", "host name"]),
        (https("127.1"), &["host", "IPv4 address"]),
        (https("*.0.0.1"), &["host", "IPv4 address"]),
        (https("::1"), &["host", "in brackets"]),
        (https("[0:0:0:0:0:0:0:1]"), &["host", "in its shortest form"]),
        (https("[127.0.0.1]"), &["host", "IPv6 address in brackets"]),
        (uri(json!({"scheme": "HTTPS", "host": "a"})), &["allowedRedirectUris[0].scheme", "in lower case"]),
        (uri(json!({"scheme": "javascript"})), &["allowedRedirectUris[0].scheme"]),
        (uri(json!({"scheme": "https"})), &["allowedRedirectUris[0]", "set host"]),
        (
            uri(json!({"scheme": "http", "host": "a", "port": 80, "anyPort": true})),
            &["port and anyPort exclude each other"],
        ),
        (uri(json!({"scheme": "app", "anyPort": true})), &["port and anyPort go with host"]),
        (uri(json!({"scheme": "http", "host": "a", "port": 65536})), &["allowedRedirectUris[0].port", "65535"]),
        (uri(json!({"scheme": "http", "host": "a", "port": 0})), &["allowedRedirectUris[0].port"]),
        (uri(json!({"scheme": "http", "host": "a", "pathPrefix": "cb"})), &["pathPrefix", "absolute path"]),
        (uri(json!({"scheme": "http", "host": "a", "pathPrefix": "/a/../b"})), &["pathPrefix", "dot segments"]),
        (uri(json!({"scheme": "http", "host": "a", "pathPrefix": "//evil"})), &["pathPrefix"]),
        (json!({"maxAccessTokenTtl": "soon"}), &["spec.maxAccessTokenTtl", "such as 1h"]),
        (json!({"maxRefreshTokenTtl": "-1h"}), &["spec.maxRefreshTokenTtl", "such as 1h"]),
        (json!({"maxRefreshTokenTtl": "0s"}), &["spec.maxRefreshTokenTtl", "at least 1s"]),
        (json!({"maxAccessTokenTtl": "100ms"}), &["spec.maxAccessTokenTtl"]),
        (json!({"allowedAdditionalMetadata": ["scope"]}), &["allowedAdditionalMetadata[0]", "never allowed"]),
        (json!({"allowedAdditionalMetadata": ["Client_Secret"]}), &["allowedAdditionalMetadata[0]", "never allowed"]),
        (expression("In", json!([])), &["matchExpressions[0]", "need at least one"]),
        (expression("Exists", json!(["x"])), &["matchExpressions[0]", "with no other"]),
        (expression("Near", json!(["x"])), &["matchExpressions[0].operator", "DoesNotExist"]),
        (json!({"enforcement": "Warn"}), &["spec.enforcement", "Audit"]),
        (json!({"registrationModes": ["Both"]}), &["registrationModes[0]", "Templatized"]),
        (json!({"maxClientsPerNamespace": -1}), &["maxClientsPerNamespace"]),
        (json!({"allowedScope": []}), &["unknown field", "spec.allowedScope"]),
        (json!({"allowedScopes": vec!["x"; 2]}), &["allowedScopes[1]", "Duplicate"]),
        (json!({"profileRef": {"name": ""}}), &["spec.profileRef.name"]),
    ];
    for (spec, words) in rows {
        let message = refusal(&home, policy("web", &spec), |_| {}).await;
        assert_says(&message, words);
    }
    let whole = json!({
        "profileRef": {"name": "token-service"}, "enforcement": "Audit", "registrationModes": ["NonTemplatized"],
        "namespaceSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
        "allowedTemplates": ["web"], "allowedGrantTypes": ["authorization_code"], "allowedResponseTypes": ["code"],
        "allowedScopes": ["openid"], "allowedAuthenticators": [], "requirePkce": true,
        "allowedTokenEndpointAuthMethods": ["client_secret_basic"], "maxAccessTokenTtl": "1h",
        "allowedRedirectUris": [
            {"scheme": "https", "host": "*.apps.example.com", "pathPrefix": "/"},
            {"scheme": "http", "host": "127.0.0.1", "anyPort": true},
            {"scheme": "http", "host": "[::1]", "port": 8080},
            {"scheme": "com.example.shop"},
        ],
        "maxRefreshTokenTtl": "720h", "allowedAdditionalMetadata": ["template_area"], "maxClientsPerNamespace": 20,
    });
    home.apply(&policy("whole", &whole)).await;
    let kept = home.get(POLICIES, "whole").await.unwrap();
    assert_eq!(kept["spec"], whole, "nothing is lost");
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
async fn the_columns_show_when_a_secret_ends_what_is_suspended_and_why_a_policy_is_not_ready() {
    let home = Home::without_operator("columns").await;
    let suspended = |mut object: Value| {
        object["spec"]["suspend"] = json!(true);
        object
    };
    home.apply(&suspended(home.oauth_client("shop"))).await;
    home.apply(&suspended(profile("https://login.example.com"))).await;
    home.apply(&policy("web", &json!({}))).await;
    let ready = json!({
        "type": "Ready", "status": "False", "reason": "Contradictory", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    for (plural, name, status) in [
        (CLIENTS, "shop", json!({"clientSecretExpiresAt": "2099-01-02T03:04:05Z"})),
        (POLICIES, "web", json!({"conditions": [ready]})),
    ] {
        let patch = json!({"status": status}).to_string();
        let args = ["patch", plural, name, "--subresource=status", "--type=merge", "--patch", &patch];
        home.plane.kubectl_ok(&[&args[..], &["--namespace", &home.name]].concat(), None).await;
    }
    let column = async |plural: &str, title: &str| {
        let args = ["get", plural, "--output", "wide", "--namespace", &home.name];
        let table = home.plane.kubectl_ok(&args, None).await;
        let (head, row) = table.trim_end().split_once('\n').unwrap();
        let at = head.find(title).unwrap_or_else(|| panic!("no {title}: {table}"));
        row[at..].split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(column(CLIENTS, "EXPIRES").await, "2099-01-02T03:04:05Z");
    assert_eq!(column(CLIENTS, "SUSPENDED").await, "true");
    assert_eq!(column(PROFILES, "SUSPENDED").await, "true");
    assert_eq!(column(POLICIES, "REASON").await, "Contradictory");
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

#[tokio::test]
async fn the_samples_for_each_server_are_valid() {
    let home = Home::without_operator("samples").await;
    let folder = crate::support::repository("deploy/profiles");
    let samples: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(samples.len() >= 5, "{samples:?}");
    for sample in samples {
        let text = std::fs::read_to_string(&sample)
            .unwrap()
            .replace("namespace: identity", &format!("namespace: {}", home.name));
        let args = ["apply", "--dry-run=server", "--validate=strict", "--filename", "-"];
        let said = home.plane.kubectl_ok(&args, Some(&text)).await;
        assert!(said.contains("created"), "{}: {said}", sample.display());
    }
}
