//! Redirect URIs: matched by their parts, never by a pattern over the text.
//!
//! A URI is refused unless it can be read in one way only. Two expressions say what that means, and the admission policy
//! uses the same two; [`url`], which reads URIs as browsers do, must then find the very parts that are written there.

use std::sync::LazyLock;

use regex::Regex;
use url::Url;

use crate::api::RedirectUriRule;

/// The grammar: RFC 3986, without user information, empty hosts, ports with leading zeros and paths that begin with `//`.
pub const WELL_FORMED: &str = r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(//(?P<host>[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[1-9][0-9]{0,4}))?)?(?P<path>/(([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?)?([?]([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?$";

/// What servers and browsers read in different ways, or what has nowhere to go: an encoded slash, backslash, dot,
/// percent sign or control character in the path, dot segments, and neither host nor path.
pub const AMBIGUOUS: &str = r"^[^:]*:([?]|$)|^[^?]*(%(2[EeFf5]|5[Cc]|[01][0-9A-Fa-f]|7[Ff])|/[.][.]?([;/?]|$))";

/// A redirect URI, and its parts if it can be read in one way only.
#[derive(Debug)]
pub struct RedirectUri {
    pub text: String,
    parts: Option<Parts>,
}

#[derive(Debug, PartialEq)]
struct Parts {
    /// Lower case, as is the host.
    scheme: String,
    /// Empty if there is none.
    host: String,
    /// The port, or the scheme's default port; 0 if there is neither.
    port: u32,
    path: String,
}

impl RedirectUri {
    pub fn new(text: String) -> Self {
        Self { parts: Parts::of(&text), text }
    }

    /// Whether the rule is about this URI.
    pub fn matches(&self, rule: &RedirectUriRule) -> bool {
        let Some(Parts { scheme, host, port, path }) = &self.parts else { return false };
        let port_matches = match rule.port {
            _ if rule.any_port == Some(true) => true,
            Some(wanted) => *port == u32::from(wanted),
            None => *port == default_port(scheme),
        };
        *scheme == rule.scheme
            && host_matches(host, rule.host.as_deref())
            && port_matches
            && rule.path_prefix.as_ref().is_none_or(|prefix| is_below(path, prefix))
    }
}

impl Parts {
    fn of(text: &str) -> Option<Self> {
        static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| expression(WELL_FORMED));
        static TRICKS: LazyLock<Regex> = LazyLock::new(|| expression(AMBIGUOUS));
        let found = GRAMMAR.captures(text)?;
        if TRICKS.is_match(text) {
            return None;
        }
        let written = |name: &str| found.name(name).map_or("", |text| text.as_str());
        let scheme = written("scheme").to_ascii_lowercase();
        let port = match written("port") {
            "" => default_port(&scheme),
            port => port.parse().ok().filter(|port| *port <= 65535)?,
        };
        let path = match written("path") {
            "" => "/",
            path => path,
        };
        let parts = Self { host: written("host").to_ascii_lowercase(), scheme, port, path: path.to_owned() };
        parts.are_what_browsers_find(text).then_some(parts)
    }

    /// Browsers know more spellings of a host (`http://2130706433/`) and of a path than a grammar can name.
    fn are_what_browsers_find(&self, text: &str) -> bool {
        let Ok(url) = Url::parse(text) else { return false };
        let port = url.port_or_known_default().map_or(0, u32::from);
        url.scheme() == self.scheme
            && url.host_str().unwrap_or_default().eq_ignore_ascii_case(&self.host)
            && (port == self.port || !["https", "http"].contains(&self.scheme.as_str()))
            && (url.path() == self.path || url.path().is_empty() && self.path == "/")
    }
}

/// `*.x` stands for any subdomain of `x`, and not for `x`. The star stands for no label in punycode: a name that only looks
/// like another one is not let in by accident.
fn host_matches(host: &str, rule: Option<&str>) -> bool {
    let Some(rule) = rule else { return host.is_empty() };
    match rule.strip_prefix('*') {
        Some(suffix) => host.strip_suffix(suffix).is_some_and(|labels| !labels.is_empty() && !labels.contains("xn--")),
        None => host == rule,
    }
}

/// Whether the path is the prefix or below it.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

fn default_port(scheme: &str) -> u32 {
    match scheme {
        "https" => 443,
        "http" => 80,
        _ => 0,
    }
}

fn expression(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|error| unreachable!("a constant: {error}"))
}

/// Whether a host that a rule names can be part of any URI: an international name may be spelt wrongly.
pub fn can_exist(rule: &RedirectUriRule) -> bool {
    let Some(host) = &rule.host else { return true };
    let host = host.strip_prefix("*.").unwrap_or(host);
    Parts::of(&format!("{}://{host}/", rule.scheme)).is_some()
}

/// The rule as people would write it.
pub fn shown(rule: &RedirectUriRule) -> String {
    let RedirectUriRule { scheme, host, port, any_port, path_prefix } = rule;
    let slashes = if host.is_some() { "//" } else { "" };
    let host = host.as_deref().unwrap_or_default();
    let port = match port {
        _ if *any_port == Some(true) => ":*".to_owned(),
        Some(port) => format!(":{port}"),
        None => String::new(),
    };
    format!("{scheme}:{slashes}{host}{port}{}", path_prefix.as_deref().unwrap_or_default())
}
