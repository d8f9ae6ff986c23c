use super::*;
use kube::{CustomResource, CustomResourceExt};
use serde_json::json;

/// A custom resource, so that the schema is seen as it is in a CRD and not as schemars makes it.
#[derive(CustomResource, KubeSchema, Clone, Debug, Serialize, Deserialize)]
#[kube(group = "example.dev", version = "v1", kind = "Probe", namespaced)]
#[serde(rename_all = "camelCase")]
struct ProbeSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_metadata: Option<ClientMetadata>,
}

fn crd_schema() -> Value {
    let crd = serde_json::to_value(Probe::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["clientMetadata"]
        .clone()
}

/// Calls `check` with the path and the schema of each node below `schema`.
fn walk(path: &str, schema: &Value, check: &mut impl FnMut(&str, &Value)) {
    check(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, check);
    }
    if let Some(items) = schema.get("items") {
        walk(&format!("{path}[]"), items, check);
    }
}

fn document() -> Value {
    json!({
        "redirect_uris": ["https://shop.example.com/callback", "com.example.shop:/callback"],
        "client_name": "Shop",
        "scope": "openid profile",
        "grant_types": ["authorization_code"],
        "require_proof_key": true,
        "access_token_ttl": 300,
        "jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y", "vendor": {"a": [1, null]}}]},
        "software_statement": "eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
    })
}

#[test]
fn round_trip() {
    let metadata: ClientMetadata = serde_json::from_value(document()).unwrap();
    assert_eq!(metadata.access_token_ttl, Some(300));
    assert_eq!(metadata.software_statement.as_ref().unwrap().as_str(), "eyJhbGciOiJFUzI1NiJ9.e30.c2ln");
    assert_eq!(Value::Object(metadata.members()), document());
}

#[test]
fn unset_and_null_members_are_not_sent() {
    assert!(ClientMetadata::default().members().is_empty());
    let metadata: ClientMetadata = serde_json::from_value(json!({"scope": null, "jwks": null})).unwrap();
    assert!(metadata.members().is_empty());
}

#[test]
fn explicit_empties_are_sent() {
    let metadata: ClientMetadata = serde_json::from_value(
        json!({"grant_types": [], "scope": "", "requires_consent": false, "refresh_token_ttl": 0}),
    )
    .unwrap();
    assert_eq!(metadata.members().len(), 4);
}

#[test]
fn members_of_a_newer_crd_do_not_stop_an_older_operator() {
    let metadata: ClientMetadata =
        serde_json::from_value(json!({"client_name": "Shop", "from_the_future": 1})).unwrap();
    assert_eq!(metadata.client_name.as_deref(), Some("Shop"));
}

#[test]
fn the_software_statement_is_not_printed() {
    let metadata: ClientMetadata = serde_json::from_value(document()).unwrap();
    let printed = format!("{metadata:?} {metadata:#?}");
    assert!(!printed.contains("eyJ"), "{printed}");
    assert!(printed.contains("redacted") && printed.contains("Shop"), "{printed}");
}

#[test]
fn everything_is_described_and_bounded() {
    walk("clientMetadata", &crd_schema(), &mut |path, schema| {
        let free_form_item = path.ends_with("[]");
        let description = schema["description"].as_str().unwrap_or_default();
        assert!(free_form_item || description.len() > 20, "{path} has no description");
        match schema["type"].as_str() {
            Some("array") => {
                assert!(schema["maxItems"].as_u64().is_some_and(|n| n <= 64), "{path} has no maxItems");
                assert!(schema["x-kubernetes-list-type"].is_string(), "{path} has no list type");
            }
            Some("string") => assert!(schema["maxLength"].is_u64(), "{path} has no maxLength"),
            Some("integer") => {
                assert!(schema["minimum"] == 0.0 && schema["maximum"].is_number(), "{path} has no range");
            }
            Some("boolean") => {}
            Some("object") => assert!(
                path == "clientMetadata" || schema["x-kubernetes-preserve-unknown-fields"] == true,
                "{path} would lose its members"
            ),
            other => panic!("{path} has the type {other:?}"),
        }
        assert!(schema.get("anyOf").is_none() && schema.get("default").is_none(), "{path}: {schema}");
    });
}

#[test]
fn every_rule_has_a_message_of_one_line() {
    let mut rules = 0;
    walk("clientMetadata", &crd_schema(), &mut |path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(!message.is_empty() && !message.contains('\n'), "{path}: {rule}");
        }
    });
    assert!(rules > 20, "only {rules} rules survived the way into the CRD");
}

#[test]
fn names_are_those_of_the_registry() {
    // IANA, "OAuth Dynamic Client Registration Metadata", 2026-03-25, without what only a server issues.
    let registry = "
        redirect_uris token_endpoint_auth_method grant_types response_types client_name client_uri logo_uri scope contacts
        tos_uri policy_uri jwks_uri jwks software_id software_version
        application_type sector_identifier_uri subject_type id_token_signed_response_alg id_token_encrypted_response_alg
        id_token_encrypted_response_enc userinfo_signed_response_alg userinfo_encrypted_response_alg
        userinfo_encrypted_response_enc request_object_signing_alg request_object_encryption_alg
        request_object_encryption_enc token_endpoint_auth_signing_alg default_max_age require_auth_time default_acr_values
        initiate_login_uri request_uris
        claims_redirect_uris nfv_token_signed_response_alg nfv_token_encrypted_response_alg nfv_token_encrypted_response_enc
        tls_client_certificate_bound_access_tokens tls_client_auth_subject_dn tls_client_auth_san_dns
        tls_client_auth_san_uri tls_client_auth_san_ip tls_client_auth_san_email
        require_signed_request_object require_pushed_authorization_requests
        introspection_signed_response_alg introspection_encrypted_response_alg introspection_encrypted_response_enc
        frontchannel_logout_uri frontchannel_logout_session_required backchannel_logout_uri
        backchannel_logout_session_required post_logout_redirect_uris
        authorization_details_types dpop_bound_access_tokens
        client_registration_types signed_jwks_uri organization_name description keywords information_uri organization_uri
        use_mtls_endpoint_aliases encrypted_response_enc_values_supported vp_formats_supported";
    let in_use = "
        software_statement response_modes
        authorization_signed_response_alg authorization_encrypted_response_alg authorization_encrypted_response_enc
        backchannel_token_delivery_mode backchannel_client_notification_endpoint
        backchannel_authentication_request_signing_alg backchannel_user_code_parameter";
    let curity = "
        access_token_ttl refresh_token_ttl refresh_token_max_rolling_lifetime id_token_ttl reuse_refresh_tokens
        allowed_origins application_url authenticator_filters require_proof_key disallowed_proof_key_challenge_methods
        requires_consent allow_per_request_redirect_uris";
    assert_eq!(registry.split_whitespace().count(), 71 - 6);
    let expected: BTreeSet<String> =
        [registry, in_use, curity].into_iter().flat_map(str::split_whitespace).map(str::to_owned).collect();
    assert_eq!(ClientMetadata::known_names(), &expected);
}
