//! A real authorization server (node, `oidc-provider`) and a real application, from `tests/authorization-server`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, OnceLock},
    time::Duration,
};

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    certificates::{Certificates, certificates},
    install_crypto_provider,
    process::{Folder, Supervised, free_port, once_per_process, wait_until, with_free_ports},
    repository,
};

const START: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
// Each is a setting of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct AuthorizationServerOptions {
    /// https, with a certificate of an authority made for this server: `ca_pem`. The client `server-certificate` gets initial
    /// access tokens with `tls_client_auth`, by the certificate of `client_identity_pem`.
    pub tls: bool,
    /// A token that registers any number of clients.
    pub static_initial_access_token: Option<String>,
    /// Registration without a token.
    pub open_registration: bool,
    /// Answers carry no registration access token: clients cannot be read or changed afterwards.
    pub unmanaged: bool,
    /// The secret of the client `server`, which gets initial access tokens. Default: `REGISTRAR_SECRET`.
    pub registrar_secret: Option<String>,
    /// The public keys (JWKs) of the client `server-key`, which gets initial access tokens with `private_key_jwt`.
    pub registrar_keys: Vec<Value>,
    /// How long secrets last. They are accepted 15 seconds longer.
    pub client_secret_ttl: Option<Duration>,
    pub initial_access_token_ttl: Option<Duration>,
    /// It keeps clients and tokens while it is stopped.
    pub persistent: bool,
    /// Default: a free one. A server keeps its port when it is stopped and restarted.
    pub port: Option<u16>,
}

/// An application's client, for `log_in`.
#[derive(Clone, Debug)]
pub struct Application {
    pub client_id: String,
    /// `None`: a public client. With `private_key_jwt` it is the private key, PKCS #8 in PEM.
    pub client_secret: Option<String>,
    pub redirect_uri: String,
    pub scope: String,
    /// `token_endpoint_auth_method`. Default: `client_secret_basic`, or `none` without a secret.
    pub auth_method: Option<String>,
}

pub struct AuthorizationServer {
    process: Supervised,
    folder: Folder,
    issuer: String,
    /// The control endpoint, which has a new port after each start.
    control: Mutex<String>,
    certificates: Option<Certificates>,
}

impl AuthorizationServer {
    /// The client that may get initial access tokens, with `client_secret_basic`. `server-post` is the same with
    /// `client_secret_post`.
    pub const REGISTRAR: &str = "server";
    pub const REGISTRAR_SECRET: &str = "server-secret";
    /// With `private_key_jwt`; see `AuthorizationServerOptions::registrar_keys`.
    pub const REGISTRAR_WITH_KEY: &str = "server-key";
    /// With `tls_client_auth`; see `AuthorizationServerOptions::tls`.
    pub const REGISTRAR_WITH_CERTIFICATE: &str = "server-certificate";

    pub async fn start(options: AuthorizationServerOptions) -> Self {
        install_crypto_provider();
        let packages = packages();
        with_free_ports("the authorization server", async || Self::try_start(&packages, &options).await).await
    }

    /// The server that all tests of this process share: http, all options at their defaults. A test that stops it, or
    /// counts all requests, starts its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<AuthorizationServer, String>> = OnceLock::new();
        once_per_process(&SHARED, || async { Self::start(AuthorizationServerOptions::default()).await })
    }

    async fn try_start(packages: &Path, options: &AuthorizationServerOptions) -> Result<Self, String> {
        let folder = Folder::new("authorization-server");
        // Node looks for packages beside the real path of the script, so the sources are copied to where the packages
        // are linked; nothing is installed in the checkout.
        for entry in fs::read_dir(repository("tests/authorization-server")).expect("the server's sources") {
            let path = entry.expect("a folder entry").path();
            if path.extension().is_some_and(|extension| extension == "mjs" || extension == "json") {
                fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("a copy");
            }
        }
        symlink(packages.join("node_modules"), folder.join("node_modules")).expect("a link");

        let port = options.port.unwrap_or_else(free_port);
        let mut command = Command::new("node");
        command.arg(folder.join("server.mjs")).env("PORT", port.to_string());
        command.env("REGISTRAR_SECRET", options.registrar_secret.as_deref().unwrap_or(Self::REGISTRAR_SECRET));
        if let Some(token) = &options.static_initial_access_token {
            command.env("STATIC_INITIAL_ACCESS_TOKEN", token);
        }
        if let Some(ttl) = options.initial_access_token_ttl {
            command.env("INITIAL_ACCESS_TOKEN_TTL", ttl.as_secs().to_string());
        }
        if let Some(ttl) = options.client_secret_ttl {
            command.env("CLIENT_SECRET_TTL", ttl.as_secs().to_string());
        }
        if !options.registrar_keys.is_empty() {
            command.env("REGISTRAR_JWKS", json!({"keys": options.registrar_keys}).to_string());
        }
        if options.open_registration {
            command.env("OPEN_REGISTRATION", "1");
        }
        if options.unmanaged {
            command.env("UNMANAGED", "1");
        }
        if options.persistent {
            command.env("STORE", folder.join("store"));
        }
        let certificates = options.tls.then(|| {
            let certificates = certificates();
            command.env("TLS_CERT", folder.write("server.crt", &certificates.server));
            command.env("TLS_KEY", folder.write("server.key", &certificates.server_key));
            command.env("TLS_CLIENT_CA", folder.write("ca.crt", &certificates.ca));
            certificates
        });

        let process = Supervised::spawn("the authorization server", command, folder.join("server.log"));
        let (issuer, control) = ready(&process, 0).await?;
        Ok(Self { process, folder, issuer, control: Mutex::new(control), certificates })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The certificate of the authority that signed the server's; only with the option `tls`.
    pub fn ca_pem(&self) -> &str {
        &self.certificates().ca
    }

    /// Certificate and key of the client `server-certificate`; only with the option `tls`.
    pub fn client_identity_pem(&self) -> (&str, &str) {
        (&self.certificates().client, &self.certificates().client_key)
    }

    fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("an authorization server that was started with tls")
    }

    /// The process, for tests that hold up its answers with `stop` and `cont`.
    pub fn process(&self) -> &Supervised {
        &self.process
    }

    /// Ends the server at once. Its clients are lost, unless it is persistent: they are in its memory.
    pub fn stop(&self) {
        self.process.kill();
    }

    /// Starts it again on the same port and with the same certificate; with its clients only if it is persistent.
    pub async fn restart(&self) {
        let already_printed = self.process.log().len();
        self.process.respawn();
        let (_, control) = ready(&self.process, already_printed).await.unwrap_or_else(|error| panic!("{error}"));
        *self.control.lock().unwrap() = control;
    }

    /// The clients that it has, as it stores them.
    pub async fn clients(&self) -> Vec<Value> {
        match self.control(http::Method::GET, "/clients", "").await {
            Value::Array(clients) => clients,
            other => panic!("the control endpoint should answer a list of clients, not {other}"),
        }
    }

    /// Every client that was ever registered: `client_id`, `client_name`, `registered_at` (seconds since 1970), `is_deleted`.
    pub async fn registrations(&self) -> Vec<Value> {
        match self.control(http::Method::GET, "/registrations", "").await {
            Value::Array(registrations) => registrations,
            other => panic!("the control endpoint should answer a list of registrations, not {other}"),
        }
    }

    /// Counters of the requests that it has got since it was started: `token`, `register`, `registerRefused`, `read`,
    /// `update`, `delete`, `initialTokensIssued`, `initialTokensReused`.
    pub async fn requests(&self) -> Value {
        self.control(http::Method::GET, "/requests", "").await
    }

    /// Loses a client, as a server does that is restored from an old backup.
    pub async fn forget(&self, client_id: &str) {
        self.control(http::Method::POST, &format!("/clients/{client_id}/forget"), "").await;
    }

    /// Loses the registration access token of a client.
    pub async fn forget_registration_token(&self, client_id: &str) {
        self.control(http::Method::POST, &format!("/clients/{client_id}/forget-token"), "").await;
    }

    /// Changes members of a client behind the operator's back; null removes one.
    pub async fn change(&self, client_id: &str, members: Value) {
        self.control(http::Method::PATCH, &format!("/clients/{client_id}"), &members.to_string()).await;
    }

    /// Changes the secret of the registrars.
    pub async fn set_registrar_secret(&self, secret: &str) {
        self.control(http::Method::POST, "/registrar-secret", secret).await;
    }

    async fn control(&self, method: http::Method, path: &str, body: &str) -> Value {
        let url = format!("{}{path}", self.control.lock().unwrap());
        let response = self.http().request(method, &url).body(body.to_owned()).send().await;
        let response = response.unwrap_or_else(|error| panic!("{url}: {error}\n{}", self.process.tail()));
        let (status, text) = (response.status(), response.bytes().await.expect("a body"));
        assert!(status.is_success(), "{url}: {status} {}", String::from_utf8_lossy(&text));
        if text.is_empty() { Value::Null } else { serde_json::from_slice(&text).expect("JSON") }
    }

    /// Gets a token by the client credentials grant: the shortest way to see whether the server takes a client's
    /// secret. Returns the status and the answer. The secret is sent by `client_secret_basic`.
    pub async fn token(&self, client_id: &str, client_secret: &str) -> (StatusCode, Value) {
        let metadata = format!("{}/.well-known/openid-configuration", self.issuer);
        let http = self.http();
        let metadata = json(http.get(metadata).send().await.expect("the server's metadata")).await.1;
        let endpoint = metadata["token_endpoint"].as_str().expect("a token endpoint");
        client_credentials(&http, endpoint, client_id, client_secret).await
    }

    /// Whether it takes a client's secret; `None` if it is away.
    pub async fn accepts(&self, client_id: &str, client_secret: &str) -> Option<bool> {
        let request = self.http().post(format!("{}/token", self.issuer)).basic_auth(client_id, Some(client_secret));
        let response = request.form(&[("grant_type", "client_credentials")]).send().await.ok()?;
        let answer: Value = serde_json::from_slice(&response.bytes().await.ok()?).ok()?;
        // A client that it knows may still have no right to this grant.
        Some(answer["error"] != "invalid_client")
    }

    /// Whether a registration access token is good for a client. The server's reads change nothing.
    pub async fn is_registration_access_token(&self, client_id: &str, token: &str) -> bool {
        let request = self.http().get(format!("{}/reg/{client_id}", self.issuer)).bearer_auth(token);
        request.send().await.expect("an answer").status().is_success()
    }

    /// A user logs in to the application: the authorization code flow with PKCE, userinfo, refresh. Returns what the
    /// application tells (`id_token_claims`, `userinfo`, `refreshed`, `scope`); panics with its error if it could not.
    pub async fn log_in(&self, application: Application) -> Value {
        self.try_log_in(application).await.unwrap_or_else(|error| panic!("the application could not log in: {error}"))
    }

    /// `log_in` for those who expect an error.
    pub async fn try_log_in(&self, application: Application) -> Result<Value, String> {
        let mut command = tokio::process::Command::new("node");
        command
            .arg(self.folder.join("application.mjs"))
            .env("ISSUER", &self.issuer)
            .env("CLIENT_ID", application.client_id)
            .env("REDIRECT_URI", application.redirect_uri)
            .env("SCOPE", application.scope)
            .env_remove("CLIENT_SECRET")
            .env_remove("TOKEN_ENDPOINT_AUTH_METHOD")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(secret) = application.client_secret {
            command.env("CLIENT_SECRET", secret);
        }
        if let Some(method) = application.auth_method {
            command.env("TOKEN_ENDPOINT_AUTH_METHOD", method);
        }
        if self.certificates.is_some() {
            command.env("NODE_EXTRA_CA_CERTS", self.folder.join("ca.crt"));
        }
        let output = command.output().await.expect("node starts");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(serde_json::from_slice(&output.stdout).expect("the application prints one JSON object"))
    }

    /// A client that trusts this server's authority and nobody else.
    pub fn http(&self) -> reqwest::Client {
        let trusted = self.certificates.iter();
        let trusted = trusted.map(|pems| reqwest::Certificate::from_pem(pems.ca.as_bytes()).expect("a certificate"));
        let client = reqwest::Client::builder().tls_certs_only(trusted).no_proxy().timeout(Duration::from_secs(30));
        client.build().expect("an HTTP client")
    }
}

/// Waits for the line that the server prints when it is ready: its issuer and its control endpoint.
async fn ready(process: &Supervised, already_printed: usize) -> Result<(String, String), String> {
    wait_until("the authorization server is ready", START, async || {
        let exited = process.exited().is_some();
        let log = process.log();
        // A line without its end may be half of it.
        let lines =
            log.get(already_printed..).unwrap_or_default().split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let ready = lines
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|line| Some((line["issuer"].as_str()?.to_owned(), line["control"].as_str()?.to_owned())));
        match ready {
            Some(ready) => Ok(Ok(ready)),
            None if exited => Ok(Err(process.tail())),
            None => Err(process.tail()),
        }
    })
    .await
}

/// The client credentials grant, with the secret sent by `client_secret_basic`. Returns the status and the answer.
pub(super) async fn client_credentials(
    http: &reqwest::Client,
    token_endpoint: &str,
    client_id: &str,
    client_secret: &str,
) -> (StatusCode, Value) {
    // RFC 6749, section 2.3.1: both are form-encoded before they are joined.
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let request = http
        .post(token_endpoint)
        .basic_auth(encode(client_id), Some(encode(client_secret)))
        .form(&[("grant_type", "client_credentials")]);
    json(request.send().await.expect("an answer of the token endpoint")).await
}

pub(super) async fn json(response: reqwest::Response) -> (StatusCode, Value) {
    let (status, body) = (response.status(), response.bytes().await.expect("a body"));
    let value = serde_json::from_slice(&body);
    (
        status,
        value.unwrap_or_else(|error| panic!("{status} without JSON ({error}): {}", String::from_utf8_lossy(&body))),
    )
}

/// The folder with `node_modules`.
fn packages() -> PathBuf {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    let install = || {
        let output = Command::new(repository("tests/authorization-server/install.sh"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .expect("tests/authorization-server/install.sh starts");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        match stdout.lines().last() {
            Some(folder) if output.status.success() => PathBuf::from(folder),
            _ => panic!(
                "there is no authorization server to test with: tests/authorization-server/install.sh ended with {}; \
                 it needs node, npm and the npm registry",
                output.status
            ),
        }
    };
    PACKAGES.get_or_init(install).clone()
}
