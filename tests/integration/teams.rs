//! Who may do what, and the walk-through of docs/policy.md.

use std::fmt::Write;

use crate::{
    bindings::complete_plane,
    fixtures::*,
    pages,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        control_plane::ControlPlane,
        fault_server::{FaultServer, Registrar},
        process::wait_until,
    },
};

/// Binds a ClusterRole to a user in a namespace.
async fn bind(plane: &ControlPlane, namespace: &str, role: &str, user: &str) {
    let (role, user, name) = (format!("--clusterrole={role}"), format!("--user={user}"), format!("{role}-{user}"));
    plane.kubectl_ok(&["create", "rolebinding", &name, &role, &user, "--namespace", namespace], None).await;
}

/// Whether the API server lets the user do it.
async fn may(plane: &ControlPlane, user: &str, verb: &str, what: &str, namespace: &str) -> bool {
    // A type and a name are written in the same way.
    let (what, subresource) = match what.strip_suffix("/status") {
        Some(what) => (what, "--subresource=status"),
        None => (what, "--subresource="),
    };
    let args = ["auth", "can-i", verb, what, subresource, "--namespace", namespace, "--as", user];
    let output = plane.kubectl_output(&args, None).await;
    String::from_utf8_lossy(&output.stdout).trim() == "yes"
}

#[tokio::test]
async fn each_team_may_do_its_own_work_and_no_more() {
    let plane = complete_plane();
    let (identity, shop) = (Home::on(plane, "identity").await, Home::on(plane, "shop").await);
    let (identity, shop) = (identity.name.as_str(), shop.name.as_str());
    bind(plane, shop, "dcr-operator-client-editor", "ann").await;
    bind(plane, identity, "dcr-operator-admin", "paula").await;
    bind(plane, shop, "dcr-operator-viewer", "vic").await;
    bind(plane, shop, "edit", "ed").await;
    bind(plane, shop, "view", "vera").await;
    wait_until("the roles are aggregated", WAIT, async || {
        may(plane, "paula", "create", "dcrpolicies", identity).await
            && may(plane, "paula", "create", "oauthclients", identity).await
            && may(plane, "ed", "create", "oauthclients", shop).await
            && may(plane, "vera", "get", "oauthclients", shop).await
    })
    .await;
    let rows: &[(&str, &str, &[&str], &str, bool)] = &[
        ("ann", "oauthclients", &["get", "list", "watch", "create", "update", "patch", "delete"], shop, true),
        ("ann", "oauthclients/status", &["get"], shop, true),
        ("ann", "oauthclients/status", &["update", "patch"], shop, false),
        ("ann", "oauthclients", &["get", "create"], identity, false),
        ("ann", "tokenprofiles", &["get", "create", "update", "patch", "delete"], shop, false),
        ("ann", "dcrpolicies", &["get", "create", "update", "patch", "delete"], shop, false),
        ("ann", "dcrpolicies", &["get", "create", "update", "patch", "delete"], identity, false),
        ("ann", "secrets", &["get", "list", "watch", "create", "update", "patch", "delete"], shop, false),
        ("ann", "secrets/shop-registration", &["get"], shop, false),
        ("paula", "tokenprofiles", &["get", "list", "create", "update", "patch", "delete"], identity, true),
        ("paula", "dcrpolicies", &["get", "list", "create", "update", "patch", "delete"], identity, true),
        ("paula", "oauthclients", &["get", "create", "delete"], identity, true),
        ("paula", "secrets", &["get", "list"], identity, false),
        ("paula", "oauthclients", &["get", "create"], shop, false),
        ("paula", "dcrpolicies/status", &["patch"], identity, false),
        ("vic", "oauthclients", &["get", "list", "watch"], shop, true),
        ("vic", "dcrpolicies", &["get", "list"], shop, true),
        ("vic", "tokenprofiles", &["get", "list"], shop, true),
        ("vic", "oauthclients", &["create", "update", "patch", "delete"], shop, false),
        ("vic", "secrets", &["get", "list"], shop, false),
        ("ed", "oauthclients", &["get", "create", "update", "delete"], shop, true),
        ("ed", "dcrpolicies", &["create", "update", "patch", "delete"], shop, false),
        ("ed", "tokenprofiles", &["create", "update", "patch", "delete"], shop, false),
        ("vera", "dcrpolicies", &["get", "list"], shop, true),
        ("vera", "oauthclients", &["create", "delete"], shop, false),
    ];
    let mut wrong = String::new();
    for (user, what, verbs, namespace, expected) in rows {
        for verb in *verbs {
            if may(plane, user, verb, what, namespace).await != *expected {
                writeln!(wrong, "{user} {verb} {what}: should be {expected}").expect("a text");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn a_team_reads_the_secret_that_it_was_given_and_not_the_registration() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let home = Home::on(complete_plane(), "given").await;
    home.profile(&server.url("")).await;
    home.register("shop").await;
    let plane = home.plane;
    let user = format!("ann-of-{}", home.name);
    bind(plane, &home.name, "dcr-operator-client-editor", &user).await;
    let args = ["create", "role", "its-secret", "--verb=get", "--resource=secrets", "--resource-name=shop"];
    plane.kubectl_ok(&[&args[..], &["--namespace", &home.name]].concat(), None).await;
    let args = ["create", "rolebinding", "its-secret", "--role=its-secret", "--user", &user, "--namespace", &home.name];
    plane.kubectl_ok(&args, None).await;
    let get = async |secret: &str| {
        let args = ["get", "secret", secret, "--namespace", &home.name, "--as", &user, "-o", "name"];
        let output = plane.kubectl_output(&args, None).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
    };
    wait_until("the role is known", WAIT, async || (get("shop").await == "secret/shop").then_some(())).await;
    for secret in ["shop-registration", "registrar"] {
        assert_says(&get(secret).await, &["Forbidden", &format!("secrets \"{secret}\" is forbidden")]);
    }
    let list = ["get", "secrets", "--namespace", &home.name, "--as", &user];
    assert_says(&plane.kubectl_err(&list, None).await, &["Forbidden"]);
    let client = ["get", CLIENTS, "shop", "--namespace", &home.name, "--as", &user, "-o", "name"];
    assert_eq!(plane.kubectl_ok(&client, None).await.trim(), "oauthclient.dcr-operator.dev/shop");
    // Neither does a client show it: its status has no credential.
    let status = home.get(CLIENTS, "shop").await.unwrap()["status"].to_string();
    let registration = home.registration("shop").await;
    for credential in ["client_secret", "registration_access_token"] {
        let credential = registration[credential].as_str().expect("a credential");
        assert!(!status.contains(credential));
    }
}

const UNTIL_IN_FORCE: &str = r"
for attempt in $(seq 100); do
kubectl create --dry-run=server --namespace=shop --filename=- <<'YAML' 2>&1 | grep -q 'DcrPolicy web-clients' && break
apiVersion: dcr-operator.dev/v1alpha1
kind: OAuthClient
metadata: {name: probe}
spec: {profileRef: {name: token-service, namespace: identity}, clientMetadata: {scope: never}}
YAML
sleep 0.1
done
";

#[tokio::test]
async fn the_commands_of_the_page_about_policies_do_what_it_says() {
    let server = AuthorizationServer::start(AuthorizationServerOptions::default()).await;
    let env = [("ISSUER", server.issuer()), ("REGISTRAR_SECRET", AuthorizationServer::REGISTRAR_SECRET)];
    // People take longer to take turns than the API server takes to learn of a policy. A script does not.
    let after = |block: &pages::Block| if block.commands.contains("kind: DcrPolicy") { UNTIL_IN_FORCE } else { "" };
    pages::run("docs/policy.md", complete_plane(), &env, after).await;
    let requests = server.requests().await;
    assert_eq!(requests["register"], 1, "what was refused never reached the server: {requests}");
    wait_until("the client is gone", WAIT, async || server.clients().await.is_empty()).await;
}
