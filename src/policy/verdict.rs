//! One policy's opinion, field by field.

use std::{cell::LazyCell, fmt};

use super::{
    facts::{Facts, ProofKey, Seconds},
    redirect_uri,
};
use crate::{
    api::{DcrPolicy, Enforcement, RegistrationMode},
    text::truncate,
};

/// Longer values, and longer lists of what is allowed, are shown cut.
pub const LONGEST_SHOWN: usize = 200;

/// A server's answer can have a hundred thousand values that are forbidden. Of one policy no more than these are listed, and
/// the rest is counted.
pub const MOST_VIOLATIONS: usize = 64;

/// Hints that the admission policy gives in the same words.
pub mod hints {
    pub const NOTHING_ALLOWED: &str = "nothing is allowed";
    pub const PROOF_KEY: &str = "it must be true";
    pub const ANY_REDIRECT_URI: &str = "no policy would see the redirect URIs that it lets in";
    pub const SMUGGLED: &str = "it is a name of clientMetadata or of the server";
    pub const SOFTWARE_ID: &str =
        "some servers take it for the name of a template, and registrationModes has no Templatized";
}

/// One value that one policy forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the policy.
    pub policy: String,
    /// The client's field: a name of RFC 7591, or of the spec.
    pub field: &'static str,
    /// The value, on one line and cut if it is long.
    pub value: String,
    /// What would be allowed.
    pub hint: String,
    /// How many values this is about: one, unless it stands for those that are not listed.
    pub count: usize,
}

impl Violation {
    pub(super) fn new(policy: &DcrPolicy, field: &'static str, value: &str, hint: &str) -> Self {
        let policy = policy.metadata.name.clone().unwrap_or_default();
        Self { policy, field, value: shown(value), hint: hint.to_owned(), count: 1 }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, field, value, hint, count: _ } = self;
        write!(f, "DcrPolicy {policy} forbids {field}: {value} ({hint})")
    }
}

/// What the policies say about a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The client is refused for these.
    pub denied: Vec<Violation>,
    /// The client would be refused for these, if the policies did not only audit.
    pub audited: Vec<Violation>,
}

impl Verdict {
    /// Whether no policy refuses the client.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.denied.is_empty()
    }

    /// Adds what one policy says, in the order of the policies' names: a cache has them in any order, and a status must
    /// not change with it.
    pub fn add(&mut self, policy: &DcrPolicy, violations: Vec<Violation>) {
        let Some(Violation { policy: name, .. }) = violations.first() else { return };
        let list = match policy.spec.enforcement {
            Enforcement::Enforce => &mut self.denied,
            Enforcement::Audit => &mut self.audited,
        };
        let place = list.partition_point(|other| other.policy <= *name);
        list.splice(place..place, violations);
    }
}

/// The violations in one line of at most `longest` bytes, which ends with how many more there are if it can't hold all.
#[must_use]
pub fn joined(violations: &[Violation], longest: usize) -> String {
    let more = |count| if count == 0 { String::new() } else { format!("; and {count} more") };
    let mut left: usize = violations.iter().map(|violation| violation.count).sum();
    let mut text = String::new();
    for violation in violations {
        let separator = if text.is_empty() { "" } else { "; " };
        let next = format!("{separator}{violation}");
        let after = left - violation.count;
        if !text.is_empty() && text.len() + next.len() + more(after).len() > longest {
            break;
        }
        text.push_str(&next);
        left = after;
    }
    let more = more(left);
    truncate(&text, longest.saturating_sub(more.len())) + &more
}

/// What the policy forbids, in the order of the API. The quota is judged elsewhere: it is not about the client alone.
pub fn violations(policy: &DcrPolicy, facts: &Facts) -> Vec<Violation> {
    let spec = &policy.spec;
    let mut found = Found { policy, violations: Vec::new(), more: 0 };
    if let (Some(mode), Some(modes)) = (facts.mode, &spec.registration_modes) {
        let names: Vec<String> = modes.iter().map(|mode| mode.as_str().to_owned()).collect();
        found.of("registrationMode", &[mode.as_str().to_owned()], Some(&names));
        if let Some(("software_id", template)) = &facts.template
            && !modes.contains(&RegistrationMode::Templatized)
        {
            found.push("software_id", template, hints::SOFTWARE_ID);
        }
    }
    if let Some((field, template)) = &facts.template {
        found.of(field, std::slice::from_ref(template), spec.allowed_templates.as_deref());
    }
    found.of("grant_types", &facts.grant_types, spec.allowed_grant_types.as_deref());
    found.unless("response_types", &facts.response_types, spec.allowed_response_types.as_deref(), same_words);
    found.of("scope", &facts.scopes, spec.allowed_scopes.as_deref());
    found.of("default_acr_values", &facts.authenticators, spec.allowed_authenticators.as_deref());
    found.of("token_endpoint_auth_method", &facts.auth_methods, spec.allowed_token_endpoint_auth_methods.as_deref());
    if let Some(rules) = &spec.allowed_redirect_uris {
        let hint = LazyCell::new(|| allowed(&rules.iter().map(redirect_uri::shown).collect::<Vec<_>>()));
        let forbidden = facts.redirect_uris.iter().filter(|(_, uri)| !rules.iter().any(|rule| uri.matches(rule)));
        for (field, uri) in forbidden {
            found.push(field, &uri.text, &hint);
        }
        if facts.any_redirect_uri {
            found.push("allow_per_request_redirect_uris", "true", hints::ANY_REDIRECT_URI);
        }
    }
    if spec.require_pkce == Some(true) {
        match facts.proof_key {
            ProofKey::Absent => found.push("require_proof_key", "absent", hints::PROOF_KEY),
            ProofKey::Stated(false) => found.push("require_proof_key", "false", hints::PROOF_KEY),
            ProofKey::Stated(true) | ProofKey::Unstated => {}
        }
    }
    found.longer("access_token_ttl", facts.access_token_ttl.as_ref(), spec.max_access_token_ttl);
    found.longer("refresh_token_ttl", facts.refresh_token_ttl.as_ref(), spec.max_refresh_token_ttl);
    for name in &facts.smuggled {
        found.push("additionalMetadata", name, hints::SMUGGLED);
    }
    found.of("additionalMetadata", &facts.additional, spec.allowed_additional_metadata.as_deref());
    let Found { mut violations, more, .. } = found;
    if more > 0 {
        let hint = format!("the first {MOST_VIOLATIONS} are listed");
        let further = Violation::new(policy, "further values", &format!("{more} more"), &hint);
        violations.push(Violation { count: more, ..further });
    }
    violations
}

struct Found<'a> {
    policy: &'a DcrPolicy,
    violations: Vec<Violation>,
    /// Not listed any more.
    more: usize,
}

impl Found<'_> {
    fn push(&mut self, field: &'static str, value: &str, hint: &str) {
        if self.violations.len() < MOST_VIOLATIONS {
            self.violations.push(Violation::new(self.policy, field, value, hint));
        } else {
            self.more += 1;
        }
    }

    /// The values that are not in the list of what is allowed; no list allows everything.
    fn of(&mut self, field: &'static str, values: &[String], allowed: Option<&[String]>) {
        self.unless(field, values, allowed, |value, allowed| value == allowed);
    }

    fn unless(&mut self, field: &'static str, values: &[String], list: Option<&[String]>, is: fn(&str, &str) -> bool) {
        let Some(list) = list else { return };
        // Most policies forbid nothing: what is allowed is put into words only for those that do.
        let hint = LazyCell::new(|| allowed(list));
        for value in values.iter().filter(|value| !list.iter().any(|other| is(value, other))) {
            self.push(field, value, &hint);
        }
    }

    fn longer(&mut self, field: &'static str, value: Option<&Seconds>, longest: Option<kube::core::Duration>) {
        let (Some(Seconds { count, text }), Some(longest)) = (value, longest) else { return };
        let longest = std::time::Duration::from(longest).as_secs();
        if u64::try_from(*count).is_ok_and(|count| count > longest) {
            self.push(field, text, &format!("at most {longest} seconds"));
        }
    }
}

/// `code id_token` and `id_token code` are the same (OAuth 2.0 Multiple Response Types, section 3).
pub fn same_words(one: &str, other: &str) -> bool {
    let contains = |one: &str, other: &str| other.split(' ').all(|word| one.split(' ').any(|other| other == word));
    contains(one, other) && contains(other, one)
}

fn allowed(values: &[String]) -> String {
    if values.is_empty() {
        return hints::NOTHING_ALLOWED.to_owned();
    }
    format!("allowed: {}", cut(&values.join(", ")))
}

/// On one line, and cut. The admission policy shows values in the same way.
fn shown(value: &str) -> String {
    cut(&value.replace(|character: char| character.is_control(), " "))
}

/// By characters, as CEL counts.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
