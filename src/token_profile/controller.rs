//! Triggers, and the loop from observation to status. Decides nothing.

use std::{
    collections::hash_map::DefaultHasher,
    convert::Infallible,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt, future::ready, stream};
use jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        controller::{self, Action, Config},
        reflector::ObjectRef,
    },
};

use super::{act, observe, plan, status};
use crate::{
    api::{TokenProfile, conditions},
    context::Context,
    kubernetes::{self, SecretChange, Watched, condition},
    ops::Outcome,
    retry::Retry,
};

type Guarded = DeserializeGuard<TokenProfile>;

/// Pauses between two counts of a profile's clients: a thousand new clients are one write, not a thousand.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Runs until the context's token stops it. `credentials` are the labelled Secrets as they change.
pub async fn run(
    context: Arc<Context>,
    watched: Watched<TokenProfile>,
    credentials: impl Stream<Item = SecretChange> + Send + 'static,
) {
    let config = Config::default().concurrency(context.settings.workers);
    let by_secret = Arc::clone(&context);
    watched
        .controller()
        .with_config(config)
        .reconcile_on(credentials.flat_map(move |change| stream::iter(profiles_reading(&by_secret, &change))))
        .reconcile_on(miscounted(Arc::clone(&context)))
        .graceful_shutdown_on(context.stop.clone().cancelled_owned())
        .run(reconcile, |_, error: &Infallible, _| match *error {}, Arc::clone(&context))
        .for_each(|result| {
            if let Err(controller::Error::ObjectNotFound(_)) = result {
                forget_the_gone(&context);
            }
            ready(())
        })
        .await;
}

/// Nothing is kept of a profile that is gone: it has no finalizer, so nobody is told before.
fn forget_the_gone(context: &Context) {
    let uids = context.profiles.filter_map(TokenProfile::uid).into_iter().collect();
    context.findings.retain(&uids);
    context.connections.retain(&uids);
    context.profile_backoff.retain(&uids);
    context.circuits.retain(&uids);
}

/// Whether clients can be registered, as the status says for the current generation.
#[must_use]
pub fn is_ready(profile: &TokenProfile) -> bool {
    let conditions = profile.status.as_ref().map_or(&[][..], |status| &status.conditions);
    !profile.spec.suspend
        && condition(conditions, conditions::READY)
            .is_some_and(|ready| ready.status == "True" && ready.observed_generation == profile.metadata.generation)
}

/// Changes when anything about the profile changes that its clients care for.
#[must_use]
pub fn digest(profile: &TokenProfile) -> u64 {
    let mut hasher = DefaultHasher::new();
    (profile.uid(), profile.metadata.generation, profile.meta().deletion_timestamp.is_some()).hash(&mut hasher);
    is_ready(profile).hash(&mut hasher);
    if let Some(status) = &profile.status {
        let ready = condition(&status.conditions, conditions::READY);
        // Not the message: some servers put the time into their words, and their clients would all be looked at each time.
        ready.map(|ready| &ready.reason).hash(&mut hasher);
        (&status.issuer, &status.token_endpoint, &status.registration_endpoint).hash(&mut hasher);
        (&status.authorization_endpoint, &status.jwks_uri, &status.userinfo_endpoint).hash(&mut hasher);
    }
    hasher.finish()
}

fn profiles_reading(context: &Context, change: &SecretChange) -> Vec<ObjectRef<Guarded>> {
    context.profiles.filter_map(|profile| {
        let concerned = match change {
            SecretChange::Unknown => true,
            SecretChange::Of(secret) => {
                let name = secret.name_any();
                let reads = secrets_of(profile).any(|read| *read == name);
                reads && profile.namespace() == secret.namespace()
            }
        };
        concerned.then(|| reference(profile))
    })
}

/// The Secrets that a profile reads.
fn secrets_of(profile: &TokenProfile) -> impl Iterator<Item = &String> {
    let spec = &profile.spec;
    let source = spec.initial_access_token.as_ref();
    let manager = spec.server.management_client.as_ref().map(|manager| &manager.credentials);
    let clients = [source.and_then(|source| source.client_credentials.as_ref()), manager];
    let clients = clients.into_iter().flatten().filter_map(|client| client.secret_ref.as_ref());
    let bearer = source.and_then(|source| source.bearer_token.as_ref()).map(|bearer| &bearer.secret_ref);
    let tls = spec.tls.as_ref();
    let ca_bundle = tls.and_then(|tls| tls.ca_bundle_ref.as_ref()).map(|bundle| &bundle.name);
    let identity = tls.and_then(|tls| tls.client_certificate_secret_ref.as_ref()).map(|reference| &reference.name);
    clients.chain(bearer).map(|reference| &reference.name).chain(ca_bundle).chain(identity)
}

/// Every now and then, the profiles whose `status.clients` is wrong.
fn miscounted(context: Arc<Context>) -> impl Stream<Item = ObjectRef<Guarded>> + Send {
    stream::unfold(context, async |context| {
        tokio::time::sleep(COUNT_INTERVAL).await;
        let wrong = context.profiles.filter_map(|profile| {
            let namespace = profile.namespace().unwrap_or_default();
            let counted = profile.status.as_ref().and_then(|status| status.clients)?;
            let is_wrong = counted != observe::count_clients(&context, &namespace, &profile.name_any());
            is_wrong.then(|| reference(profile))
        });
        Some((stream::iter(wrong), context))
    })
    .flatten()
}

fn reference(profile: &TokenProfile) -> ObjectRef<Guarded> {
    ObjectRef::new(&profile.name_any()).within(&profile.namespace().unwrap_or_default())
}

#[tracing::instrument(skip_all, fields(profile = format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any())))]
async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Infallible> {
    let profile = match &guarded.0 {
        Ok(profile) => profile.clone(),
        Err(error) => {
            tracing::error!(%error, "the TokenProfile does not fit the schema; update the CRDs");
            return Ok(Action::await_change());
        }
    };
    let uid = profile.uid().unwrap_or_default();
    if profile.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }

    let mut observed = match observe::observe(&context, profile).await {
        Ok(observed) => observed,
        Err(error) => {
            tracing::warn!(%error, reason = error.reason(), "the Kubernetes API fails; trying again");
            return Ok(Action::requeue(COUNT_INTERVAL));
        }
    };
    let mut planned = plan::plan(&observed, Timestamp::now());
    let mut failed = None;
    while let Some(step) = planned.step.take() {
        if let Err(retry) = act::act(&context, &mut observed, &step).await {
            failed = Some(retry);
        } else {
            observed.finding.complete_at = None;
        }
        let now = Timestamp::now();
        if let Some(retry) = failed {
            observed.finding.complete_at = None;
            let delay = context.profile_backoff.failed(&uid, observed.finding.inputs, retry);
            observed.not_before = delay.and_then(|delay| now.checked_add(delay).ok());
        }
        planned = plan::plan(&observed, now);
    }
    if failed.is_none() && observed.finding.failure.is_none() {
        context.profile_backoff.forget(&uid);
        observed.finding.complete_at.get_or_insert_with(Timestamp::now);
    }
    context.findings.set(&uid, observed.finding.clone());

    let status = status::status(&observed, &planned, Timestamp::now());
    let ready = condition(&status.conditions, conditions::READY);
    let reason = ready.map(|ready| ready.reason.clone()).unwrap_or_default();
    let outcome = match ready {
        Some(ready) if ready.status == "True" => Outcome::Done,
        _ if planned.stalled => Outcome::Stalled,
        _ => Outcome::Retrying,
    };
    context.metrics.reconciled("TokenProfile", outcome, &reason);
    if observed.profile.status.as_ref() != Some(&status) {
        if let Err(error) = kubernetes::apply_status(&context.client, &observed.profile, &status).await {
            tracing::warn!(%error, "could not write the status");
            let delay = context.profile_backoff.failed(&uid, observed.finding.inputs, Retry::Backoff);
            return Ok(Action::requeue(delay.unwrap_or(COUNT_INTERVAL)));
        }
        announce(&context, &observed.profile, &status).await;
    }
    Ok(planned.requeue_after.map_or_else(Action::await_change, Action::requeue))
}

async fn announce(context: &Context, profile: &TokenProfile, status: &crate::api::TokenProfileStatus) {
    let old = profile.status.as_ref().map_or(&[][..], |status| &status.conditions);
    for news in kubernetes::transitions(old, &status.conditions, &[conditions::READY]) {
        let about = profile.object_ref(&());
        if news.status == "True" {
            tracing::info!("ready: {}", news.message);
            context.events.normal(&about, &news.reason, &news.message).await;
        } else {
            tracing::warn!(reason = news.reason, "not ready: {}", news.message);
            context.events.warning(&about, &news.reason, &news.message).await;
        }
    }
}
