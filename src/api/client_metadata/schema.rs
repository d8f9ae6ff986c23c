//! The shapes that the members of a client metadata document have in the CRD's schema: how long,
//! how many, and which rules hold.
//!
//! Each function is a schemars transform, named on a field by `#[schemars(transform = ...)]`. Rules
//! about a list's items are put on the items and not on the list, so that the API server's answer
//! carries the index of each offending item (`spec.clientMetadata.redirect_uris[1]: ...`).
//! Everything that a rule reads is bounded: the API server refuses a CRD whose rules could become
//! expensive.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

const URI_LENGTH: u32 = 1024;
const NAME_LENGTH: u32 = 256;
const SCOPE_LENGTH: u32 = 4096;
const KEY_LENGTH: u32 = 8192;
const REDIRECT_URIS: u32 = 64;
const ITEMS: u32 = 32;
/// 68 years; what a server that counts seconds in a signed 32-bit number still understands.
const MAX_SECONDS: i64 = i32::MAX as i64;

/// A name or an identifier: an algorithm, a method, a title.
pub(super) fn name(schema: &mut Schema) {
    length(schema, NAME_LENGTH);
}

/// A sentence or a distinguished name: text that may be longer than a name.
pub(super) fn text(schema: &mut Schema) {
    length(schema, URI_LENGTH);
}

/// Space-delimited scope tokens. More than one space between two tokens does no harm and is
/// accepted.
pub(super) fn scope(schema: &mut Schema) {
    schema.insert("maxLength".into(), SCOPE_LENGTH.into());
    rule(
        schema,
        r"self.matches(r'^[\x20\x21\x23-\x5B\x5D-\x7E]*$')",
        "a scope is a list of names separated by spaces; line breaks, other control characters, \
         double quotes, backslashes and non-ASCII characters are not allowed (RFC 6749 section 3.3)",
    );
}

/// A time span or an age in seconds.
pub(super) fn seconds(schema: &mut Schema) {
    schema.insert("minimum".into(), 0.into());
    schema.insert("maximum".into(), MAX_SECONDS.into());
}

/// The address of a web page or of a web service.
pub(super) fn web_uri(schema: &mut Schema) {
    length(schema, URI_LENGTH);
    rule_on_value(
        schema,
        "isURL(self) && url(self).getScheme() in ['https', 'http'] \
         && url(self).getHostname() != '' && !self.matches(r'[\\pZ\\pC]')",
        "must be an absolute URL that begins with https:// or http:// and has no blanks",
    );
}

/// An address whose content the server trusts: whoever can answer in its place can speak for the
/// client. Plain HTTP is for a server and a client on one machine.
pub(super) fn trusted_uri(schema: &mut Schema) {
    length(schema, URI_LENGTH);
    rule_on_value(
        schema,
        "isURL(self) && (url(self).getScheme() == 'https' && url(self).getHostname() != '' \
         || url(self).getScheme() == 'http' \
         && url(self).getHostname() in ['localhost', '127.0.0.1', '::1']) \
         && !self.matches(r'[\\pZ\\pC]')",
        "must be an absolute https:// URL without blanks (http:// only to localhost, 127.0.0.1 or \
         [::1])",
    );
}

/// Any absolute URI, such as `spiffe://example.com/shop`.
pub(super) fn absolute_uri(schema: &mut Schema) {
    length(schema, URI_LENGTH);
    absolute(schema);
    visible(schema);
}

/// Names whose order has no meaning.
pub(super) fn names(schema: &mut Schema) {
    list(schema, ITEMS, "set", name);
}

/// Names in the order of preference.
pub(super) fn ordered_names(schema: &mut Schema) {
    list(schema, ITEMS, "atomic", name);
}

/// Absolute URIs that may have a fragment.
pub(super) fn absolute_uris(schema: &mut Schema) {
    list(schema, ITEMS, "set", absolute_uri);
}

/// Sources in the sense of a Content Security Policy, for which `https://*.example.com` is right.
pub(super) fn origins(schema: &mut Schema) {
    list(schema, ITEMS, "set", |item| {
        length(item, URI_LENGTH);
        visible(item);
    });
}

/// Addresses to which a browser is sent with an answer of the server.
pub(super) fn redirect_uris(schema: &mut Schema) {
    list(schema, REDIRECT_URIS, "set", redirect_uri);
}

/// As [`redirect_uris`], where a handful is what a client needs.
pub(super) fn few_redirect_uris(schema: &mut Schema) {
    list(schema, ITEMS, "set", redirect_uri);
}

/// One rule for each flaw, so that the answer says which it is.
fn redirect_uri(schema: &mut Schema) {
    length(schema, URI_LENGTH);
    absolute(schema);
    visible(schema);
    rule_on_value(
        schema,
        "!self.contains('#')",
        "must not have a fragment ('#'): the server puts its answer there (RFC 6749 section 3.1.2)",
    );
    rule_on_value(
        schema,
        "!self.contains('*')",
        "must not have a wildcard ('*'): redirect URIs are compared exactly (RFC 9700 \
         section 2.1), list each one",
    );
    rule_on_value(
        schema,
        "!self.matches('(?i)^(javascript|data|vbscript):')",
        "must not have the scheme javascript, data or vbscript: a browser would run what it is sent",
    );
}

/// A scheme, a colon and something behind it. A digit behind the colon is a forgotten scheme
/// (`localhost:8080/callback`); an http address has a host.
fn absolute(schema: &mut Schema) {
    rule_on_value(
        schema,
        "self.matches('^[A-Za-z][A-Za-z0-9+.-]*:[^0-9]') \
         && (!self.matches('(?i)^https?:') || self.matches('(?i)^https?://[^/?#]'))",
        "must be an absolute URI with a scheme, such as https://shop.example.com/callback or \
         com.example.shop:/callback",
    );
}

fn visible(schema: &mut Schema) {
    rule_on_value(
        schema,
        // Browsers read a backslash as a slash, and so find another host than the server did.
        r#"!self.matches(r'[\pZ\pC\\"<>]')"#,
        "must not have blanks, line breaks, other invisible characters, backslashes, double \
         quotes or angle brackets",
    );
}

/// The document of a JSON Web Key Set.
///
/// The members of a key are free-form. Two are named, so that the rule below can see them: whoever
/// pastes a private key here would publish it to everybody who may read the object.
pub(super) fn jwks(_: &mut SchemaGenerator) -> Schema {
    let mut key = json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "d": {
                "type": "string",
                "maxLength": KEY_LENGTH,
                "description": "The private part of a key: refused. A client registers public keys only.",
            },
            "k": {
                "type": "string",
                "maxLength": KEY_LENGTH,
                "description": "The value of a symmetric key: refused. A client registers public keys only.",
            },
        },
    });
    rule(
        &mut key,
        "!has(self.d) && !has(self.k)",
        "jwks is for public keys: a private key (member d) or a symmetric key (member k) must not \
         be registered (OpenID Connect Registration 1.0 section 2); replace the key, it is no longer secret",
    );
    json_schema!({
        "type": ["object", "null"],
        "x-kubernetes-preserve-unknown-fields": true,
        "required": ["keys"],
        "properties": {
            "keys": {
                "type": "array",
                "maxItems": ITEMS,
                "x-kubernetes-list-type": "atomic",
                "description": "The public keys, each a JSON Web Key (RFC 7517 section 4), such as {kty, crv, x, y, kid, use, alg}.",
                "items": key,
            },
        },
    })
}

/// A JSON object that is passed on as it is.
pub(super) fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "null"], "x-kubernetes-preserve-unknown-fields": true })
}

fn list(schema: &mut Schema, max: u32, list_type: &str, item: impl FnOnce(&mut Schema)) {
    schema.insert("maxItems".into(), max.into());
    schema.insert("x-kubernetes-list-type".into(), list_type.into());
    // The schema of a Vec has items; the tests see that their bounds are there.
    if let Some(items) = schema.get_mut("items").and_then(|items| <&mut Schema>::try_from(items).ok()) {
        item(items);
    }
}

/// No member of the document means anything as an empty string.
fn length(schema: &mut Schema, max: u32) {
    schema.insert("minLength".into(), 1.into());
    schema.insert("maxLength".into(), Value::from(max));
}

/// A rule with a fixed message.
fn rule(schema: &mut Schema, cel: &str, message: &str) {
    push_rule(schema, json!({ "rule": cel, "message": message }));
}

/// A rule whose message begins with the offending value, because API servers differ in what they
/// print as the invalid value: some print its type. The message without it is what the API server
/// falls back to if the value has a line break. (`kube::core::Rule` holds one of the two messages
/// only.)
fn rule_on_value(schema: &mut Schema, cel: &str, message: &str) {
    // A JSON string is a CEL string literal as well.
    let with_value = format!(r#"'"' + self + '" ' + {}"#, Value::from(message));
    push_rule(schema, json!({ "rule": cel, "message": message, "messageExpression": with_value }));
}

fn push_rule(schema: &mut Schema, rule: Value) {
    let rules = schema.ensure_object().entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(rule);
    }
}
