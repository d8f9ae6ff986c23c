//! What can go wrong at an authorization server, and what follows from it.

use std::fmt;
use std::time::Duration;

use super::text::Words;
use crate::retry::Retry;

/// Why a request to an authorization server brought nothing usable. Its text is for the person on call: what was asked,
/// at which host and path, and what came back. It never holds a token, a secret or the query of a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The CA bundle holds no usable certificate, or there is none at all to trust.
    #[error("the CA certificates cannot be used: {why}")]
    InvalidCaBundle {
        /// What is wrong with it.
        why: String,
    },
    /// The client certificate (RFC 8705) or its private key cannot be used.
    #[error("the client certificate cannot be used: {why}")]
    InvalidClientCertificate {
        /// What is wrong with it.
        why: String,
    },
    /// A private key that cannot sign.
    #[error("the private key cannot be used: {why}")]
    InvalidPrivateKey {
        /// What is wrong with it.
        why: &'static str,
    },
    /// An endpoint that is not called, because of how its URL looks.
    #[error("{endpoint} is not called: {why}")]
    InvalidEndpoint {
        /// The URL, without its query.
        endpoint: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The token cannot be put into an HTTP header (RFC 6750 section 2.1); nothing was sent.
    #[error(
        "{request} was not sent: its token is empty, or has a space, a line break or another character that RFC 6750 forbids"
    )]
    UnsendableToken {
        /// Method and URL.
        request: String,
        /// What this means to the caller.
        refusal: Refusal,
    },
    /// The metadata are those of another issuer (`OpenID` Connect Discovery section 4.3, RFC 8414 section 3.3).
    #[error("{url} names the issuer \"{answered}\" where \"{issuer}\" was expected; both must be equal to the letter")]
    IssuerMismatch {
        /// The issuer that was asked for.
        issuer: String,
        /// The issuer in the document.
        answered: String,
        /// Where the document was found.
        url: String,
    },
    /// None of the well-known places has metadata.
    #[error("no authorization server metadata of {issuer}: {attempts}")]
    DiscoveryFailed {
        /// The issuer that was asked for.
        issuer: String,
        /// What each place answered.
        attempts: String,
    },
    /// The server answered, and the answer is no.
    #[error("{request} answered {status}{words}")]
    Refused {
        /// Method and URL.
        request: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        words: Words,
        /// What this means.
        refusal: Refusal,
    },
    /// There is no usable answer.
    #[error("{request} {trouble}")]
    Unavailable {
        /// Method and URL.
        request: String,
        /// What happened instead.
        trouble: Trouble,
        /// When the server asked to be called again, bounded.
        retry_after: Option<Duration>,
    },
    /// A client information response that cannot be one.
    #[error("the client information response {0}")]
    InvalidClientInformation(
        /// A phrase: what is wrong with it.
        &'static str,
    ),
}

/// What a clear "no" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `invalid_redirect_uri` (RFC 7591 section 3.2.2).
    InvalidRedirectUri,
    /// `invalid_client_metadata` (RFC 7591 section 3.2.2), or status 400 with an unknown code.
    InvalidClientMetadata,
    /// `invalid_software_statement` (RFC 7591 section 3.2.2).
    InvalidSoftwareStatement,
    /// `unapproved_software_statement` (RFC 7591 section 3.2.2).
    UnapprovedSoftwareStatement,
    /// Registration asks for another, or for a first, initial access token.
    InitialAccessTokenRejected,
    /// The server's own policy, or a missing right.
    RefusedByServer,
    /// The token endpoint gives no token.
    TokenRequestRejected,
    /// The client is gone, or its registration access token is no longer good (RFC 7592 section 2 has one status, 401, for
    /// both).
    RegistrationLost,
    /// The client is gone (404, 410): what some servers say to a token that they accept.
    ClientNotFound,
    /// The metadata of an update were refused.
    UpdateRejected,
    /// The server has no update (RFC 7592 section 2.2).
    UpdateUnsupported,
    /// The server does not delete (RFC 7592 section 2.3).
    DeregistrationRefused,
}

/// What came instead of a usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No connection was made, so nothing was sent.
    NoConnection(
        /// The cause.
        String,
    ),
    /// The connection was lost after it was made.
    ConnectionLost(
        /// The cause.
        String,
    ),
    /// No complete answer within this time.
    Timeout(Duration),
    /// A redirect, which is never followed.
    Redirect {
        /// The HTTP status.
        status: u16,
        /// Where to, without the query.
        location: Option<String>,
    },
    /// A status that says "not now" (408, 429, 5xx) or that has no meaning here.
    Status {
        /// The HTTP status.
        status: u16,
        /// The server's words.
        words: Words,
    },
    /// The status says success and the rest of the answer does not make sense.
    Unreadable {
        /// The HTTP status.
        status: u16,
        /// A phrase: what is wrong with it.
        what: &'static str,
    },
}

/// What may have become of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was registered or changed: the request was refused, or never sent.
    NotRegistered,
    /// The server may have carried it out. Never assume that it did not.
    Unknown,
}

impl Error {
    /// The reason for conditions, events and metrics; stable.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidCaBundle { .. } => "InvalidCaBundle",
            Self::InvalidClientCertificate { .. } => "InvalidClientCertificate",
            Self::InvalidPrivateKey { .. } => "InvalidPrivateKey",
            Self::InvalidEndpoint { .. } => "InvalidEndpoint",
            Self::IssuerMismatch { .. } => "IssuerMismatch",
            Self::DiscoveryFailed { .. } => "DiscoveryFailed",
            Self::UnsendableToken { refusal, .. } | Self::Refused { refusal, .. } => refusal.reason(),
            Self::Unavailable { .. } | Self::InvalidClientInformation(_) => "ServerUnavailable",
        }
    }

    /// What may cure it.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::InvalidCaBundle { .. }
            | Self::InvalidClientCertificate { .. }
            | Self::InvalidPrivateKey { .. }
            | Self::InvalidEndpoint { .. }
            | Self::IssuerMismatch { .. }
            | Self::UnsendableToken { .. } => Retry::OnChange,
            Self::Refused { refusal, .. } if refusal.is_about_metadata() => Retry::OnChange,
            Self::Unavailable { retry_after: Some(delay), .. } => Retry::After(*delay),
            Self::Refused { .. }
            | Self::Unavailable { .. }
            | Self::DiscoveryFailed { .. }
            | Self::InvalidClientInformation(_) => Retry::Backoff,
        }
    }

    /// Whether the server said that the client does not exist, and not just that the token is no good: no other token will
    /// find it.
    #[must_use]
    pub fn is_client_not_found(&self) -> bool {
        matches!(self, Self::Refused { refusal: Refusal::ClientNotFound, .. })
    }

    /// Whether a registration (or an update, or a deletion) may have been carried out nevertheless.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unavailable { trouble, .. } => trouble.outcome(),
            Self::InvalidClientInformation(_) => Outcome::Unknown,
            Self::InvalidCaBundle { .. }
            | Self::InvalidClientCertificate { .. }
            | Self::InvalidPrivateKey { .. }
            | Self::InvalidEndpoint { .. }
            | Self::UnsendableToken { .. }
            | Self::IssuerMismatch { .. }
            | Self::DiscoveryFailed { .. }
            | Self::Refused { .. } => Outcome::NotRegistered,
        }
    }
}

impl Refusal {
    /// Those that are about what was asked for: the same, asked again, is refused again.
    pub const ABOUT_METADATA: [Self; 5] = [
        Self::InvalidRedirectUri,
        Self::InvalidClientMetadata,
        Self::InvalidSoftwareStatement,
        Self::UnapprovedSoftwareStatement,
        Self::UpdateRejected,
    ];

    /// As [`Error::reason`].
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidRedirectUri => "InvalidRedirectUri",
            Self::InvalidClientMetadata => "InvalidClientMetadata",
            Self::InvalidSoftwareStatement => "InvalidSoftwareStatement",
            Self::UnapprovedSoftwareStatement => "UnapprovedSoftwareStatement",
            Self::InitialAccessTokenRejected => "InitialAccessTokenRejected",
            Self::RefusedByServer => "RefusedByServer",
            Self::TokenRequestRejected => "TokenRequestRejected",
            Self::RegistrationLost | Self::ClientNotFound => "RegistrationLost",
            Self::UpdateRejected => "UpdateRejected",
            Self::UpdateUnsupported => "UpdateUnsupported",
            Self::DeregistrationRefused => "DeregistrationRefused",
        }
    }

    fn is_about_metadata(self) -> bool {
        Self::ABOUT_METADATA.contains(&self)
    }
}

impl Trouble {
    fn outcome(&self) -> Outcome {
        match self {
            // 307 and 308 say: ask there, with the same method (RFC 9110 section 15.4). Another redirect may be the answer to
            // a request that has been carried out: "see there what has come of it".
            Self::NoConnection(_) | Self::Redirect { status: 307 | 308, .. } => Outcome::NotRegistered,
            Self::Redirect { .. } => Outcome::Unknown,
            Self::Status { status, .. } if (400..500).contains(status) => Outcome::NotRegistered,
            Self::ConnectionLost(_) | Self::Timeout(_) | Self::Status { .. } | Self::Unreadable { .. } => {
                Outcome::Unknown
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConnection(cause) => write!(f, "was not sent, no connection: {cause}"),
            Self::ConnectionLost(cause) => write!(f, "lost its connection: {cause}"),
            Self::Timeout(limit) => write!(f, "got no complete answer within {limit:?}"),
            Self::Redirect { status, location: Some(location) } => {
                write!(f, "answered {status}, a redirect to {location}, which is not followed")
            }
            Self::Redirect { status, location: None } => {
                write!(f, "answered {status}, a redirect, which is not followed")
            }
            Self::Status { status, words } => write!(f, "answered {status}{words}"),
            Self::Unreadable { status, what } => write!(f, "answered {status}, but the answer {what}"),
        }
    }
}
