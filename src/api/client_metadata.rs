//! The client metadata document: what a client is to be on the authorization server.

mod schema;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;

use kube::KubeSchema;
use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The client metadata of RFC 7591, which is sent to the authorization server as it is, under its
/// wire names. Every member is optional; what is left out is for the server to decide. Members of
/// the server's own that are not listed here, and names with a language tag, belong in
/// additionalMetadata.
//
// The six members that only a server issues (client_id, client_secret, ...) are not here: asking
// for them has no meaning. Unknown members are tolerated on reading, because the API server has
// refused typos already and may know members that an older operator does not.
#[derive(KubeSchema, Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[x_kube(
    validation = Rule::new("!(has(self.jwks) && has(self.jwks_uri))")
        .message("jwks and jwks_uri exclude each other: leave one of them out (RFC 7591 section 2)")
)]
#[x_kube(
    validation = Rule::new(
        "[has(self.tls_client_auth_subject_dn), has(self.tls_client_auth_san_dns), \
          has(self.tls_client_auth_san_uri), has(self.tls_client_auth_san_ip), \
          has(self.tls_client_auth_san_email)].filter(x, x).size() <= 1"
    )
    .message(
        "at most one of tls_client_auth_subject_dn, tls_client_auth_san_dns, \
         tls_client_auth_san_uri, tls_client_auth_san_ip and tls_client_auth_san_email may be set \
         (RFC 8705 section 2.1.2)"
    )
)]
pub struct ClientMetadata {
    // RFC 7591
    /// Where the server may send a browser with the answer to an authorization request. Needed for
    /// the grant types `authorization_code` and `implicit`. The server compares exactly, so each
    /// URI is listed: absolute, with neither fragment nor wildcard. An https URL, a loopback URL
    /// (`http://127.0.0.1/callback`) or an application's own scheme (`com.example.shop:/callback`).
    /// RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::redirect_uris)]
    pub redirect_uris: Option<Vec<String>>,

    /// How the client authenticates at the token endpoint: `client_secret_basic` (the default),
    /// `client_secret_post`, `client_secret_jwt`, `private_key_jwt`, `tls_client_auth`,
    /// `self_signed_tls_client_auth`, or `none` for a public client, which has no secret. A server
    /// may know further methods. RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub token_endpoint_auth_method: Option<String>,

    /// The OAuth grants that the client will use: `authorization_code` (the default),
    /// `refresh_token`, `client_credentials`, `implicit`, `password`,
    /// `urn:ietf:params:oauth:grant-type:device_code`,
    /// `urn:ietf:params:oauth:grant-type:jwt-bearer`,
    /// `urn:ietf:params:oauth:grant-type:token-exchange`, `urn:openid:params:grant-type:ciba`, or
    /// one of the server's own such as Curity's `https://curity.se/grant/assisted-token`. RFC 7591
    /// section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub grant_types: Option<Vec<String>>,

    /// The answers that the client will ask for at the authorization endpoint: `code` (the
    /// default), `token`, `id_token`, `none`, or a combination such as `code id_token`. They must
    /// fit the grant types. RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub response_types: Option<Vec<String>>,

    /// The name of the client that is shown to people, for instance when they are asked for
    /// consent. Without it a server shows the client identifier. Names in further languages
    /// (`client_name#fr`) belong in additionalMetadata. RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub client_name: Option<String>,

    /// A web page about the client, http(s). Curity wants it on the same domain as a redirect URI.
    /// RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub client_uri: Option<String>,

    /// An image that servers show as the client's logo, http(s). RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub logo_uri: Option<String>,

    /// The scopes that the client may ask for, separated by spaces, such as `openid profile
    /// orders:read`. Without it a server may register a default set. RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::scope)]
    pub scope: Option<String>,

    /// How to reach the people responsible for the client, usually e-mail addresses. RFC 7591
    /// section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub contacts: Option<Vec<String>>,

    /// The client's terms of service for people, http(s). RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub tos_uri: Option<String>,

    /// The page that says how the client uses the data that it gets about people, http(s). RFC 7591
    /// section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub policy_uri: Option<String>,

    /// Where the client publishes its public keys as a JSON Web Key Set, https. The way to change
    /// keys without a new registration. Excludes `jwks`. RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::trusted_uri)]
    pub jwks_uri: Option<String>,

    /// The client's public keys as a JSON Web Key Set (RFC 7517), for a client that cannot publish
    /// them at a `jwks_uri`. Excludes `jwks_uri`. Private and symmetric keys are refused. RFC 7591
    /// section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::jwks")]
    pub jwks: Option<Map<String, Value>>,

    /// Identifies the client software across its installations and versions, often a UUID. On a
    /// Curity server it names the template of a templatized client; spec.templateId does that. RFC
    /// 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub software_id: Option<String>,

    /// The version of the client software that `software_id` names; any string. RFC 7591 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub software_version: Option<String>,

    /// A signed JWT, issued by somebody whom the server trusts, that asserts further members; its
    /// claims prevail over plain ones. Whoever can read this object can read it. RFC 7591 section
    /// 2.3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software_statement: Option<SoftwareStatement>,

    // OpenID Connect Registration
    /// The kind of application: `web` (the default) or `native`. For a native one a server accepts
    /// loopback and custom-scheme redirect URIs. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("enum" = ["web", "native"]))]
    pub application_type: Option<String>,

    /// The https address of a JSON list of redirect URIs; its host names the sector for which
    /// pairwise subject identifiers are computed. Needed if the redirect URIs of a pairwise client
    /// have more than one host. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::trusted_uri)]
    pub sector_identifier_uri: Option<String>,

    /// How the user is identified to the client: `public` (the same `sub` for all clients) or
    /// `pairwise` (a different one for each sector). The server chooses if it is left out. OpenID
    /// Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("enum" = ["public", "pairwise"]))]
    pub subject_type: Option<String>,

    /// JWS algorithm with which the server signs ID tokens, such as `RS256`, `PS256`, `ES256` or
    /// `EdDSA`. Default: `RS256`. `none` only for clients that get no ID token from the
    /// authorization endpoint. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub id_token_signed_response_alg: Option<String>,

    /// JWE key management algorithm with which the server encrypts ID tokens for the client, such
    /// as `RSA-OAEP-256` or `ECDH-ES`. Default: not encrypted. The client must have registered a
    /// key. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub id_token_encrypted_response_alg: Option<String>,

    /// JWE content encryption algorithm of ID tokens, such as `A128CBC-HS256` or `A256GCM`. Only
    /// with `id_token_encrypted_response_alg`; default then: `A128CBC-HS256`. OpenID Connect
    /// Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub id_token_encrypted_response_enc: Option<String>,

    /// JWS algorithm with which the server signs UserInfo responses, such as `RS256`, `PS256`,
    /// `ES256` or `EdDSA`. Default: not signed, plain JSON. OpenID Connect Registration 1.0 section
    /// 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub userinfo_signed_response_alg: Option<String>,

    /// JWE key management algorithm with which the server encrypts UserInfo responses for the
    /// client, such as `RSA-OAEP-256` or `ECDH-ES`. Default: not encrypted. The client must have
    /// registered a key. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub userinfo_encrypted_response_alg: Option<String>,

    /// JWE content encryption algorithm of UserInfo responses, such as `A128CBC-HS256` or
    /// `A256GCM`. Only with `userinfo_encrypted_response_alg`; default then: `A128CBC-HS256`.
    /// OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub userinfo_encrypted_response_enc: Option<String>,

    /// JWS algorithm with which the client must sign its request objects; the server refuses
    /// others. Default: any that the server supports. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub request_object_signing_alg: Option<String>,

    /// JWE key management algorithm with which the client may encrypt its request objects, such as
    /// `RSA-OAEP-256`. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub request_object_encryption_alg: Option<String>,

    /// JWE content encryption algorithm with which the client may encrypt its request objects. Only
    /// with `request_object_encryption_alg`; default then: `A128CBC-HS256`. OpenID Connect
    /// Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub request_object_encryption_enc: Option<String>,

    /// JWS algorithm with which the client must sign its assertions for `private_key_jwt` or
    /// `client_secret_jwt`. Default: any that the server supports. OpenID Connect Registration 1.0
    /// section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub token_endpoint_auth_signing_alg: Option<String>,

    /// How many seconds ago the user may have authenticated at most; after that the server
    /// authenticates again. A request's `max_age` prevails. Default: no limit. OpenID Connect
    /// Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::seconds)]
    pub default_max_age: Option<i64>,

    /// Whether ID tokens must have the claim `auth_time`. Default: false. OpenID Connect
    /// Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_auth_time: Option<bool>,

    /// The authentication context classes that are asked for by default, in order of preference. On
    /// a Curity server: the authenticators that the user may choose from. A request's `acr_values`
    /// prevail. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::ordered_names)]
    pub default_acr_values: Option<Vec<String>>,

    /// The https address at which others, such as a portal, can have the client start a login.
    /// OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub initiate_login_uri: Option<String>,

    /// The `request_uri` values that the client may send in authorization requests. With a
    /// fragment, it is the SHA-256 hash of the content. OpenID Connect Registration 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::absolute_uris)]
    pub request_uris: Option<Vec<String>>,

    // UMA 2.0 and ETSI NFV
    /// Where an UMA server may send a requesting party back after it has gathered claims. Same form
    /// as `redirect_uris`. UMA 2.0 Grant section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::few_redirect_uris)]
    pub claims_redirect_uris: Option<Vec<String>>,

    /// JWS algorithm with which the server signs access tokens for network functions. ETSI GS
    /// NFV-SEC 022.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub nfv_token_signed_response_alg: Option<String>,

    /// JWE key management algorithm with which the server encrypts access tokens for network
    /// functions. ETSI GS NFV-SEC 022.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub nfv_token_encrypted_response_alg: Option<String>,

    /// JWE content encryption algorithm of access tokens for network functions. Only with
    /// `nfv_token_encrypted_response_alg`. ETSI GS NFV-SEC 022.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub nfv_token_encrypted_response_enc: Option<String>,

    // Mutual TLS (RFC 8705)
    /// Whether access tokens are to be bound to the client's TLS certificate, so that nobody else
    /// can use them. Default: false. RFC 8705 section 3.4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_client_certificate_bound_access_tokens: Option<bool>,

    /// For `tls_client_auth`: the subject of the client's certificate as an RFC 4514 string, such
    /// as `CN=shop,O=Example,C=SE`. At most one of the five `tls_client_auth_*` members may be set.
    /// RFC 8705 section 2.1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::text)]
    pub tls_client_auth_subject_dn: Option<String>,

    /// For `tls_client_auth`: a DNS name among the subject alternative names of the client's
    /// certificate. RFC 8705 section 2.1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub tls_client_auth_san_dns: Option<String>,

    /// For `tls_client_auth`: a URI among the subject alternative names of the client's
    /// certificate, such as `spiffe://example.com/shop`. RFC 8705 section 2.1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::absolute_uri)]
    pub tls_client_auth_san_uri: Option<String>,

    /// For `tls_client_auth`: an IP address among the subject alternative names of the client's
    /// certificate, such as `192.0.2.10` or `2001:db8::10`. RFC 8705 section 2.1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub tls_client_auth_san_ip: Option<String>,

    /// For `tls_client_auth`: an e-mail address among the subject alternative names of the client's
    /// certificate. RFC 8705 section 2.1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub tls_client_auth_san_email: Option<String>,

    /// Whether the client uses the `mtls_endpoint_aliases` of the server's discovery document.
    /// Default: false. FAPI 2.0 Security Profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_mtls_endpoint_aliases: Option<bool>,

    // Requests and tokens: RFC 9101, RFC 9126, RFC 9701, RFC 9396, RFC 9449, JARM
    /// Whether the server accepts the client's authorization requests only as signed request
    /// objects. Default: false. RFC 9101 section 10.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_signed_request_object: Option<bool>,

    /// Whether the server accepts the client's authorization requests only if they were pushed
    /// beforehand (PAR). Default: false. RFC 9126 section 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_pushed_authorization_requests: Option<bool>,

    /// JWS algorithm with which the server signs introspection responses, such as `RS256`, `PS256`,
    /// `ES256` or `EdDSA`. Default: `RS256`. RFC 9701 section 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub introspection_signed_response_alg: Option<String>,

    /// JWE key management algorithm with which the server encrypts introspection responses for the
    /// client, such as `RSA-OAEP-256` or `ECDH-ES`. Default: not encrypted. The client must have
    /// registered a key. RFC 9701 section 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub introspection_encrypted_response_alg: Option<String>,

    /// JWE content encryption algorithm of introspection responses, such as `A128CBC-HS256` or
    /// `A256GCM`. Only with `introspection_encrypted_response_alg`; default then: `A128CBC-HS256`.
    /// RFC 9701 section 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub introspection_encrypted_response_enc: Option<String>,

    /// The `type` values that the client will use in `authorization_details`, such as
    /// `payment_initiation`. RFC 9396 section 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub authorization_details_types: Option<Vec<String>>,

    /// Whether the client always asks for DPoP-bound access tokens; the server then refuses a token
    /// request without a proof. Default: false. RFC 9449 section 5.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpop_bound_access_tokens: Option<bool>,

    /// JWS algorithm with which the server signs authorization responses, such as `RS256`, `PS256`,
    /// `ES256` or `EdDSA`. For the JWT response modes. Default: `RS256`; `none` is not allowed.
    /// JARM section 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub authorization_signed_response_alg: Option<String>,

    /// JWE key management algorithm with which the server encrypts authorization responses for the
    /// client, such as `RSA-OAEP-256` or `ECDH-ES`. Default: not encrypted. The client must have
    /// registered a key. JARM section 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub authorization_encrypted_response_alg: Option<String>,

    /// JWE content encryption algorithm of authorization responses, such as `A128CBC-HS256` or
    /// `A256GCM`. Only with `authorization_encrypted_response_alg`; default then: `A128CBC-HS256`.
    /// JARM section 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub authorization_encrypted_response_enc: Option<String>,

    /// How the client wants authorization responses returned: `query`, `fragment`, `form_post`,
    /// `jwt`, `query.jwt`, `fragment.jwt`, `form_post.jwt`. Not a registered name, but known to
    /// several servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub response_modes: Option<Vec<String>>,

    // Logout
    /// The page of the client that the server loads in the user's browser to log out, http(s), on
    /// the host of a redirect URI. OpenID Connect Front-Channel Logout 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub frontchannel_logout_uri: Option<String>,

    /// Whether the front-channel logout request must carry `iss` and `sid`. Default: false. OpenID
    /// Connect Front-Channel Logout 1.0 section 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontchannel_logout_session_required: Option<bool>,

    /// The address to which the server posts a logout token when the user logs out, http(s). The
    /// server must be able to reach it. OpenID Connect Back-Channel Logout 1.0 section 2.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub backchannel_logout_uri: Option<String>,

    /// Whether the logout token must have the claim `sid`. Default: false. OpenID Connect
    /// Back-Channel Logout 1.0 section 2.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backchannel_logout_session_required: Option<bool>,

    /// Where the server may send the browser after a logout that the client asked for. Same form as
    /// `redirect_uris`. OpenID Connect RP-Initiated Logout 1.0 section 3.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::redirect_uris)]
    pub post_logout_redirect_uris: Option<Vec<String>>,

    // CIBA
    /// How the client gets its tokens in a backchannel authentication: `poll`, `ping` or `push`.
    /// Curity knows `poll` only. OpenID Connect CIBA Core 1.0 section 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("enum" = ["poll", "ping", "push"]))]
    pub backchannel_token_delivery_mode: Option<String>,

    /// The https address at which the server notifies the client; needed for `ping` and `push`.
    /// OpenID Connect CIBA Core 1.0 section 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub backchannel_client_notification_endpoint: Option<String>,

    /// JWS algorithm with which the client signs its backchannel authentication requests. Default:
    /// not signed. OpenID Connect CIBA Core 1.0 section 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub backchannel_authentication_request_signing_alg: Option<String>,

    /// Whether the client sends a user code with its backchannel authentication requests. Default:
    /// false. OpenID Connect CIBA Core 1.0 section 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backchannel_user_code_parameter: Option<bool>,

    // OpenID Federation
    /// How the client registers in a federation: `automatic`, `explicit`. OpenID Federation 1.0
    /// section 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub client_registration_types: Option<Vec<String>>,

    /// Where the client publishes its public keys as a signed JWT, https. OpenID Federation 1.0
    /// section 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::trusted_uri)]
    pub signed_jwks_uri: Option<String>,

    /// The name of the organization that owns the client, for people. OpenID Federation 1.0 section
    /// 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::name)]
    pub organization_name: Option<String>,

    /// What the client is, in a sentence for people. OpenID Federation 1.0 section 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::text)]
    pub description: Option<String>,

    /// Words by which the client can be found. OpenID Federation 1.0 section 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub keywords: Option<Vec<String>>,

    /// A page with further information about the client, http(s). OpenID Federation 1.0 section 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub information_uri: Option<String>,

    /// A web page about the organization that owns the client, http(s). OpenID Federation 1.0
    /// section 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub organization_uri: Option<String>,

    // OpenID for Verifiable Presentations
    /// JWE content encryption algorithms that the verifier accepts for encrypted responses, such as
    /// `A256GCM`. Default: `A128GCM`. OpenID for Verifiable Presentations 1.0 section 5.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub encrypted_response_enc_values_supported: Option<Vec<String>>,

    /// The credential formats that the verifier accepts: an object whose names are format
    /// identifiers, such as `dc+sd-jwt` or `mso_mdoc`, and whose values are their parameters.
    /// OpenID for Verifiable Presentations 1.0 section 11.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub vp_formats_supported: Option<Map<String, Value>>,

    // Curity Identity Server
    /// How many seconds an access token of this client lives. Default: the server's. Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::seconds)]
    pub access_token_ttl: Option<i64>,

    /// How many seconds a refresh token of this client lives; 0: the client gets none. Default: the
    /// server's (3600 on Curity). Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::seconds)]
    pub refresh_token_ttl: Option<i64>,

    /// For how many seconds a chain of renewed refresh tokens may go on. Default: the server's.
    /// Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::seconds)]
    pub refresh_token_max_rolling_lifetime: Option<i64>,

    /// How many seconds an ID token of this client lives. Default: the server's. Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::seconds)]
    pub id_token_ttl: Option<i64>,

    /// Whether a refresh token stays the same when it is used. If false, each use gives a new one.
    /// Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse_refresh_tokens: Option<bool>,

    /// The origins that may embed the server's pages for this client in a frame, such as
    /// `https://shop.example.com`. Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::origins)]
    pub allowed_origins: Option<Vec<String>>,

    /// The start page of the application, http(s), on the same domain as a redirect URI. Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::web_uri)]
    pub application_url: Option<String>,

    /// The names of the authenticator filters that decide which authenticators the user may choose
    /// from. Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub authenticator_filters: Option<Vec<String>>,

    /// Whether the client must use a proof key (PKCE, RFC 7636) in the code flow. Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_proof_key: Option<bool>,

    /// The proof key (PKCE) challenge methods that the client must not use, such as `plain`.
    /// Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = schema::names)]
    pub disallowed_proof_key_challenge_methods: Option<Vec<String>>,

    /// Whether the user is asked for consent before the client gets tokens. Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_consent: Option<bool>,

    /// Whether the client may send redirect URIs that are not registered. Deprecated by Curity, and
    /// unsafe. Curity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_per_request_redirect_uris: Option<bool>,
}

impl ClientMetadata {
    /// The document's members, as they go on the wire. What is not set is not there.
    pub fn members(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(members)) => members,
            other => unreachable!("client metadata is an object of JSON values, not {other:?}"),
        }
    }

    /// Every member name that `clientMetadata` knows, in alphabetical order.
    ///
    /// Taken from the schema, so that it can never differ from what `kubectl apply` accepts.
    pub fn known_names() -> &'static BTreeSet<String> {
        static NAMES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
            let schema = schema_for!(ClientMetadata);
            let properties = schema.get("properties").and_then(Value::as_object);
            properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect()
        });
        &NAMES
    }
}

/// A software statement (RFC 7591 section 2.3). Servers may accept it in place of other
/// credentials, so it is never printed.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(transparent)]
#[schemars(inline)]
pub struct SoftwareStatement(#[schemars(length(min = 1, max = 16384))] String);

impl SoftwareStatement {
    /// The signed JWT.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for SoftwareStatement {
    fn from(jwt: String) -> Self {
        Self(jwt)
    }
}

impl fmt::Debug for SoftwareStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SoftwareStatement(redacted)")
    }
}
