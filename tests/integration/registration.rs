//! From a manifest to credentials that work.

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::AuthorizationServer,
        fault_server::{FaultServer, Registrar},
        process::wait_until,
    },
};

#[tokio::test]
async fn an_applied_client_gets_credentials_that_work() {
    let (home, server) = (Home::new("shop").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let client = home.register("shop").await;

    let secret = home.secret("shop").await;
    let keys: Vec<&str> = secret.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "authorization-grant-types",
            "authorization-uri",
            "client-authentication-method",
            "client-id",
            "client-secret",
            "issuer-uri",
            "jwk-set-uri",
            "provider",
            "redirect-uris",
            "scope",
            "token-uri",
            "type",
            "user-info-uri",
        ]
    );
    assert_eq!(
        (secret["type"].as_str(), secret["provider"].as_str(), secret["issuer-uri"].as_str()),
        ("oauth2", PROFILE, server.issuer())
    );
    assert_eq!(secret["authorization-grant-types"], "authorization_code,refresh_token");
    assert_eq!((secret["scope"].as_str(), secret["redirect-uris"].as_str()), ("openid,email", REDIRECT_URI));

    let told = server.log_in(application(&secret)).await;
    assert_eq!(told["refreshed"], true, "{told}");
    assert_eq!(told["userinfo"]["email_verified"], true, "{told}");

    let registered = home.registered(server, "shop").await;
    assert_eq!(registered.len(), 1, "{registered:#?}");
    assert_eq!(registered[0]["client_id"], secret["client-id"].as_str());

    let status = &client["status"];
    assert_eq!(status["clientId"], secret["client-id"].as_str());
    assert_eq!(status["binding"], json!({"name": "shop"}));
    assert_eq!(status["observedGeneration"], 1);
    assert!(status["clientIdIssuedAt"].is_string(), "{status:#}");
    let conditions = status["conditions"].as_array().unwrap();
    let types: Vec<&str> = conditions.iter().map(|condition| condition["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["Ready", "Accepted", "Registered", "InSync", "SecretSynced"]);
    for condition in conditions {
        assert_eq!(
            (&condition["status"], &condition["observedGeneration"]),
            (&json!("True"), &json!(1)),
            "{condition}"
        );
    }
    assert!(home.until_event("Registered").await.contains(&secret["client-id"]));
}

#[tokio::test]
async fn the_registration_access_token_is_kept_apart_from_the_application() {
    let (home, server) = (Home::new("apart").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let client = home.register("shop").await;

    let registration = home.get(SECRETS, "shop-registration").await.unwrap();
    assert_eq!(registration["type"], "dcr-operator.dev/registration");
    let application = home.get(SECRETS, "shop").await.unwrap();
    for secret in [&registration, &application] {
        let metadata = &secret["metadata"];
        assert_eq!(metadata["ownerReferences"][0]["uid"], client["metadata"]["uid"]);
        assert_eq!(metadata["ownerReferences"][0]["controller"], true);
        assert_eq!(
            metadata["labels"],
            json!({"app.kubernetes.io/managed-by": "dcr-operator", "dcr-operator.dev/client": "shop"})
        );
    }
    assert_eq!(registration["metadata"]["finalizers"], json!(["dcr-operator.dev/deregister"]));
    assert_eq!(application["metadata"]["finalizers"], Value::Null);

    let answer = home.registration("shop").await;
    let kept = ["registration_access_token", "registration_client_uri"].map(|name| answer[name].as_str().unwrap());
    for (key, value) in home.secret("shop").await {
        assert!(kept.iter().all(|kept| !value.contains(kept)), "{key} gives management access away");
    }
}

#[tokio::test]
async fn kubectl_waits_for_clients_and_lists_all_kinds() {
    let home = Home::new("kubectl").await;
    home.profile(AuthorizationServer::shared().issuer()).await;
    home.apply(&policy("web", &json!({"allowedScopes": ["openid", "email"]}))).await;
    home.apply(&home.oauth_client("shop")).await;
    let (plane, namespace) = (home.plane, home.name.as_str());
    let wait = ["wait", "--for=condition=Ready", "--timeout=30s", "--namespace", namespace];
    for object in ["oauthclient/shop", "tokenprofile/token-service", "dcrpolicy/web"] {
        plane.kubectl_ok(&[&wait[..], &[object]].concat(), None).await;
    }
    let client_id = home.secret("shop").await["client-id"].clone();
    let list = plane.kubectl_ok(&["get", "dcr", "--all-namespaces"], None).await;
    let of_this_namespace: Vec<&str> = list.lines().filter(|line| line.starts_with(namespace)).collect();
    assert_eq!(of_this_namespace.len(), 3, "{list}");
    for words in [
        ["oauthclient.dcr-operator.dev/shop", client_id.as_str()],
        ["tokenprofile.dcr-operator.dev/token-service", "http://127.0.0.1"],
    ] {
        assert!(of_this_namespace.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {list}");
    }
    let by_field = ["get", "oac", "--field-selector", "spec.profileRef.name=token-service", "--output", "name"];
    let found = plane.kubectl_ok(&[&by_field[..], &["--namespace", namespace]].concat(), None).await;
    assert_eq!(found.trim(), "oauthclient.dcr-operator.dev/shop");
}

#[tokio::test]
async fn the_keys_of_the_secret_are_as_the_format_says() {
    let (home, server) = (Home::new("format").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    for (name, format) in [("env", "Env"), ("rfc", "Rfc7591")] {
        let mut client = home.oauth_client(name);
        client["spec"]["secret"] =
            json!({"format": format, "name": format!("{name}-oauth"), "type": "example.com/oauth"});
        home.apply(&client).await;
    }
    assert_eq!(home.until_ready("env").await["status"]["binding"]["name"], "env-oauth");
    home.until_ready("rfc").await;
    let (env, rfc) = (home.secret("env-oauth").await, home.secret("rfc-oauth").await);
    assert_eq!((env["SCOPE"].as_str(), rfc["scope"].as_str()), ("openid,email", "openid email"));
    assert_eq!((env["ISSUER_URI"].as_str(), rfc["issuer"].as_str()), (server.issuer(), server.issuer()));
    for (id, secret) in [(&env["CLIENT_ID"], &env["CLIENT_SECRET"]), (&rfc["client_id"], &rfc["client_secret"])] {
        let (_, answer) = server.token(id, secret).await;
        // The server knows the credentials, and the client may not use this grant.
        assert_ne!(answer["error"], "invalid_client", "{answer}");
    }
    assert_eq!(home.get(SECRETS, "env-oauth").await.unwrap()["type"], "example.com/oauth");
}

#[tokio::test]
async fn a_public_client_has_no_secret_key() {
    let (home, server) = (Home::new("public").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let mut client = home.oauth_client("app");
    client["spec"]["clientMetadata"]["token_endpoint_auth_method"] = json!("none");
    home.apply(&client).await;
    home.until_ready("app").await;
    let secret = home.secret("app").await;
    assert!(!secret.contains_key("client-secret"), "{:?}", secret.keys());
    assert_eq!(secret["client-authentication-method"], "none");
    assert_eq!(server.log_in(application(&secret)).await["refreshed"], true);
}

#[tokio::test]
async fn a_registration_takes_four_writes_and_two_calls_and_then_all_is_quiet() {
    let (home, server) = (Home::new("quiet").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let (position, calls) = (home.plane.audit_position(), server.requests().len());
    home.register("shop").await;
    // A client that comes later: when all its writes are in the log, those of the first one are long since.
    home.register("later").await;
    let writes = |name: &str| {
        let about = [name.to_owned(), format!("{name}-registration")];
        let log = home.audit(position).writes();
        log.filter(|event| about.iter().any(|name| event["objectRef"]["name"] == name.as_str()))
            .filter(|event| event["objectRef"]["resource"] != "events")
    };
    wait_until("the later client's writes are logged", WAIT, async || {
        let count = writes("later").resource("oauthclients/status").count();
        if count > 0 { Ok(()) } else { Err(count) }
    })
    .await;
    let log = writes("shop");
    assert_eq!(log.count(), 4, "intent, registration Secret, Secret, status:\n{}", log.summary());
    for (resource, count) in [("oauthclients", 1), ("secrets", 2), ("oauthclients/status", 1)] {
        assert_eq!(log.clone().resource(resource).count(), count, "{resource}:\n{}", log.summary());
    }
    let calls: Vec<String> =
        server.requests()[calls..].iter().map(|call| format!("{} {}", call.method, call.path)).collect();
    assert_eq!(calls, ["POST /token", "POST /reg", "POST /token", "POST /reg"]);
}

#[tokio::test]
async fn the_same_manifest_applied_again_changes_nothing() {
    let (home, server) = (Home::new("again").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let before = home.register("shop").await;
    let calls = server.requests().len();
    home.apply(&home.oauth_client("shop")).await;
    home.register("barrier").await;
    let after = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    assert_eq!(server.requests().len() - calls, 2, "the barrier's token and registration");
}

#[tokio::test]
async fn hundred_clients_are_registered_once_each() {
    let (home, server) = (Home::new("many").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let names: Vec<String> = (0..100).map(|number| format!("client-{number}")).collect();
    futures::future::join_all(names.iter().map(async |name| home.apply(&home.oauth_client(name)).await)).await;
    for name in &names {
        home.until_ready(name).await;
    }
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 100);
    assert_eq!(server.requests_to("POST", "/reg").len(), 100);
    let counted = |profile: &Value| profile["status"]["clients"] == 100;
    home.until("it counts its clients", PROFILES, PROFILE, counted).await;
}

#[tokio::test]
async fn the_operator_does_all_that_with_the_rights_that_are_shipped() {
    let home = Home::new("rights").await;
    let position = home.plane.audit_position();
    home.profile(AuthorizationServer::shared().issuer()).await;
    home.register("shop").await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    let refused = home.audit(position).code(403);
    assert_eq!(refused.count(), 0, "{}", refused.summary());
    // It asks for no list and no watch of Secrets but by label, and then for metadata only.
    let all = home.plane.audit().service_account("dcr-operator", "dcr-operator").resource("secrets");
    for event in all.filter(|event| ["list", "watch"].iter().any(|verb| event["verb"] == *verb)).0 {
        assert!(event["requestURI"].as_str().unwrap().contains("labelSelector"), "{event:#}");
    }
}
