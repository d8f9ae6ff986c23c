//! Which requests meet which fault.

use std::time::Duration;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not passed on: answered with this status, e.g. 409, 410, 429, 500 or 503.
    Refuse(u16),
    /// Not passed on: 429 with `Retry-After`, in seconds.
    Throttle(u32),
    /// Not passed on: the connection ends.
    Cut,
    /// Carried out, and then the connection ends without an answer.
    LoseAnswer,
    /// Carried out, and then nothing is answered until the client gives up.
    NeverAnswer,
    /// Carried out after this time.
    Delay(Duration),
    /// A watch that ends in the middle after this time.
    CutWatch(Duration),
}

impl Fault {
    /// For tables.
    pub fn name(self) -> String {
        match self {
            Self::Refuse(status) => format!("API server answers {status}"),
            Self::Throttle(_) => "API server answers 429 with Retry-After".to_owned(),
            Self::Cut => "API server's connection cut before the request".to_owned(),
            Self::LoseAnswer => "API server's connection cut after the request".to_owned(),
            Self::NeverAnswer => "API server never answers after the request".to_owned(),
            Self::Delay(_) => "API server slow".to_owned(),
            Self::CutWatch(_) => "watch cut".to_owned(),
        }
    }
}

/// Which requests meet a fault, and how often. Without a limit: all.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    verbs: Vec<String>,
    resource: Option<String>,
    name: Option<String>,
    left: usize,
    percent: u8,
}

impl Rule {
    pub fn new(fault: Fault) -> Self {
        Self { fault, verbs: Vec::new(), resource: None, name: None, left: usize::MAX, percent: 100 }
    }

    /// As RBAC has them: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub fn verbs(self, verbs: &[&str]) -> Self {
        Self { verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(), ..self }
    }

    pub fn writes(self) -> Self {
        self.verbs(&["create", "update", "patch", "delete", "deletecollection"])
    }

    /// As RBAC has it: `secrets`, or `oauthclients/status` for the subresource alone.
    pub fn resource(self, resource: &str) -> Self {
        Self { resource: Some(resource.to_owned()), ..self }
    }

    /// Of one object.
    pub fn name(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Only so many times.
    pub fn times(self, times: usize) -> Self {
        Self { left: times, ..self }
    }

    /// Only so many of a hundred, by chance.
    pub fn percent(self, percent: u8) -> Self {
        Self { percent, ..self }
    }

    /// The fault, if it is this request's turn.
    pub(super) fn meets(&mut self, call: &Call) -> Option<Fault> {
        let by_chance = || self.percent >= 100 || fastrand::u8(0..100) < self.percent;
        if self.left == 0 || !self.is_about(call) || !by_chance() {
            return None;
        }
        self.left -= 1;
        Some(self.fault)
    }

    fn is_about(&self, call: &Call) -> bool {
        (self.verbs.is_empty() || self.verbs.iter().any(|verb| verb == call.verb))
            && self.resource.as_ref().is_none_or(|resource| *resource == call.resource)
            && self.name.as_ref().is_none_or(|name| Some(name) == call.name.as_ref())
            && (call.verb == "watch" || !matches!(self.fault, Fault::CutWatch(_)))
    }
}

/// A request in the words of RBAC.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) verb: &'static str,
    /// With its subresource. Empty for what is no resource.
    resource: String,
    name: Option<String>,
}

impl Call {
    pub(super) fn new(method: &str, path: &str, query: Option<&str>) -> Self {
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let group = match segments.next() {
            Some("api") => 1,
            Some("apis") => 2,
            _ => return Self { verb: "get", resource: String::new(), name: None },
        };
        let mut segments: Vec<&str> = segments.skip(group).collect();
        if segments.first() == Some(&"namespaces") && segments.len() > 2 {
            segments.drain(..2);
        }
        let mut resource = segments.first().copied().unwrap_or_default().to_owned();
        let name = segments.get(1).map(|name| (*name).to_owned());
        for subresource in segments.iter().skip(2) {
            resource = format!("{resource}/{subresource}");
        }
        let is_watch = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
            .any(|(key, value)| key == "watch" && value != "false" && value != "0");
        let verb = match (method, &name) {
            ("GET", _) if is_watch => "watch",
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", None) => "deletecollection",
            ("DELETE", Some(_)) => "delete",
            _ => "other",
        };
        Self { verb, resource, name }
    }
}

#[test]
fn requests_are_named_as_rbac_names_them() {
    for (method, path, query, verb, resource, name) in [
        ("GET", "/api/v1/namespaces/shop/secrets", None, "list", "secrets", None),
        ("GET", "/api/v1/secrets", Some("watch=true&resourceVersion=1"), "watch", "secrets", None),
        ("GET", "/api/v1/namespaces/shop/secrets/a", Some("watch=0"), "get", "secrets", Some("a")),
        ("GET", "/api/v1/namespaces/shop", None, "get", "namespaces", Some("shop")),
        (
            "PATCH",
            "/apis/dcr-operator.dev/v1alpha1/namespaces/shop/oauthclients/a/status",
            Some("fieldManager=x"),
            "patch",
            "oauthclients/status",
            Some("a"),
        ),
        ("POST", "/apis/events.k8s.io/v1/namespaces/shop/events", None, "create", "events", None),
        ("DELETE", "/apis/dcr-operator.dev/v1alpha1/oauthclients", None, "deletecollection", "oauthclients", None),
        ("GET", "/version", None, "get", "", None),
    ] {
        let call = Call { verb, resource: resource.to_owned(), name: name.map(str::to_owned) };
        assert_eq!(Call::new(method, path, query), call, "{method} {path}");
    }
}
