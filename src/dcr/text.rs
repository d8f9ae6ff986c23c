//! What a remote server says, made fit for logs, events and conditions.

use std::cmp::Reverse;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use url::Url;
use url::form_urlencoded::byte_serialize;

/// The most characters that are kept of an `error`, of an `error_description`, or of any other text that a server chose.
pub const MAX_WORDS_CHARS: usize = 256;

/// A secret shorter than this is too likely to be part of an innocent word: the whole text goes if it occurs.
const SHORT_SECRET_CHARS: usize = 8;

/// So many characters from the start of a secret count as an occurrence: servers cut what they quote.
const SECRET_HEAD_CHARS: usize = 12;

const REDACTED: &str = "[redacted]";

/// The `error` and `error_description` of an answer (RFC 7591 section 3.2.2, RFC 6749 section 5.2, RFC 6750 section 3):
/// bounded, without control characters, and without the secrets that were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The error code; some servers put a sentence here.
    pub error: Option<String>,
    /// The sentence for people.
    pub description: Option<String>,
}

impl Words {
    /// The words of a JSON error document; members that are no strings are ignored.
    pub(super) fn from_json(document: &Map<String, Value>, secrets: &Secrets) -> Self {
        let word = |name| document.get(name).and_then(Value::as_str).and_then(|text| secrets.fit(text));
        Self { error: word("error"), description: word("error_description") }
    }

    /// The words of a `WWW-Authenticate` header (RFC 6750 section 3).
    pub(super) fn from_challenge(header: &str, secrets: &Secrets) -> Self {
        let word = |name| challenge_parameter(header, name).and_then(|text| secrets.fit(&text));
        Self { error: word("error"), description: word("error_description") }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.error.is_none() && self.description.is_none()
    }
}

impl fmt::Display for Words {
    /// Nothing, or text that continues a sentence: ` invalid_redirect_uri: "…"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            let is_code = error.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
            if is_code {
                write!(f, " {error}")?;
            } else {
                write!(f, " \"{error}\"")?;
            }
        }
        match &self.description {
            Some(description) => write!(f, ": \"{description}\""),
            None => Ok(()),
        }
    }
}

/// The secrets that a request carried: no error text may repeat them.
#[derive(Default)]
pub(super) struct Secrets(Vec<SecretString>);

impl Secrets {
    /// Adds a secret, in the forms in which cleaned text may show it.
    pub(super) fn add(&mut self, secret: &str) {
        let encoded: String = byte_serialize(secret.as_bytes()).collect();
        let cleaned = clean(secret, usize::MAX);
        if encoded != cleaned {
            self.0.push(encoded.into());
        }
        if !cleaned.is_empty() {
            self.0.push(cleaned.into());
        }
    }

    /// Remote text, fit for people; `None` if nothing is left of it.
    pub(super) fn fit(&self, text: &str) -> Option<String> {
        // Cleaned first: that can join what was apart. Cut last: a cut secret may be too short to be known.
        let text = clean(&self.redact(&clean(text, usize::MAX)), MAX_WORDS_CHARS);
        (!text.is_empty()).then_some(text)
    }

    fn redact(&self, text: &str) -> String {
        let secrets = || self.0.iter().map(ExposeSecret::expose_secret);
        if secrets().any(|secret| secret.chars().count() < SHORT_SECRET_CHARS && text.contains(secret)) {
            return REDACTED.to_owned();
        }
        let mut kept = String::new();
        let mut rest = text;
        // The first occurrence of any, as far as the longest of them goes on.
        while let Some((start, length)) = secrets()
            .filter_map(|secret| occurrence(rest, secret))
            .min_by_key(|(start, length)| (*start, Reverse(*length)))
        {
            kept.push_str(&rest[..start]);
            kept.push_str(REDACTED);
            rest = &rest[start + length..];
        }
        kept + rest
    }
}

/// Where a secret, or at least its head, first occurs in a text, and how many bytes of it are there.
fn occurrence(text: &str, secret: &str) -> Option<(usize, usize)> {
    let head_end = secret.char_indices().nth(SECRET_HEAD_CHARS).map_or(secret.len(), |(index, _)| index);
    let start = text.find(&secret[..head_end])?;
    let pairs = text[start..].chars().zip(secret.chars());
    Some((start, pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()))
}

/// Removes what could deceive a reader or a terminal, collapses white space, and cuts to `limit` characters.
pub(super) fn clean(text: &str, limit: usize) -> String {
    let mut cleaned = String::new();
    let mut length = 0;
    let mut space = false;
    for character in text.chars() {
        if character.is_whitespace() {
            space = length > 0;
            continue;
        }
        if character.is_control() || is_invisible(character) {
            continue;
        }
        if length + 1 + usize::from(space) > limit {
            // Room for the mark of the cut.
            if length >= limit {
                cleaned.pop();
            }
            cleaned.push('…');
            break;
        }
        if space {
            cleaned.push(' ');
            length += 1;
            space = false;
        }
        cleaned.push(character);
        length += 1;
    }
    cleaned
}

/// Characters that change the order or the look of others: bidirectional controls, joiners, tags, soft hyphens.
pub(super) fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `scheme://host[:port]/path`: what may be shown of a URL. Query, fragment and user information may hold secrets.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let place = format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path());
    clean(&place, MAX_WORDS_CHARS)
}

/// What may be shown of a text that should have been a URL.
pub(super) fn shown_text(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    if text.contains('@') { "(a URL with user information)".to_owned() } else { clean(text, MAX_WORDS_CHARS) }
}

/// The value of `name=value` or `name="value"` in a challenge, without undoing more than simple escapes.
fn challenge_parameter(header: &str, name: &str) -> Option<String> {
    let mut rest = header;
    loop {
        let start = rest.find(name)?;
        let starts_a_word = rest[..start].chars().next_back().is_none_or(|before| before == ' ' || before == ',');
        rest = &rest[start + name.len()..];
        let Some(value) = rest.strip_prefix('=') else { continue };
        if !starts_a_word {
            continue;
        }
        let Some(quoted) = value.strip_prefix('"') else {
            return value.split([',', ' ']).next().map(str::to_owned);
        };
        let mut text = String::new();
        let mut characters = quoted.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => break,
                '\\' => text.extend(characters.next()),
                other => text.push(other),
            }
        }
        return Some(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets(all: &[&str]) -> Secrets {
        let mut secrets = Secrets::default();
        for secret in all {
            secrets.add(secret);
        }
        secrets
    }

    #[test]
    fn text_is_cut_to_the_limit_with_a_mark() {
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abcde…");
        assert_eq!(clean("abcde fg", 6), "abcde…");
        assert_eq!(clean("ab  \r\n\t cd ", 6), "ab cd");
    }

    #[test]
    fn characters_that_deceive_are_removed() {
        assert_eq!(clean("a\u{202e}b\u{0}c\u{1b}[31md\u{2066}e\u{feff}", 99), "abc[31mde");
    }

    #[test]
    fn a_secret_is_redacted_whole_cut_or_form_encoded() {
        let secrets = secrets(&["s3cr3t-token+with/more=="]);
        for (text, shown) in [
            ("bad s3cr3t-token+with/more== here", "bad [redacted] here"),
            ("bad s3cr3t-token+with… here", "bad [redacted]… here"),
            ("bad s3cr3t-token%2Bwith%2Fmore%3D%3D here", "bad [redacted] here"),
            ("s3cr3t-token+with/more==s3cr3t-token+with/more==", "[redacted][redacted]"),
        ] {
            assert_eq!(secrets.fit(text).unwrap(), shown);
        }
        assert_eq!(super::tests::secrets(&["pw"]).fit("the pw is bad").unwrap(), "[redacted]");
        assert_eq!(secrets.fit("s3cr3t\u{200b}-token+with/more==").unwrap(), "[redacted]");
    }

    #[test]
    fn a_challenge_gives_its_error_and_description() {
        let header = r#"Bearer realm="a \"b\"", error_description="token, expired", error="invalid_token", scope=x"#;
        let words = Words::from_challenge(header, &Secrets::default());
        assert_eq!(words.to_string(), r#" invalid_token: "token, expired""#);
        assert_eq!(
            Words::from_challenge("Bearer error=invalid_token, x", &Secrets::default()).to_string(),
            " invalid_token"
        );
        assert!(Words::from_challenge("Bearer realm=x", &Secrets::default()).is_empty());
    }

    proptest! {
        #[test]
        fn fit_text_never_panics_grows_or_shows_a_secret(text in ".{0,400}", secret in "[ -~]{1,40}", tail in ".{0,9}") {
            let fit = secrets(&[&secret]).fit(&format!("{text}{secret}{tail}")).unwrap_or_default();
            prop_assert!(fit.chars().count() <= MAX_WORDS_CHARS);
            prop_assert!(secret.trim().len() < SHORT_SECRET_CHARS || !fit.contains(&secret));
        }

        #[test]
        fn a_challenge_never_panics(header in ".{0,80}(error|error_description)?=?\"?.{0,80}") {
            let _ = Words::from_challenge(&header, &Secrets::default());
        }
    }
}
