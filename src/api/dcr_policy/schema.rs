//! What a DcrPolicy's fields may hold, where the derive macros cannot say it. Everything that a rule reads is bounded:
//! the API server refuses a CRD whose rules could become expensive.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::api::{ISSUED_BY_SERVER, client_metadata::ClientMetadata};

/// Schemes that a browser runs or reads from the disk, or that no authorization server redirects to.
const NO_REDIRECT: &str = "['javascript', 'data', 'vbscript', 'file', 'ftp', 'ws', 'wss', 'blob', 'about']";

pub(super) fn scheme(schema: &mut Schema) {
    length(schema, 64);
    rule(
        schema,
        &format!("self.matches('^[a-z][a-z0-9+.-]*$') && !(self in {NO_REDIRECT})"),
        "scheme must be https, http or an application's own scheme such as com.example.shop, in lower case and without \
         the colon",
    );
}

pub(super) fn host(schema: &mut Schema) {
    length(schema, 253);
    // A name whose last label is a number is read as an IPv4 address by browsers.
    rule(
        schema,
        r"self.startsWith('[')
  ? self.endsWith(']') && isIP(self.substring(1, size(self) - 1)) && ip(self.substring(1, size(self) - 1)).family() == 6 && ip.isCanonical(self.substring(1, size(self) - 1))
  : isIP(self)
  ? ip(self).family() == 4
  : self.matches('^([*][.])?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?([.][a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$') && !self.matches('(^|[.])(0x[0-9a-f]*|[0-9]+)$')",
        "host must be a host name in lower case, '*.' and a host name for its subdomains (a star has no other place), an \
         IPv4 address, or an IPv6 address in brackets and in its shortest form; without scheme, port and path",
    );
}

pub(super) fn path_prefix(schema: &mut Schema) {
    length(schema, 256);
    rule(
        schema,
        r"self.matches(r'^/([A-Za-z0-9._~!$&()+,;=:@-][A-Za-z0-9._~!$&()+,;=:@/-]*)?$') && !self.matches(r'/[.][.]?([;/]|$)')",
        "pathPrefix must be an absolute path such as /callback, without dot segments, stars and percent-encoded \
         characters",
    );
}

pub(super) fn lifetime(schema: &mut Schema) {
    length(schema, 16);
    rule(
        schema,
        "self.matches('^([0-9]{1,6}(s|m|h))+$') && duration(self) >= duration('1s')",
        "must be a duration of at least 1s in hours, minutes and seconds, such as 1h or 1h30m",
    );
}

/// Names that no client may have in additionalMetadata would be a rule that allows nothing.
pub(super) fn additional_names(schema: &mut Schema) {
    schema.insert("maxItems".into(), 64.into());
    schema.insert("x-kubernetes-list-type".into(), "set".into());
    if let Some(items) = schema.get_mut("items").and_then(|items| <&mut Schema>::try_from(items).ok()) {
        length(items, 256);
        let known = Value::from_iter(reserved_members());
        rule(
            items,
            &format!("!(self.lowerAscii() in {known})"),
            "allowedAdditionalMetadata must not name a member of clientMetadata, or one that only the server gives: such \
             a name is never allowed in additionalMetadata",
        );
    }
}

/// The members that `additionalMetadata` can't have, in alphabetical order.
#[must_use]
pub fn reserved_members() -> Vec<String> {
    let mut names: Vec<String> = ClientMetadata::known_names().iter().cloned().collect();
    names.extend(ISSUED_BY_SERVER.map(str::to_owned));
    names.sort();
    names
}

/// A label selector that selects something: Kubernetes' own schema lets operators through that do not exist.
pub(super) fn namespace_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "description": "The namespaces whose OAuthClients the policy is about, by their labels. Left out: all.",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Labels that the namespace must have, with these values.",
                "maxProperties": 16,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "type": "array",
                "description": "What must hold for the namespace's labels; all of it.",
                "maxItems": 16,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "type": "string", "description": "The label's name.", "minLength": 1, "maxLength": 317,
                        },
                        "operator": {
                            "type": "string",
                            "description": "How the label's value relates to values.",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                        },
                        "values": {
                            "type": "array",
                            "description": "The values, for `In` and `NotIn`.",
                            "maxItems": 32,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "message": "values go with the operators In and NotIn, which need at least one, and with no other",
                    }],
                },
            },
        },
    })
}

fn length(schema: &mut Schema, max: u32) {
    schema.insert("minLength".into(), 1.into());
    schema.insert("maxLength".into(), max.into());
}

fn rule(schema: &mut Schema, cel: &str, message: &str) {
    let rules = schema.ensure_object().entry("x-kubernetes-validations").or_insert_with(|| json!([]));
    if let Some(rules) = rules.as_array_mut() {
        rules.push(json!({ "rule": cel, "message": message }));
    }
}
