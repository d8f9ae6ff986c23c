//! Writes the status when the policy or the counts have changed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    ResourceExt,
    core::DeserializeGuard,
    runtime::{
        controller::{Action, Config},
        reflector::ObjectRef,
    },
};
use tokio::sync::mpsc::UnboundedReceiver;

use super::status::{self, Surroundings};
use crate::{
    api::{DcrPolicy, conditions},
    context::Context,
    kubernetes::{self, Key, Watched, condition},
    ops::Outcome,
    policy,
};

type Guarded = DeserializeGuard<DcrPolicy>;

/// Runs until the context's token stops it. `recounted` names the policies whose counts have changed.
pub async fn run(context: Arc<Context>, watched: Watched<DcrPolicy>, recounted: UnboundedReceiver<Key>) {
    watched
        .controller()
        .with_config(Config::default().concurrency(context.settings.workers))
        .reconcile_on(kubernetes::receive(recounted).map(|(namespace, name)| ObjectRef::new(&name).within(&namespace)))
        .graceful_shutdown_on(context.stop.clone().cancelled_owned())
        .run(reconcile, |_, error: &Infallible, _| match *error {}, Arc::clone(&context))
        .for_each(async |_| {})
        .await;
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
    // Not counted yet as it is now: that will be told.
    let Some(clients) = context.counts.of(policy) else { return Ok(Action::await_change()) };
    let status = status::status(policy, clients, surroundings(&context, policy), Timestamp::now());
    if policy.status.as_ref() != Some(&status)
        && let Err(error) = kubernetes::apply_status(&context.client, policy, &status).await
    {
        tracing::warn!(%error, "could not write the status");
        context.metrics.reconciled("DcrPolicy", Outcome::Retrying, error.reason());
        return Ok(Action::requeue(Duration::from_secs(5)));
    }
    if let Some(ready) = condition(&status.conditions, conditions::READY) {
        // One that is not ready contradicts itself: only a change of the spec can help.
        let outcome = if ready.status == "True" { Outcome::Done } else { Outcome::Stalled };
        context.metrics.reconciled("DcrPolicy", outcome, &ready.reason);
    }
    Ok(Action::await_change())
}

fn surroundings(context: &Context, policy: &DcrPolicy) -> Surroundings {
    let namespace = policy.namespace().unwrap_or_default();
    let reference = policy.spec.profile_ref.as_ref();
    let selector = policy.spec.namespace_selector.as_ref();
    Surroundings {
        profile_exists: reference.is_none_or(|reference| context.profiles.get(&namespace, &reference.name).is_some()),
        selects_a_namespace: selector.is_none_or(|selector| {
            context.namespaces.state().iter().any(|found| policy::selector_matches(selector, found.labels()))
        }),
    }
}
