//! A real Keycloak on loopback, with the realm of `tests/keycloak/realm.json`.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    authorization_server::{client_credentials, json as answered},
    install_crypto_provider,
    process::{Folder, Supervised, free_port, once_per_process, wait_until, with_free_ports},
    repository,
};

/// It takes five seconds on an idle machine.
const START: Duration = Duration::from_mins(3);

const REALM: &str = "test";

pub struct Keycloak {
    process: Supervised,
    _folder: Folder,
    base: String,
    issuer: String,
    /// The clients that were there before anybody registered one.
    original: BTreeSet<String>,
}

impl Keycloak {
    /// The client whose token registers clients, and does no more. It asks for no scope.
    pub const REGISTRAR: &str = "registrar";
    pub const REGISTRAR_SECRET: &str = "registrar-secret";
    /// The client whose token reads, changes and deletes any client.
    pub const MANAGER: &str = "manager";
    pub const MANAGER_SECRET: &str = "manager-secret";
    /// A user who can log in.
    pub const USER: &str = "alice";
    pub const PASSWORD: &str = "alice-password";

    /// Starts a server of the caller's own, with a database of its own.
    pub async fn start() -> Self {
        install_crypto_provider();
        let distribution = distribution();
        with_free_ports("Keycloak", async || Self::try_start(&distribution).await).await
    }

    /// The server that all tests of this process share. A test that stops it starts its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Keycloak, String>> = OnceLock::new();
        once_per_process(&SHARED, || async { Self::start().await })
    }

    async fn try_start(distribution: &Path) -> Result<Self, String> {
        let folder = Folder::new("keycloak");
        // Its home is a folder of links, except for what it writes to.
        for name in ["conf", "lib", "providers", "themes"] {
            symlink(distribution.join(name), folder.join(name)).expect("a link");
        }
        let database = Path::new("data/h2");
        fs::create_dir_all(folder.path().join(database)).expect("a folder");
        for entry in fs::read_dir(distribution.join(database)).expect("a database with the realm") {
            let file = entry.expect("a folder entry");
            fs::copy(file.path(), folder.path().join(database).join(file.file_name())).expect("a copy");
        }

        let port = free_port();
        let mut command = Command::new(java());
        // Not by its script: Java would go on when that is killed.
        command
            .arg(format!("@{}", repository("tests/keycloak/java-options").display()))
            .arg(format!("-Dkc.home.dir={}", folder.path().display()))
            .arg("-cp")
            .arg(distribution.join("lib/quarkus-run.jar"))
            .args(["io.quarkus.bootstrap.runner.QuarkusEntryPoint", "start", "--optimized", "--cache=local"])
            .args(["--http-enabled=true", "--http-host=127.0.0.1", "--hostname-strict=false"])
            // What was answered is in the file: a server that is killed forgets nothing.
            .arg("--db-url-properties=;WRITE_DELAY=0")
            .arg(format!("--http-port={port}"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KC_") {
                command.env_remove(name);
            }
        }
        let process = Supervised::spawn("Keycloak", command, folder.join("keycloak.log"));
        let base = format!("http://127.0.0.1:{port}");
        let issuer = format!("{base}/realms/{REALM}");
        let mut keycloak = Self { process, _folder: folder, base, issuer, original: BTreeSet::new() };
        keycloak.ready().await?;
        keycloak.original = keycloak.clients().await.iter().map(client_id).collect();
        Ok(keycloak)
    }

    async fn ready(&self) -> Result<(), String> {
        let metadata = format!("{}/.well-known/openid-configuration", self.issuer);
        wait_until("Keycloak is ready", START, async || {
            if self.process.exited().is_some() {
                return Ok(Err(self.process.tail()));
            }
            match http().get(&metadata).send().await {
                Ok(response) if response.status() == StatusCode::OK => Ok(Ok(())),
                Ok(response) => Err(format!("{}\n{}", response.status(), self.process.tail())),
                Err(error) => Err(format!("{error}\n{}", self.process.tail())),
            }
        })
        .await
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn token_endpoint(&self) -> String {
        format!("{}/protocol/openid-connect/token", self.issuer)
    }

    pub fn registration_endpoint(&self) -> String {
        format!("{}/clients-registrations/openid-connect", self.issuer)
    }

    /// The process, for tests that hold up its answers with `stop` and `cont`.
    pub fn process(&self) -> &Supervised {
        &self.process
    }

    /// Ends the server at once. Its clients are in a file.
    pub fn stop(&self) {
        self.process.kill();
    }

    /// Starts it again on the same port, with its clients.
    pub async fn restart(&self) {
        self.process.respawn();
        self.ready().await.unwrap_or_else(|error| panic!("Keycloak did not start again: {error}"));
    }

    /// Gets a token by the client credentials grant, by `client_secret_basic`. Returns the status and the answer.
    pub async fn token(&self, client_id: &str, client_secret: &str) -> (StatusCode, Value) {
        client_credentials(&http(), &self.token_endpoint(), client_id, client_secret).await
    }

    /// Whether it takes the secret of a client that may have no grant to show it with: by the revocation of a token that
    /// there is not (RFC 7009 section 2.2).
    pub async fn accepts(&self, client_id: &str, client_secret: &str) -> bool {
        let form = [("token", "none"), ("client_id", client_id), ("client_secret", client_secret)];
        let url = format!("{}/protocol/openid-connect/revoke", self.issuer);
        http().post(url).form(&form).send().await.expect("an answer").status() == StatusCode::OK
    }

    /// The token of the registrar or of the manager.
    pub async fn bearer(&self, client_id: &str, client_secret: &str) -> String {
        let (status, answer) = self.token(client_id, client_secret).await;
        let token = answer["access_token"].as_str();
        token.unwrap_or_else(|| panic!("{client_id} got no token: {status} {answer}")).to_owned()
    }

    /// The user logs in to a client that may use the password grant.
    pub async fn log_in(&self, client_id: &str, client_secret: &str) -> (StatusCode, Value) {
        let form = [
            ("grant_type", "password"),
            ("username", Self::USER),
            ("password", Self::PASSWORD),
            ("scope", "openid"),
            ("client_id", client_id),
            ("client_secret", client_secret),
        ];
        answered(http().post(self.token_endpoint()).form(&form).send().await.expect("an answer")).await
    }

    /// The clients that have been registered and are still there, as the server sees them.
    pub async fn clients(&self) -> Vec<Value> {
        let (status, clients) = self.admin(Method::GET, "clients?first=0&max=100000", None).await;
        let Value::Array(mut clients) = clients else { panic!("the list of clients: {status} {clients}") };
        clients.retain(|client| !self.original.contains(&self::client_id(client)));
        clients
    }

    /// One client as the server sees it.
    pub async fn client(&self, client_id: &str) -> Option<Value> {
        self.clients().await.into_iter().find(|client| client["clientId"] == client_id)
    }

    /// Changes members of a client, in Keycloak's own names, behind the operator's back.
    pub async fn change(&self, client_id: &str, members: Value) {
        let mut client = self.client(client_id).await.unwrap_or_else(|| panic!("there is no client {client_id}"));
        for (name, value) in members.as_object().expect("an object") {
            client[name] = value.clone();
        }
        let path = format!("clients/{}", client["id"].as_str().expect("an id"));
        let (status, answer) = self.admin(Method::PUT, &path, Some(client)).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
    }

    /// Loses a client.
    pub async fn forget(&self, client_id: &str) {
        self.on_client(Method::DELETE, client_id, "").await;
    }

    /// Makes a new registration access token for a client: the one that the operator has is no longer good.
    pub async fn forget_registration_token(&self, client_id: &str) {
        self.on_client(Method::POST, client_id, "/registration-access-token").await;
    }

    /// Makes a new secret for a client.
    pub async fn change_secret(&self, client_id: &str) -> String {
        let answer = self.on_client(Method::POST, client_id, "/client-secret").await;
        answer["value"].as_str().expect("a secret").to_owned()
    }

    async fn on_client(&self, method: Method, client_id: &str, action: &str) -> Value {
        let client = self.client(client_id).await.unwrap_or_else(|| panic!("there is no client {client_id}"));
        let path = format!("clients/{}{action}", client["id"].as_str().expect("an id"));
        let (status, answer) = self.admin(method, &path, None).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// The admin API of the realm, as the manager.
    async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let url = format!("{}/admin/realms/{REALM}/{path}", self.base);
        let token = self.bearer(Self::MANAGER, Self::MANAGER_SECRET).await;
        let mut request = http().request(method, &url).bearer_auth(token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}\n{}", self.process.tail()));
        let (status, body) = (response.status(), response.bytes().await.expect("a body"));
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
    }
}

fn client_id(client: &Value) -> String {
    client["clientId"].as_str().expect("a client ID").to_owned()
}

fn http() -> reqwest::Client {
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(Duration::from_secs(30));
    client.build().expect("an HTTP client")
}

/// The one that `install.sh` uses.
fn java() -> PathBuf {
    match std::env::var_os("JAVA_HOME").filter(|home| !home.is_empty()) {
        Some(home) => Path::new(&home).join("bin/java"),
        None => "java".into(),
    }
}

/// The folder with a Keycloak that is ready to be started.
fn distribution() -> PathBuf {
    static DISTRIBUTION: OnceLock<PathBuf> = OnceLock::new();
    let install = || {
        let output = Command::new(repository("tests/keycloak/install.sh"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .expect("tests/keycloak/install.sh starts");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        match stdout.lines().last() {
            Some(folder) if output.status.success() => PathBuf::from(folder),
            _ => panic!(
                "there is no Keycloak to test with: tests/keycloak/install.sh ended with {}; it needs Java 17 or later, \
                 Maven and Maven Central\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    };
    DISTRIBUTION.get_or_init(install).clone()
}
