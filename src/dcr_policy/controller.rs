//! Counts, and writes the status.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use kube::{
    ResourceExt,
    core::DeserializeGuard,
    runtime::{
        controller::{Action, Config},
        reflector::ObjectRef,
    },
};

use super::status;
use crate::{
    api::{DcrPolicy, PolicyClients},
    context::Context,
    kubernetes::{self, Watched},
    ops::Outcome,
};

type Guarded = DeserializeGuard<DcrPolicy>;

/// Pauses between two counts: a thousand new clients are one write, not a thousand.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the context's token stops it.
pub async fn run(context: Arc<Context>, watched: Watched<DcrPolicy>) {
    watched
        .controller()
        .with_config(Config::default().concurrency(context.settings.workers))
        .reconcile_on(miscounted(Arc::clone(&context)))
        .graceful_shutdown_on(context.stop.clone().cancelled_owned())
        .run(reconcile, |_, error: &Infallible, _| match *error {}, Arc::clone(&context))
        .for_each(async |_| {})
        .await;
}

/// Every now and then, the policies whose `status.clients` is wrong.
fn miscounted(context: Arc<Context>) -> impl Stream<Item = ObjectRef<Guarded>> + Send {
    stream::unfold(context, async |context| {
        tokio::time::sleep(COUNT_INTERVAL).await;
        let wrong = context.policies.filter_map(|policy| {
            let counted = policy.status.as_ref().and_then(|status| status.clients)?;
            let namespace = policy.namespace().unwrap_or_default();
            (counted != count(&context, policy)).then(|| ObjectRef::new(&policy.name_any()).within(&namespace))
        });
        Some((stream::iter(wrong), context))
    })
    .flatten()
}

fn count(context: &Context, policy: &DcrPolicy) -> PolicyClients {
    let verdicts =
        context.clients.filter_map(|client| status::matches(policy, client).then(|| status::violates(policy, client)));
    PolicyClients {
        matching: i64::try_from(verdicts.len()).unwrap_or(i64::MAX),
        violating: i64::try_from(verdicts.iter().filter(|violates| **violates).count()).unwrap_or(i64::MAX),
    }
}

#[tracing::instrument(skip_all, fields(policy = format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any())))]
async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Infallible> {
    let policy = match &guarded.0 {
        Ok(policy) => policy,
        Err(error) => {
            tracing::error!(%error, "the DcrPolicy does not fit the schema; update the CRDs");
            return Ok(Action::await_change());
        }
    };
    let status = status::status(policy, count(&context, policy), Timestamp::now());
    if policy.status.as_ref() != Some(&status)
        && let Err(error) = kubernetes::apply_status(&context.client, policy, &status).await
    {
        tracing::warn!(%error, "could not write the status");
        context.metrics.reconciled("DcrPolicy", Outcome::Retrying, error.reason());
        return Ok(Action::requeue(COUNT_INTERVAL));
    }
    context.metrics.reconciled("DcrPolicy", Outcome::Done, "Ready");
    Ok(Action::await_change())
}
