use super::*;
use proptest::prelude::*;
use serde_json::json;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

fn parsed(value: Value) -> ClientInformation {
    ClientInformation::from_json(object(value)).unwrap()
}

#[test]
fn a_client_id_is_required_and_bounded() {
    for (document, why) in [
        (json!({}), "has no client_id"),
        (json!({"client_id": 7}), "has a client_id that is not a text"),
        (json!({"client_id": null}), "has a client_id that is not a text"),
        (json!({"client_id": ""}), "has an empty client_id"),
        (json!({"client_id": "a\nb"}), "has control characters in its client_id"),
        (json!({"client_id": "a\u{202e}b"}), "has control characters in its client_id"),
        (json!({"client_id": "a".repeat(1025)}), "has a client_id of more than 1024 characters"),
    ] {
        let error = ClientInformation::from_json(object(document)).unwrap_err();
        assert_eq!(error, Error::InvalidClientInformation(why));
    }
    assert_eq!(parsed(json!({"client_id": "a".repeat(1024)})).client_id.len(), 1024);
}

#[test]
fn times_are_kept_as_answered_or_ignored_if_they_make_no_sense() {
    for (value, expected) in [
        (json!(0), Some(0)),
        (json!(1_560_330_939), Some(1_560_330_939)),
        (json!("1560330939"), Some(1_560_330_939)),
        (json!(1_560_330_939.7), Some(1_560_330_939)),
        (json!("1560330939.7"), Some(1_560_330_939)),
        (json!(1_560_330_939_000_i64), None),
        (json!(u64::MAX), None),
        (json!(-1), None),
        (json!(1e300), None),
        (json!("never"), None),
        (json!("NaN"), None),
        (json!(true), None),
        (json!(null), None),
    ] {
        let client = parsed(json!({"client_id": "c", "client_secret_expires_at": value}));
        assert_eq!(client.client_secret_expires_at, expected, "{value}");
        assert!(client.metadata.is_empty());
    }
}

#[test]
fn server_members_of_the_wrong_type_are_neither_kept_nor_shown() {
    let client =
        parsed(json!({"client_id": "c", "client_secret": ["s3cr3t"], "registration_access_token": {"a": "s3cr3t"},
        "registration_client_uri": 7, "client_name": "Shop"}));
    assert!(client.client_secret.is_none() && client.registration_access_token.is_none());
    assert_eq!(Value::from(client.to_json()), json!({"client_id": "c", "client_name": "Shop"}));
}

#[test]
fn a_uri_of_the_same_origin_is_used_as_answered() {
    let endpoint = |uri| client_configuration_endpoint("https://login.example.com/reg", uri).unwrap();
    for uri in ["https://login.example.com/reg/c-1?x=%2Fy", "https://login.example.com/elsewhere"] {
        assert_eq!(endpoint(uri), uri);
    }
}

#[test]
fn a_uri_of_another_origin_is_moved_to_the_registration_endpoints() {
    let expected = "https://login.example.com:8443/reg/c-1?x=y";
    for uri in [
        "http://login.example.com:8443/reg/c-1?x=y",
        "https://login.example.com/reg/c-1?x=y",
        "https://evil.example/reg/c-1?x=y#f",
        "https://user:password@login.example.com:8443/reg/c-1?x=y",
        "https://login.example.com:8443@evil.example/reg/c-1?x=y",
        "//evil.example/reg/c-1?x=y",
        "\\\\evil.example\\reg/c-1?x=y",
        "/reg/c-1?x=y",
    ] {
        assert_eq!(
            client_configuration_endpoint("https://login.example.com:8443/reg?z=1", uri).unwrap(),
            expected,
            "{uri}"
        );
    }
}

#[test]
fn a_uri_that_is_no_http_url_is_refused() {
    for uri in ["javascript:alert(1)", "data:text/plain,x", "ftp://login.example.com/reg", "https://[::1"] {
        let error = client_configuration_endpoint("https://login.example.com/reg", uri).unwrap_err();
        assert_eq!(error.reason(), "InvalidEndpoint", "{uri}");
    }
    assert!(client_configuration_endpoint("not a URL", "https://login.example.com/reg/c").is_err());
}

#[test]
fn an_update_keeps_what_the_server_added_and_drops_what_is_no_longer_desired() {
    let last =
        parsed(json!({"client_id": "c", "client_secret": "s", "client_secret_expires_at": 0, "client_id_issued_at": 1,
        "registration_access_token": "t", "registration_client_uri": "https://x/c",
        "subject_type": "public", "client_name": "Old", "contacts": ["a@example.com"], "scope": "openid profile"}));
    let previous = object(json!({"client_name": "Old", "contacts": ["a@example.com"], "scope": "openid"}));
    let desired = object(json!({"client_name": "New", "scope": "openid", "logo_uri": ""}));
    assert_eq!(
        Value::from(update_document(&last, &previous, &desired, UpdateSemantics::Replace)),
        json!({"client_id": "c", "subject_type": "public", "client_name": "New", "scope": "openid", "logo_uri": ""})
    );
}

#[test]
fn where_the_server_merges_what_is_no_longer_desired_is_sent_as_its_default_or_empty() {
    let last = parsed(json!({"client_id": "c", "subject_type": "public", "client_name": "Old", "kept": 1}));
    let previous = object(json!({
        "client_name": "Old", "contacts": ["a@example.com"], "require_auth_time": true, "default_max_age": 60,
        "jwks": {"keys": []}, "nothing": null, "kept": 1,
        "grant_types": ["client_credentials"], "response_types": [], "token_endpoint_auth_method": "none",
    }));
    let desired = object(json!({"kept": 1, "logo_uri": "https://x/logo"}));
    assert_eq!(
        Value::from(update_document(&last, &previous, &desired, UpdateSemantics::Merge)),
        json!({
            "client_id": "c", "subject_type": "public", "kept": 1, "logo_uri": "https://x/logo",
            "client_name": "", "contacts": [], "require_auth_time": false, "default_max_age": null,
            "jwks": null, "nothing": null,
            "grant_types": ["authorization_code"], "response_types": ["code"],
            "token_endpoint_auth_method": "client_secret_basic",
        })
    );
}

#[test]
fn a_managed_clients_uri_is_one_segment_below_the_registration_endpoint() {
    for (endpoint, client_id, expected) in [
        ("https://x/reg", "9806e2ff-60e6", "https://x/reg/9806e2ff-60e6"),
        ("https://x/reg/", "a.b_c~d", "https://x/reg/a.b_c~d"),
        ("https://x", "c", "https://x/c"),
        ("https://x/reg?tenant=1#f", "c", "https://x/reg/c?tenant=1"),
        ("https://x/reg", "a/../b", "https://x/reg/a%2F..%2Fb"),
        ("https://x/reg", "%2e%2e", "https://x/reg/%252e%252e"),
        ("https://x/reg", "...", "https://x/reg/..."),
        ("https://x/reg", "?a=b#c", "https://x/reg/%3Fa%3Db%23c"),
        ("https://x/reg", "..\\a", "https://x/reg/..%5Ca"),
        ("https://x/reg", "https://evil.example/", "https://x/reg/https%3A%2F%2Fevil.example%2F"),
        ("https://x/reg", "ü 1", "https://x/reg/%C3%BC%201"),
    ] {
        assert_eq!(client_configuration_endpoint_of(endpoint, client_id).unwrap(), expected, "{client_id}");
    }
}

#[test]
fn an_identifier_that_is_no_path_segment_has_no_uri() {
    for client_id in ["", ".", "..", "a\nb", "a\tb", "a\u{202e}b", &"a".repeat(1025)] {
        let error = client_configuration_endpoint_of("https://x/reg", client_id).unwrap_err();
        assert_eq!((error.reason(), error.retry()), ("InvalidEndpoint", crate::retry::Retry::OnChange), "{client_id}");
    }
    for endpoint in ["", "/reg", "ftp://x/reg", "mailto:x"] {
        assert!(client_configuration_endpoint_of(endpoint, "c").is_err(), "{endpoint}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,4}", inner, 0..3).prop_map(Value::from_iter),
        ]
    })
}

fn any_document() -> impl Strategy<Value = Map<String, Value>> {
    let name = prop::sample::select(vec!["client_id", "scope", "client_name", "contacts"])
        .prop_map(str::to_owned)
        .boxed()
        .prop_union(prop::sample::select(SERVER_MEMBERS.to_vec()).prop_map(str::to_owned).boxed());
    prop::collection::vec((name, any_json()), 0..8).prop_map(Map::from_iter)
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(document) = serde_json::from_slice(&bytes) {
            let _ = ClientInformation::from_json(document);
        }
    }

    #[test]
    fn any_document_that_is_read_survives_storage(mut document in any_document(), client_id in "[a-z]{1,9}") {
        let _ = ClientInformation::from_json(document.clone());
        document.insert("client_id".to_owned(), client_id.into());
        let client = ClientInformation::from_json(document).unwrap();
        prop_assert_eq!(ClientInformation::from_json(client.to_json()).unwrap(), client);
    }

    #[test]
    fn an_update_has_the_client_id_and_everything_desired_and_nothing_of_the_server(
        mut last in any_document(), previous in any_document(), desired in any_document(), merges in any::<bool>()
    ) {
        last.insert("client_id".to_owned(), "c".into());
        let semantics = if merges { UpdateSemantics::Merge } else { UpdateSemantics::Replace };
        let body = update_document(&ClientInformation::from_json(last).unwrap(), &previous, &desired, semantics);
        prop_assert_eq!(&body["client_id"], "c");
        prop_assert!(SERVER_MEMBERS.iter().all(|name| !body.contains_key(*name)));
        for (name, value) in desired.iter().filter(|(name, _)| body.contains_key(*name) && *name != "client_id") {
            prop_assert_eq!(&body[name], value);
        }
        let removed = |name: &&String| !desired.contains_key(*name) && !SERVER_MEMBERS.contains(&name.as_str());
        for name in previous.keys().filter(removed).filter(|name| *name != "client_id") {
            prop_assert_eq!(body.contains_key(name), merges, "{}", name);
        }
    }

    #[test]
    fn a_managed_clients_uri_never_leaves_its_segment(client_id in prop_oneof![".{1,40}", "[./%2e\\\\?#@:;]{1,9}"]) {
        if let Ok(endpoint) = client_configuration_endpoint_of("https://login.example.com/a/reg", &client_id) {
            let url = Url::parse(&endpoint).unwrap();
            let segments: Vec<&str> = url.path_segments().unwrap().collect();
            prop_assert_eq!(&segments[..2], ["a", "reg"]);
            prop_assert_eq!(segments.len(), 3);
            let decoded = percent_encoding::percent_decode_str(segments[2]).decode_utf8().unwrap().into_owned();
            prop_assert_eq!(decoded, client_id);
            prop_assert!(url.query().is_none() && url.fragment().is_none() && url.host_str() == Some("login.example.com"));
        }
    }

    #[test]
    fn a_management_uri_never_leaves_the_origin(uri in prop_oneof![".{0,60}", "(https?:)?[/\\\\@:]{0,4}[a-z.@:]{0,20}/.{0,20}"]) {
        if let Ok(endpoint) = client_configuration_endpoint("https://login.example.com/reg", &uri) {
            prop_assert!(endpoint.starts_with("https://login.example.com/"), "{endpoint}");
            prop_assert!(Url::parse(&endpoint).unwrap().username().is_empty());
        }
    }
}
