//! The authorization server as a client library: discovery, initial access tokens, and client registration and
//! management (RFC 7591, RFC 7592). It knows nothing of Kubernetes.
//!
//! # Guarantees
//! - Each method of [`Server`] makes one HTTP exchange ([`Server::discover`] up to three `GET`s) and never repeats one:
//!   `POST` to a registration endpoint is not idempotent and initial access tokens may work only once. Whether to try
//!   again is the caller's decision, with [`Error::retry`] and [`Error::outcome`] as its grounds.
//! - Redirects are never followed; `http://` is refused unless [`ServerOptions::allow_insecure_http`] is set.
//! - Every exchange is bounded in time ([`ServerOptions::request_timeout`], from the start of sending to the last byte
//!   of the answer) and in size ([`MAX_BODY_BYTES`]).
//! - No `Display` or `Debug` output holds a token, a secret, the query of a URL or a whole reply, and what a server chose
//!   to say is cut to [`MAX_WORDS_CHARS`] characters and freed of control characters.
//!
//! # Assumptions
//! - A process-wide rustls crypto provider is installed, or none at all (then aws-lc-rs is used).
//! - The proxy variables of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`) mean what they say.

mod client;
mod discovery;
mod error;
mod http;
mod keys;
mod limits;
mod registration;
mod text;
mod token;

pub use self::client::{
    ClientInformation, UpdateSemantics, client_configuration_endpoint, client_configuration_endpoint_of,
    update_document,
};
pub use self::discovery::ServerMetadata;
pub use self::error::{Error, Outcome, Refusal, Trouble};
pub use self::http::{MAX_BODY_BYTES, Server, ServerOptions, check_endpoint};
pub use self::keys::{KeyAlgorithm, KeyPair};
pub use self::registration::Deleted;
pub use self::text::{MAX_WORDS_CHARS, Words};
pub use self::token::{AccessToken, ClientAuthentication, ClientCredentials, expires_at};
