//! Carries out the calls that the plan asks for. Decides nothing.

use std::time::Instant;

use super::{
    connection::{Credential, Error},
    observe::{FailedStep, Failure, Observed},
    plan::Step,
};
use crate::{api::reasons, context::Context, retry::Retry};

/// Makes the call and notes in the finding what came of it. `Err` says when it may be tried again.
pub async fn act(context: &Context, observed: &mut Observed, step: &Step) -> Result<(), Retry> {
    let (operation, at) = match step {
        Step::Discover { .. } => ("discover", FailedStep::Discovery),
        Step::ObtainToken { .. } => ("token", FailedStep::Token),
    };
    let started = Instant::now();
    let result = call(context, observed, step).await;
    let label = result.as_ref().err().map_or("Success", Error::reason);
    context.metrics.server_request(operation, label, started.elapsed());
    observed.finding.failure = None;
    result.map_err(|error| {
        // A wrong issuer or CA bundle may be mended where nobody tells us; a forbidden URL can't be.
        let retry = match error.retry() {
            Retry::OnChange if error.reason() != reasons::INVALID_ENDPOINT => Retry::Backoff,
            retry => retry,
        };
        observed.finding.failure = Some(Failure {
            at,
            reason: error.reason(),
            message: error.to_string(),
            curable_by_time: retry != Retry::OnChange,
        });
        retry
    })
}

async fn call(context: &Context, observed: &mut Observed, step: &Step) -> Result<(), Error> {
    let ca_bundle = observed.ca_bundle.as_ref().ok().cloned().flatten();
    let client_identity = observed.client_identity.as_ref().ok().cloned().flatten();
    let server = context.connections.server(&observed.profile, ca_bundle, client_identity)?;
    match (step, &observed.credential) {
        (Step::Discover { issuer }, _) => {
            observed.finding.metadata = Some(server.discover(issuer).await?);
            // Looked at anew, all of it.
            observed.finding.token_obtained = false;
        }
        (Step::ObtainToken { token_endpoint }, Ok(Credential::ClientCredentials(client))) => {
            server.access_token(token_endpoint, client).await?;
            observed.finding.token_obtained = true;
        }
        (Step::ObtainToken { .. }, _) => {}
    }
    Ok(())
}
