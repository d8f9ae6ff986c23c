//! The whole life of a client, step by step, on each server. A server that can't do a step says so in its row, and the
//! operator's answer to that is what the step asserts. After each step the credentials of the Secret get a token, and the
//! server has exactly the clients that the cluster has.

use std::{collections::BTreeSet, time::Duration};

use dcr_operator::dcr;
use serde_json::{Value, json};

use crate::{
    fixtures::*,
    pages,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        control_plane::ControlPlane,
        fault_server::{FaultServer, Registrar},
        keycloak::Keycloak,
        process::wait_until,
    },
};

enum Server {
    OidcProvider(&'static AuthorizationServer),
    Keycloak(&'static Keycloak),
    /// Reads and updates change token and secret.
    Strict(FaultServer),
}

/// What a server can do.
#[allow(clippy::struct_excessive_bools)]
struct Abilities {
    /// A member that is removed from the spec goes away there, and reads as this.
    removed: Value,
    /// It is read to find drift.
    is_compared: bool,
    /// It rotates the secret of the client that there is.
    rotates_in_place: bool,
    /// It has a management client, which manages a client whose token is lost.
    has_manager: bool,
}

impl Server {
    fn abilities(&self) -> Abilities {
        match self {
            Self::OidcProvider(_) => {
                Abilities { removed: Value::Null, is_compared: true, rotates_in_place: false, has_manager: false }
            }
            Self::Keycloak(_) => {
                Abilities { removed: json!(""), is_compared: true, rotates_in_place: false, has_manager: true }
            }
            Self::Strict(_) => {
                Abilities { removed: Value::Null, is_compared: false, rotates_in_place: true, has_manager: false }
            }
        }
    }

    /// The profile, and the Secrets that it needs.
    fn profile(&self) -> Vec<Value> {
        match self {
            Self::OidcProvider(server) => {
                let mut profile = profile(server.issuer());
                profile["spec"]["resyncInterval"] = json!("10s");
                vec![registrar_secret(AuthorizationServer::REGISTRAR_SECRET), profile]
            }
            Self::Keycloak(server) => {
                let mut manager = registrar_secret(Keycloak::MANAGER_SECRET);
                manager["metadata"]["name"] = json!("manager");
                let mut profile = profile(server.issuer());
                profile["spec"]["resyncInterval"] = json!("10s");
                profile["spec"]["initialAccessToken"]["clientCredentials"]["clientId"] = json!(Keycloak::REGISTRAR);
                profile["spec"]["server"] = json!({
                    "type": "Keycloak",
                    "managementClient": {"clientId": Keycloak::MANAGER, "secretRef": {"name": "manager"}},
                });
                vec![registrar_secret(Keycloak::REGISTRAR_SECRET), manager, profile]
            }
            Self::Strict(server) => {
                let mut profile = profile(&server.url(""));
                profile["spec"]["resyncInterval"] = json!("10s");
                profile["spec"]["server"] = json!({"type": "Curity"});
                vec![registrar_secret(AuthorizationServer::REGISTRAR_SECRET), profile]
            }
        }
    }

    fn token_endpoint(&self) -> String {
        match self {
            Self::OidcProvider(server) => format!("{}/token", server.issuer()),
            Self::Keycloak(server) => server.token_endpoint(),
            Self::Strict(server) => server.url("/token"),
        }
    }

    fn issuer(&self) -> String {
        match self {
            Self::OidcProvider(server) => server.issuer().to_owned(),
            Self::Keycloak(server) => server.issuer().to_owned(),
            Self::Strict(server) => server.url(""),
        }
    }

    /// Identifier and name of every client that it has.
    async fn clients(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self {
            Self::OidcProvider(server) => {
                let clients = server.clients().await;
                clients.iter().map(|client| (text(&client["client_id"]), text(&client["client_name"]))).collect()
            }
            Self::Keycloak(server) => {
                let clients = server.clients().await;
                clients.iter().map(|client| (text(&client["clientId"]), text(&client["name"]))).collect()
            }
            Self::Strict(server) => server.registrar(|registrar| {
                let clients = registrar.clients.iter().filter(|(_, client)| !client.is_deleted);
                clients.map(|(id, client)| (id.clone(), text(&client.metadata["client_name"]))).collect()
            }),
        }
    }

    /// The client's `client_uri` there.
    async fn client_uri(&self, client_id: &str) -> Value {
        match self {
            Self::OidcProvider(server) => {
                let clients = server.clients().await;
                clients.iter().find(|client| client["client_id"] == client_id).unwrap()["client_uri"].clone()
            }
            Self::Keycloak(server) => server.client(client_id).await.unwrap()["baseUrl"].clone(),
            Self::Strict(server) => server.registrar(|registrar| {
                registrar.clients[client_id].metadata.get("client_uri").cloned().unwrap_or_default()
            }),
        }
    }

    /// Somebody changes the client's `client_uri` there.
    async fn edit_client_uri(&self, client_id: &str, uri: &str) {
        match self {
            Self::OidcProvider(server) => server.change(client_id, json!({"client_uri": uri})).await,
            Self::Keycloak(server) => server.change(client_id, json!({"baseUrl": uri})).await,
            Self::Strict(server) => server.registrar(|registrar| {
                registrar.clients.get_mut(client_id).unwrap().metadata.insert("client_uri".into(), json!(uri));
            }),
        }
    }

    /// It no longer knows the client's registration access token.
    async fn forget_token(&self, client_id: &str) {
        match self {
            Self::OidcProvider(server) => server.forget_registration_token(client_id).await,
            Self::Keycloak(server) => server.forget_registration_token(client_id).await,
            Self::Strict(server) => server.registrar(|registrar| {
                registrar.clients.get_mut(client_id).unwrap().registration_access_token = "another".into();
            }),
        }
    }
}

/// One client on one server.
struct Life {
    home: Home,
    server: Server,
    /// What stays on the server and was reported, because its token was lost.
    reported: BTreeSet<String>,
}

impl Life {
    async fn begin(prefix: &str, server: Server) -> Self {
        let home = Home::new(prefix).await;
        for object in server.profile() {
            home.apply(&object).await;
        }
        home.until_profile_ready().await;
        let mut client = home.oauth_client("shop");
        let metadata = &mut client["spec"]["clientMetadata"];
        metadata["grant_types"] = json!(["authorization_code", "refresh_token", "client_credentials"]);
        metadata["client_uri"] = json!("https://shop.example.com/");
        home.apply(&client).await;
        let life = Self { home, server, reported: BTreeSet::new() };
        life.check("register").await;
        life
    }

    async fn change(&self, spec: Value) {
        self.home.patch(CLIENTS, "shop", json!({"spec": spec})).await;
    }

    async fn ask(&self, annotation: &str, value: &str) {
        self.home.annotate("shop", &format!("dcr-operator.dev/{annotation}"), value).await;
    }

    async fn client_id(&self) -> String {
        self.home.get(CLIENTS, "shop").await.unwrap()["status"]["clientId"].as_str().expect("a client id").to_owned()
    }

    async fn until_in_sync(&self) {
        self.home
            .until("in sync", CLIENTS, "shop", |client| {
                let in_sync = condition(client, "InSync");
                in_sync["status"] == "True" && in_sync["observedGeneration"] == client["metadata"]["generation"]
            })
            .await;
    }

    /// What must hold after each step.
    async fn check(&self, step: &str) {
        let client = self.home.until_ready("shop").await;
        let secret = self.home.secret("shop").await;
        assert_eq!(client["status"]["clientId"], secret["client-id"].as_str(), "{step}");
        let pem = |key: &str| dcr::KeyPair::from_pem(&secret["private-key"].clone().into(), Some(key.into())).unwrap();
        let authentication = match secret.get("client-secret") {
            Some(secret) => dcr::ClientAuthentication::ClientSecretBasic(secret.clone().into()),
            None => {
                dcr::ClientAuthentication::PrivateKeyJwt { key: pem(&secret["key-id"]), audience: self.server.issuer() }
            }
        };
        let options = dcr::ServerOptions {
            ca_bundle: None,
            client_identity: None,
            allow_insecure_http: true,
            request_timeout: Duration::from_secs(20),
            max_concurrent_requests: 1,
            requests_per_second: 0,
        };
        let grant = dcr::ClientCredentials {
            client_id: secret["client-id"].clone(),
            authentication,
            scope: None,
            parameters: std::collections::BTreeMap::new(),
        };
        let token = dcr::Server::new(&options).unwrap().access_token(&self.server.token_endpoint(), &grant).await;
        // A server that has registered other grant types than were asked for knows the client, and gives it no token.
        let known = token.as_ref().map_or_else(|e| e.to_string().contains("unauthorized_client"), |_| true);
        assert!(known, "{step}: the credentials do not work: {}", token.unwrap_err());

        let name = format!("shop of {}", self.home.name);
        wait_until(&format!("{step}: the server has what the cluster has"), WAIT, async || {
            let client = self.home.get(CLIENTS, "shop").await.unwrap();
            let former = client["status"]["retiring"].as_array().cloned().unwrap_or_default();
            let held =
                std::iter::once(&client["status"]["clientId"]).chain(former.iter().map(|former| &former["clientId"]));
            let mut held: BTreeSet<String> = held.map(|id| id.as_str().unwrap().to_owned()).collect();
            held.extend(self.reported.clone());
            let clients = self.server.clients().await.into_iter();
            let registered: BTreeSet<String> = clients.filter(|(_, other)| *other == name).map(|(id, _)| id).collect();
            if registered == held { Ok(()) } else { Err(format!("the server: {registered:?}, the cluster: {held:?}")) }
        })
        .await;
    }

    async fn run(mut self) {
        let can = self.server.abilities();

        // Update.
        let second = "https://shop.example.com/second";
        self.change(json!({"clientMetadata": {"redirect_uris": [REDIRECT_URI, second]}})).await;
        self.until_in_sync().await;
        let uris = self.home.secret("shop").await["redirect-uris"].clone();
        assert_eq!(uris.split(',').collect::<BTreeSet<_>>(), BTreeSet::from([REDIRECT_URI, second]));
        self.check("update").await;

        // A member that is removed.
        self.change(json!({"clientMetadata": {"client_uri": null}})).await;
        self.until_in_sync().await;
        let removed = self.server.client_uri(&self.client_id().await).await;
        assert!(removed == can.removed || removed.is_null(), "removed: {removed}");
        self.check("remove a member").await;

        // Drift.
        self.change(json!({"clientMetadata": {"client_uri": "https://shop.example.com/ours"}})).await;
        self.until_in_sync().await;
        let client_id = self.client_id().await;
        self.server.edit_client_uri(&client_id, "https://shop.example.com/theirs").await;
        if can.is_compared {
            wait_until("it is put right", WAIT, async || match self.server.client_uri(&client_id).await {
                uri if uri == "https://shop.example.com/ours" => Ok(()),
                uri => Err(uri.to_string()),
            })
            .await;
            assert_says(&self.home.until_event("DriftCorrected").await, &["client_uri"]);
        }
        self.check("drift").await;

        // Rotation.
        let before = self.home.secret("shop").await;
        self.ask("rotate-requested-at", "1").await;
        if !can.rotates_in_place {
            let message = self.home.until_condition(CLIENTS, "shop", ["InSync", "False", "UpdateUnsupported"]).await;
            assert_says(&message, &["spec.replacement.when: [Rotation]"]);
            self.change(json!({"replacement": {"when": ["Rotation", "RegistrationLost"], "overlap": "1h"}})).await;
        }
        let handled = |client: &Value| client["status"]["lastHandledRotateAt"] == "1";
        self.home.until("rotated", CLIENTS, "shop", handled).await;
        let after = self.home.secret("shop").await;
        assert_eq!(after["client-id"] == before["client-id"], can.rotates_in_place);
        assert_ne!(after["client-secret"], before["client-secret"]);
        self.check("rotate").await;

        // A key of its own, another one, and back.
        {
            self.change(json!({"keys": {"algorithm": "ES256"}})).await;
            self.until_in_sync().await;
            let first = self.home.secret("shop").await;
            assert!(!first.contains_key("client-secret") && first["private-key"].contains("PRIVATE KEY"));
            self.check("keys").await;
            self.ask("rotate-requested-at", "2").await;
            let handled = |client: &Value| client["status"]["lastHandledRotateAt"] == "2";
            self.home.until("the key is rotated", CLIENTS, "shop", handled).await;
            assert_ne!(self.home.secret("shop").await["key-id"], first["key-id"]);
            self.check("rotate the key").await;
            self.change(json!({"keys": null})).await;
            self.until_in_sync().await;
            self.check("no keys").await;
        }

        // The token is lost.
        let client_id = self.client_id().await;
        self.server.forget_token(&client_id).await;
        self.change(json!({"clientMetadata": {"client_uri": "https://shop.example.com/later"}})).await;
        if can.has_manager {
            self.until_in_sync().await;
            assert_eq!(self.client_id().await, client_id, "the management client has changed it");
        } else {
            if can.rotates_in_place {
                self.home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
                self.change(json!({"replacement": {"when": ["RegistrationLost"]}})).await;
            }
            self.home.until_condition(CLIENTS, "shop", ["Registered", "True", "Replaced"]).await;
            let lost = client_id.clone();
            self.home.until("another client", CLIENTS, "shop", move |c| c["status"]["clientId"] != lost.as_str()).await;
            let orphaned = format!("client {client_id} stays");
            wait_until("it is reported", WAIT, async || {
                let notes = self.home.events("Orphaned").await;
                if notes.iter().any(|note| note.contains(&orphaned)) { Ok(()) } else { Err(notes.join("; ")) }
            })
            .await;
            self.reported.insert(client_id);
        }
        self.check("lose the token").await;

        // Deletion takes the former clients along.
        self.home.delete(CLIENTS, "shop").await;
        self.home.until_gone(CLIENTS, "shop").await;
        let name = format!("shop of {}", self.home.name);
        let left: BTreeSet<String> =
            self.server.clients().await.into_iter().filter(|(_, other)| *other == name).map(|(id, _)| id).collect();
        assert_eq!(left, self.reported, "what is left on the server was reported");
    }
}

#[tokio::test]
async fn the_life_of_a_client_of_oidc_provider() {
    Life::begin("life-oidc", Server::OidcProvider(AuthorizationServer::shared())).await.run().await;
}

#[tokio::test]
async fn the_life_of_a_client_of_keycloak() {
    Life::begin("life-keycloak", Server::Keycloak(Keycloak::shared())).await.run().await;
}

#[tokio::test]
async fn the_life_of_a_client_of_a_server_whose_reads_and_updates_change_credentials() {
    let server = FaultServer::start_registrar(Registrar::strict()).await;
    Life::begin("life-strict", Server::Strict(server)).await.run().await;
}

#[tokio::test]
async fn the_commands_of_the_user_guide_do_what_it_says() {
    let (server, keycloak) = (AuthorizationServer::shared(), Keycloak::shared());
    let options = AuthorizationServerOptions { unmanaged: true, ..AuthorizationServerOptions::default() };
    let plain = AuthorizationServer::start(options).await;
    let env = [
        ("ISSUER", server.issuer()),
        ("PLAIN_ISSUER", plain.issuer()),
        ("REGISTRAR_SECRET", AuthorizationServer::REGISTRAR_SECRET),
        ("KEYCLOAK", keycloak.issuer()),
        ("KEYCLOAK_REGISTRAR_SECRET", Keycloak::REGISTRAR_SECRET),
        ("KEYCLOAK_MANAGER_SECRET", Keycloak::MANAGER_SECRET),
    ];
    shared_operator();
    pages::run("docs/user-guide.md", ControlPlane::shared(), &env, |_| "").await;
    let left: Vec<String> = server.clients().await.iter().map(|client| client["client_name"].to_string()).collect();
    assert!(!left.iter().any(|name| ["Books", "Old", "Renewed"].iter().any(|own| name.contains(own))), "{left:?}");
    assert_eq!(plain.clients().await.len(), 2, "both were reported: they can't be removed");
}
