//! Failures of the Kubernetes API.

use crate::{api::reasons, retry::Retry};

/// A failed call to the Kubernetes API.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// The object changed since it was read, or appeared meanwhile: look again.
    #[error("{what}: it was changed by somebody else meanwhile")]
    Conflict { what: String },
    /// The namespace is going away and takes nothing new.
    #[error("{what}: the namespace is being deleted")]
    NamespaceTerminating { what: String },
    /// The operator's RBAC does not allow it, or an admission policy refuses it.
    #[error("{what}: {message}")]
    Forbidden { what: String, message: String },
    /// The object, or its namespace, is gone.
    #[error("{what}: it is gone")]
    Gone { what: String },
    /// The API server finds the object invalid.
    #[error("{what}: {message}")]
    Invalid { what: String, message: String },
    /// Anything else: time may cure it.
    #[error("{what}: {message}")]
    Unavailable {
        what: String,
        message: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// The API server's own words, which name the user, the verb and the resource if RBAC refuses; else the failure.
#[must_use]
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// Classifies what kube answered; `what` says what was tried.
    pub fn new(what: impl Into<String>, source: kube::Error) -> Self {
        let what = what.into();
        match &source {
            kube::Error::Api(status) => {
                let terminating = status
                    .details
                    .as_ref()
                    .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"));
                match status.code {
                    _ if terminating => Self::NamespaceTerminating { what },
                    409 => Self::Conflict { what },
                    404 => Self::Gone { what },
                    403 => Self::Forbidden { what, message: status.message.clone() },
                    400 | 422 => Self::Invalid { what, message: status.message.clone() },
                    _ => Self::Unavailable { what, message: status.message.clone(), source: Box::new(source) },
                }
            }
            _ => Self::Unavailable { what, message: source.to_string(), source: Box::new(source) },
        }
    }

    /// The reason for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "Conflict",
            Self::NamespaceTerminating { .. } => reasons::NAMESPACE_TERMINATING,
            Self::Forbidden { .. } => "KubernetesForbidden",
            Self::Gone { .. } => "Gone",
            Self::Invalid { .. } => "KubernetesInvalid",
            Self::Unavailable { .. } => reasons::KUBERNETES_UNAVAILABLE,
        }
    }

    /// What may cure it.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Invalid { .. } => Retry::OnChange,
            // RBAC and admission are mended by people who do not touch our objects.
            _ => Retry::Backoff,
        }
    }

    /// Whether the write can't have happened and won't by trying again. A refusal by RBAC is not among them: an API
    /// server that has just started refuses everybody until it has read the roles.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::NamespaceTerminating { .. } | Self::Gone { .. } | Self::Invalid { .. })
    }
}
