//! A strict authorization server: initial access tokens that work once, registration, and management with a token that
//! changes with each update. What no careful client would send is recorded as a misuse.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Answer, Request};

const FORBIDDEN_IN_UPDATES: [&str; 5] = [
    "client_secret",
    "client_secret_expires_at",
    "client_id_issued_at",
    "registration_access_token",
    "registration_client_uri",
];

/// The authorization server. `/token` knows the client `server` with the secret `server-secret`; registration is at `/reg`.
#[derive(Default)]
pub struct Registrar {
    /// Set when the server starts.
    pub issuer: String,
    /// Every client there ever was, by its identifier.
    pub clients: BTreeMap<String, RegisteredClient>,
    pub misuses: Vec<String>,
    without_management: bool,
    rotates_on_read: bool,
    unused_tokens: BTreeSet<String>,
    used_tokens: BTreeSet<String>,
    issued: usize,
}

/// A client as the server sees it.
#[derive(Clone, Debug)]
pub struct RegisteredClient {
    pub metadata: Map<String, Value>,
    pub secret: String,
    pub registration_access_token: String,
    pub is_deleted: bool,
}

impl Registrar {
    /// Answers carry no `registration_access_token` and no `registration_client_uri`.
    pub fn without_management() -> Self {
        Self { without_management: true, ..Self::default() }
    }

    /// A read changes the token and the secret.
    pub fn rotating_on_read() -> Self {
        Self { rotates_on_read: true, ..Self::default() }
    }

    /// How many clients there are now.
    pub fn client_count(&self) -> usize {
        self.clients.values().filter(|client| !client.is_deleted).count()
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

    fn token(&mut self, request: &Request, carried_out: bool) -> Answer {
        let form = request.form();
        let value = |name: &str| form.get(name).map(String::as_str);
        // base64 of server:server-secret
        let is_basic = request.header("authorization") == Some("Basic c2VydmVyOnNlcnZlci1zZWNyZXQ=");
        let is_post = (value("client_id"), value("client_secret")) == (Some("server"), Some("server-secret"));
        if is_basic == is_post {
            return Answer::json(401, &json!({"error": "invalid_client"}));
        }
        if value("grant_type") != Some("client_credentials") {
            return Answer::json(400, &json!({"error": "unsupported_grant_type"}));
        }
        if !carried_out {
            return Answer::empty(500);
        }
        let token = self.next("initial-access-token");
        self.unused_tokens.insert(token.clone());
        Answer::json(200, &json!({"access_token": token, "scope": "dcr", "token_type": "bearer", "expires_in": 300}))
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
            metadata,
            secret: self.next("client-secret"),
            registration_access_token: self.next("registration-access-token"),
            is_deleted: false,
        };
        self.clients.insert(client_id.clone(), client);
        self.information(201, &client_id)
    }

    fn manage(&mut self, request: &Request, client_id: &str, carried_out: bool) -> Answer {
        let token = request.bearer().unwrap_or_default();
        let owner = self.clients.iter().find(|(_, client)| client.registration_access_token == token);
        match owner {
            Some((owner, client)) if owner == client_id && !client.is_deleted => {}
            Some((owner, _)) if owner != client_id => {
                self.misuses.push(format!("the token of {owner} was sent for {client_id}"));
                return Answer::json(401, &json!({"error": "invalid_token"}));
            }
            _ => return Answer::json(401, &json!({"error": "invalid_token"})),
        }
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
        let (new_secret, new_token) = (self.next("client-secret"), self.next("registration-access-token"));
        let rotates_on_read = self.rotates_on_read;
        let Some(client) = self.clients.get_mut(client_id) else { return Answer::empty(401) };
        match request.method.as_str() {
            "DELETE" => {
                client.is_deleted = true;
                return Answer::empty(204);
            }
            "PUT" => {
                client.metadata = request.json().as_object().cloned().unwrap_or_default();
                client.registration_access_token = new_token;
            }
            _ if rotates_on_read => {
                client.registration_access_token = new_token;
                client.secret = new_secret;
            }
            _ => {}
        }
        self.information(200, client_id)
    }

    fn information(&self, status: u16, client_id: &str) -> Answer {
        let Some(client) = self.clients.get(client_id) else { return Answer::empty(401) };
        let mut document = client.metadata.clone();
        for (name, default) in [
            ("grant_types", json!(["authorization_code"])),
            ("response_types", json!(["code"])),
            ("token_endpoint_auth_method", json!("client_secret_basic")),
        ] {
            document.entry(name).or_insert(default);
        }
        document.insert("client_id".to_owned(), client_id.into());
        document.insert("client_id_issued_at".to_owned(), 1_560_330_939.into());
        document.insert("client_secret".to_owned(), client.secret.clone().into());
        document.insert("client_secret_expires_at".to_owned(), 0.into());
        if !self.without_management {
            let uri = format!("{}/reg/{client_id}", self.issuer);
            document.insert("registration_client_uri".to_owned(), uri.into());
            document.insert("registration_access_token".to_owned(), client.registration_access_token.clone().into());
        }
        Answer::json(status, &Value::Object(document))
    }

    fn next(&mut self, what: &str) -> String {
        self.issued += 1;
        format!("{what}-{}", self.issued)
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
