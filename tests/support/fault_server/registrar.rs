//! A strict authorization server: initial access tokens that work once, registration, and management with a token that
//! changes with each update. What no careful client would send is recorded as a misuse.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::{Answer, Request};

const FORBIDDEN_IN_UPDATES: [&str; 6] = [
    "client_secret",
    "client_secret_expires_at",
    "client_id_issued_at",
    "registration_access_token",
    "registration_access_token_expires_in",
    "registration_client_uri",
];

/// How a registrar behaves. The default: management by RFC 7592, secrets that never change or end, and a registration access
/// token that changes with each update.
#[derive(Clone, Debug, Default)]
// Each is a quirk of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct RegistrarOptions {
    /// Answers carry no `registration_access_token` and no `registration_client_uri`.
    pub without_management: bool,
    /// Answers carry no `client_secret`.
    pub without_secrets: bool,
    /// A read changes the token and the secret.
    pub rotates_on_read: bool,
    /// An update changes the secret, too.
    pub rotates_secret_on_update: bool,
    /// An update leaves the token as it is.
    pub keeps_token_on_update: bool,
    /// How long the secret before the last one still works.
    pub previous_secret_works_for: Duration,
    /// How long a registration access token reads and updates. Afterwards it only deletes.
    pub read_write_window: Option<Duration>,
    /// How long a secret works; answered as `client_secret_expires_at`.
    pub secret_lifetime: Option<Duration>,
    /// An update changes what it names, and nothing else; empty values empty.
    pub merges: bool,
    /// Values that the server registers whatever it is asked for.
    pub replaces: Map<String, Value>,
    /// Scopes that the server adds to those that it is asked for.
    pub adds_scope: Option<String>,
}

/// The authorization server. `/token` gives tokens to the client `server` (secret `server-secret`) for the scope `dcr`, to
/// the client `manager` (secret `manager-secret`) for the scope `dcrm`, and to registered clients; registration is at `/reg`.
#[derive(Default)]
pub struct Registrar {
    /// Set when the server starts.
    pub issuer: String,
    pub options: RegistrarOptions,
    /// Every client there ever was, by its identifier.
    pub clients: BTreeMap<String, RegisteredClient>,
    /// Public keys (JWKs) with which `server` or `manager` may sign instead of showing its secret.
    pub trusted_keys: BTreeMap<String, Vec<Value>>,
    pub misuses: Vec<String>,
    /// How far its clock is ahead of the real one.
    ahead: Duration,
    unused_tokens: BTreeSet<String>,
    used_tokens: BTreeSet<String>,
    pub(super) management_tokens: BTreeMap<String, Duration>,
    pub(super) assertions: BTreeSet<String>,
    issued: usize,
}

/// A client as the server sees it.
#[derive(Clone, Debug)]
pub struct RegisteredClient {
    pub metadata: Map<String, Value>,
    pub secret: String,
    pub registration_access_token: String,
    pub is_deleted: bool,
    /// When it was registered, by the real clock since 1970.
    pub registered_at: Duration,
    /// Times of the server's clock, since 1970.
    token_issued_at: Duration,
    secret_issued_at: Duration,
    /// The secret before this one.
    previous_secret: Option<String>,
}

/// By what right a client is managed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    /// Its own registration access token.
    Own,
    /// A token that manages any client.
    Manager,
}

impl Registrar {
    pub fn new(options: RegistrarOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Answers carry no `registration_access_token` and no `registration_client_uri`.
    pub fn without_management() -> Self {
        Self::new(RegistrarOptions { without_management: true, ..RegistrarOptions::default() })
    }

    /// A read changes the token and the secret.
    pub fn rotating_on_read() -> Self {
        Self::new(RegistrarOptions { rotates_on_read: true, ..RegistrarOptions::default() })
    }

    /// The server that asks most of its clients: a read and an update change token and secret, and the old secret is dead
    /// at once; the token reads and updates for 28 days; more is registered than was asked for.
    pub fn strict() -> Self {
        let replaces = json!({"grant_types": ["authorization_code", "refresh_token"], "subject_type": "public",
            "require_proof_key": false, "refresh_token_ttl": 3600});
        Self::new(RegistrarOptions {
            rotates_on_read: true,
            rotates_secret_on_update: true,
            read_write_window: Some(Duration::from_hours(28 * 24)),
            replaces: replaces.as_object().cloned().unwrap_or_default(),
            ..RegistrarOptions::default()
        })
    }

    /// How many clients there are now.
    pub fn client_count(&self) -> usize {
        self.clients.values().filter(|client| !client.is_deleted).count()
    }

    /// Issues other identifiers and tokens from now on than a server that has just started.
    pub fn skip(&mut self, issued: usize) {
        self.issued += issued;
    }

    /// Lets time pass for this server.
    pub fn advance(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// The time of its clock, since 1970.
    pub fn now(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + self.ahead
    }

    /// Whether a client's secret works at this moment.
    pub fn accepts(&self, client_id: &str, secret: &str) -> bool {
        let Some(client) = self.clients.get(client_id).filter(|client| !client.is_deleted) else { return false };
        let age = self.now().saturating_sub(client.secret_issued_at);
        let has_ended = self.options.secret_lifetime.is_some_and(|lifetime| age >= lifetime);
        let is_previous = client.previous_secret.as_deref() == Some(secret);
        client.is_confidential()
            && (client.secret == secret && !has_ended || is_previous && age < self.options.previous_secret_works_for)
    }

    /// Loses a client, as a server does that is restored from an old backup.
    pub fn forget(&mut self, client_id: &str) {
        self.clients.remove(client_id);
    }

    /// The registration access token of a client is no longer good.
    pub fn forget_token(&mut self, client_id: &str) {
        let token = self.next("registration-access-token");
        if let Some(client) = self.clients.get_mut(client_id) {
            client.registration_access_token = token;
        }
    }

    /// Answers a request. If it is not carried out, the checks are made all the same, and an initial access token is spent.
    pub(super) fn answer(&mut self, request: &Request, carried_out: bool) -> Answer {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/.well-known/openid-configuration") => self.metadata(),
            ("POST", "/token") => self.token(request, carried_out),
            ("POST", "/reg") => self.register(request, carried_out),
            ("GET" | "PUT" | "DELETE", path) => match path.strip_prefix("/reg/") {
                Some(client_id) => self.manage(request, client_id, carried_out),
                None => Answer::empty(404),
            },
            _ => Answer::empty(404),
        }
    }

    fn metadata(&self) -> Answer {
        let at = |path: &str| format!("{}{path}", self.issuer);
        Answer::json(
            200,
            &json!({
                "issuer": self.issuer, "token_endpoint": at("/token"), "registration_endpoint": at("/reg"),
                "authorization_endpoint": at("/authorize"), "jwks_uri": at("/jwks"), "userinfo_endpoint": at("/userinfo"),
            }),
        )
    }

    fn register(&mut self, request: &Request, carried_out: bool) -> Answer {
        let token = request.bearer().unwrap_or_default().to_owned();
        if self.used_tokens.contains(&token) {
            self.misuses.push(format!("{token} was sent twice"));
        }
        if !self.unused_tokens.remove(&token) {
            return Answer::json(401, &json!({"error": "invalid_token"}));
        }
        self.used_tokens.insert(token);
        let Ok(Value::Object(metadata)) = serde_json::from_slice(&request.body) else {
            self.misuses.push("a registration without a JSON object".to_owned());
            return Answer::empty(400);
        };
        if !carried_out {
            return Answer::empty(500);
        }
        let client_id = self.next("client");
        let client = RegisteredClient {
            metadata: self.registered(metadata),
            secret: self.next("client-secret"),
            registration_access_token: self.next("registration-access-token"),
            is_deleted: false,
            registered_at: self.now().saturating_sub(self.ahead),
            token_issued_at: self.now(),
            secret_issued_at: self.now(),
            previous_secret: None,
        };
        self.clients.insert(client_id.clone(), client);
        self.information(201, &client_id, Right::Own)
    }

    fn manage(&mut self, request: &Request, client_id: &str, carried_out: bool) -> Answer {
        let right = match self.right(request, client_id) {
            Ok(right) => right,
            Err(refusal) => return refusal,
        };
        if request.method == "PUT"
            && let Err(misuse) = check_update(request, client_id)
        {
            let answer = Answer::json(400, &json!({"error": "invalid_request", "error_description": misuse}));
            self.misuses.push(misuse);
            return answer;
        }
        if !carried_out {
            return Answer::empty(500);
        }
        match request.method.as_str() {
            "DELETE" => {
                if let Some(client) = self.clients.get_mut(client_id) {
                    client.is_deleted = true;
                }
                return Answer::empty(204);
            }
            "PUT" => self.update(client_id, request.json().as_object().cloned().unwrap_or_default(), right),
            _ if self.options.rotates_on_read => self.rotate(client_id, right == Right::Own, true),
            _ => {}
        }
        self.information(200, client_id, right)
    }

    /// Who may do what is asked, or the answer to those who may not.
    fn right(&mut self, request: &Request, client_id: &str) -> Result<Right, Answer> {
        let token = request.bearer().unwrap_or_default();
        let refused = Answer::json(401, &json!({"error": "invalid_token"}));
        let client = self.clients.get(client_id).filter(|client| !client.is_deleted);
        if let Some(end) = self.management_tokens.get(token) {
            return match client {
                _ if *end <= self.now() => Err(refused),
                None => Err(Answer::json(404, &json!({"error": "invalid_request"}))),
                Some(_) => Ok(Right::Manager),
            };
        }
        let mut owners = self.clients.iter().filter(|(_, client)| client.registration_access_token == token);
        if let Some((owner, _)) = owners.next()
            && owner != client_id
        {
            self.misuses.push(format!("the token of {owner} was sent for {client_id}"));
            return Err(refused);
        }
        match client {
            Some(client) if client.registration_access_token == token => {
                let age = self.now().saturating_sub(client.token_issued_at);
                let only_deletes = self.options.read_write_window.is_some_and(|window| age >= window);
                if only_deletes && request.method != "DELETE" { Err(refused) } else { Ok(Right::Own) }
            }
            _ => Err(refused),
        }
    }

    fn update(&mut self, client_id: &str, mut document: Map<String, Value>, right: Right) {
        document.remove("client_id");
        let Some(client) = self.clients.get(client_id) else { return };
        let metadata = if self.options.merges {
            let mut merged = client.metadata.clone();
            for (name, value) in document {
                match value {
                    // As if it had not been sent.
                    Value::Null => {}
                    Value::String(text) if text.is_empty() => drop(merged.remove(&name)),
                    Value::Array(list) if list.is_empty() => drop(merged.remove(&name)),
                    value => drop(merged.insert(name, value)),
                }
            }
            merged
        } else {
            document.retain(|_, value| !value.is_null());
            document
        };
        let metadata = self.registered(metadata);
        if let Some(client) = self.clients.get_mut(client_id) {
            client.metadata = metadata;
        }
        let with_token = right == Right::Own && !self.options.keeps_token_on_update;
        self.rotate(client_id, with_token, self.options.rotates_secret_on_update);
    }

    /// New credentials for a client.
    fn rotate(&mut self, client_id: &str, with_token: bool, with_secret: bool) {
        let (token, secret) = (self.next("registration-access-token"), self.next("client-secret"));
        let now = self.now();
        let Some(client) = self.clients.get_mut(client_id) else { return };
        if with_token {
            client.registration_access_token = token;
            client.token_issued_at = now;
        }
        if with_secret {
            client.previous_secret = Some(std::mem::replace(&mut client.secret, secret));
            client.secret_issued_at = now;
        }
    }

    /// What the server makes of the metadata that it is asked for.
    fn registered(&self, mut metadata: Map<String, Value>) -> Map<String, Value> {
        if let Some(more) = &self.options.adds_scope {
            let asked = metadata.get("scope").and_then(Value::as_str).unwrap_or_default();
            let mut scopes: Vec<&str> = asked.split(' ').filter(|scope| !scope.is_empty()).collect();
            scopes.extend(more.split(' ').filter(|scope| !asked.split(' ').any(|known| known == *scope)));
            let scope = scopes.join(" ");
            metadata.insert("scope".to_owned(), scope.into());
        }
        metadata.extend(self.options.replaces.clone());
        metadata
    }

    fn information(&self, status: u16, client_id: &str, right: Right) -> Answer {
        let Some(client) = self.clients.get(client_id) else { return Answer::empty(401) };
        let mut document = client.metadata.clone();
        for (name, default) in [
            ("grant_types", json!(["authorization_code"])),
            ("response_types", json!(["code"])),
            ("token_endpoint_auth_method", json!("client_secret_basic")),
        ] {
            document.entry(name).or_insert(default);
        }
        let mut add = |name: &str, value: Value| document.insert(name.to_owned(), value);
        add("client_id", client_id.into());
        add("client_id_issued_at", 1_560_330_939.into());
        if client.is_confidential() && !self.options.without_secrets {
            let end = self.options.secret_lifetime.map(|lifetime| (client.secret_issued_at + lifetime).as_secs());
            add("client_secret", client.secret.clone().into());
            add("client_secret_expires_at", end.unwrap_or(0).into());
        }
        if !self.options.without_management {
            add("registration_client_uri", format!("{}/reg/{client_id}", self.issuer).into());
            if right == Right::Own {
                add("registration_access_token", client.registration_access_token.clone().into());
                if let Some(window) = self.options.read_write_window {
                    add("registration_access_token_expires_in", window.as_secs().into());
                }
            }
        }
        Answer::json(status, &Value::Object(document))
    }

    pub(super) fn next(&mut self, what: &str) -> String {
        self.issued += 1;
        format!("{what}-{}", self.issued)
    }

    pub(super) fn new_initial_token(&mut self) -> String {
        let token = self.next("initial-access-token");
        self.unused_tokens.insert(token.clone());
        token
    }
}

impl RegisteredClient {
    /// Whether it has a secret.
    fn is_confidential(&self) -> bool {
        let method = self.metadata.get("token_endpoint_auth_method").and_then(Value::as_str);
        method.is_none_or(|method| method.starts_with("client_secret"))
    }
}

/// RFC 7592 section 2.2.
fn check_update(request: &Request, client_id: &str) -> Result<(), String> {
    let Ok(Value::Object(document)) = serde_json::from_slice(&request.body) else {
        return Err("an update without a JSON object".to_owned());
    };
    if document.get("client_id").and_then(Value::as_str) != Some(client_id) {
        return Err(format!("an update of {client_id} without its client_id"));
    }
    match FORBIDDEN_IN_UPDATES.iter().find(|name| document.contains_key(**name)) {
        Some(name) => Err(format!("an update with {name}")),
        None => Ok(()),
    }
}
