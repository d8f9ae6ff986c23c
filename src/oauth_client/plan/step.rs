//! The effects that a plan may ask for.

use jiff::Timestamp;

use crate::{
    api::{RolloutRestartTarget, SigningAlgorithm},
    kubernetes::{Precondition, SecretSpec},
    oauth_client::{attempt::Attempt, metadata::Document},
};

/// One effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Put the finalizer there: without it, a deletion would pass the operator by.
    AddFinalizer,
    /// Persist the intent, register a client once, persist the answer. A client that there is already becomes a former
    /// one. With `new_key`, a key pair of the algorithm is made and registered.
    Register { attempt: Attempt, document: Document, new_key: Option<SigningAlgorithm> },
    /// Take over a client that exists on the server: read it, or, if there is nothing to read it with, take it as given.
    Adopt { client_id: String, registration_client_uri: Option<String> },
    /// Change the registration (RFC 7592 section 2.2): `body` is sent so that the client becomes what `document` asks
    /// for. With `new_key`, a key pair of the algorithm is made and registered before the others.
    Update { document: Document, body: Document, new_key: Option<SigningAlgorithm>, cause: Cause },
    /// Read the registration (RFC 7592 section 2.1).
    Read { purpose: Purpose },
    /// Write the application's Secret.
    ApplySecret { secret: SecretSpec, precondition: Precondition },
    /// Remove the application's Secret, to make it anew: the type of a Secret can't be changed.
    RemoveSecret,
    /// Remove the Secret that the spec no longer names.
    RemoveFormerSecret,
    /// Restart workloads, for the credentials of that time.
    RestartWorkloads { targets: Vec<RolloutRestartTarget>, rotated_at: Timestamp },
    /// Write down that the server may hold a client that nobody knows.
    ReportPossibleOrphan { attempt: Attempt },
    /// Remove a former client on the server, or report it.
    Retire { client_id: String },
    /// Give back a registration whose credentials nobody may have; the client that it took the place of is the one again.
    Withdraw { why: String },
    /// Remove the client on the server (RFC 7592 section 2.3).
    Deregister,
    /// Tell people that clients stay on the server.
    ReportOrphan { client_ids: Vec<String>, why: String },
    /// Tell people that the client stays on the server because the spec says so.
    ReportRetained { client_id: String },
    /// Remove the registration Secret.
    RemoveRegistration,
    /// Remove the finalizer.
    Release,
}

/// Why a registration is updated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The spec asks for something else than before.
    SpecChanged,
    /// The server has other values of these members than it answered.
    Drift(Vec<String>),
    /// The server has registered more than the policies allow.
    Narrowing(String),
    /// A new key pair takes the place of the old one.
    KeyRotation,
    /// The registration access token is about to end.
    TokenRenewal { ends: Timestamp },
}

/// Why a registration is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To see whether the server still has what it answered.
    Compare,
    /// The read issues a new client secret. `ends`: the old one is about to end then.
    Rotate { ends: Option<Timestamp> },
    /// The read issues a new registration access token: the old one is about to end.
    TokenRenewal { ends: Timestamp },
}

impl Step {
    /// Whether it calls the authorization server.
    #[must_use]
    pub fn calls_the_server(&self) -> bool {
        match self {
            Self::Register { .. }
            | Self::Adopt { .. }
            | Self::Update { .. }
            | Self::Read { .. }
            | Self::Retire { .. }
            | Self::Withdraw { .. }
            | Self::Deregister => true,
            Self::AddFinalizer
            | Self::ApplySecret { .. }
            | Self::RemoveSecret
            | Self::RemoveFormerSecret
            | Self::RestartWorkloads { .. }
            | Self::ReportPossibleOrphan { .. }
            | Self::ReportOrphan { .. }
            | Self::ReportRetained { .. }
            | Self::RemoveRegistration
            | Self::Release => false,
        }
    }

    /// For the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "AddFinalizer",
            Self::Register { .. } => "Register",
            Self::Adopt { .. } => "Adopt",
            Self::Update { .. } => "Update",
            Self::Read { .. } => "Read",
            Self::ApplySecret { .. } => "ApplySecret",
            Self::RemoveSecret => "RemoveSecret",
            Self::RemoveFormerSecret => "RemoveFormerSecret",
            Self::RestartWorkloads { .. } => "RestartWorkloads",
            Self::ReportPossibleOrphan { .. } => "ReportPossibleOrphan",
            Self::Retire { .. } => "Retire",
            Self::Withdraw { .. } => "Withdraw",
            Self::Deregister => "Deregister",
            Self::ReportOrphan { .. } => "ReportOrphan",
            Self::ReportRetained { .. } => "ReportRetained",
            Self::RemoveRegistration => "RemoveRegistration",
            Self::Release => "Release",
        }
    }
}
