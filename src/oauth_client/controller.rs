//! Triggers, and the loop from observation to status. Decides nothing.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, future::ready, stream};
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        controller::{self, Action, Config},
        reflector::ObjectRef,
    },
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    abandoned, act,
    observe::{Change, Observed, observe},
    plan::{Plan, Step, plan},
    status::{Failure, status},
};
use crate::{
    api::{OAuthClient, OAuthClientStatus, conditions, labels, reasons},
    context::Context,
    crash_point,
    kubernetes::{self, SecretChange, Watched, condition},
    ops::Outcome,
    token_profile::Heard,
};

type Guarded = DeserializeGuard<OAuthClient>;

/// No pass needs as many; a loop would.
const MOST_STEPS: usize = 16;
/// After somebody else's write came in between, or the object went.
const AFTER_CONFLICT: Duration = Duration::from_millis(200);

/// Another replica may be leading: it does what is left. If the lease comes back after all, this one does.
const AFTER_TERM: Duration = Duration::from_secs(5);

/// What happened to the objects around the clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// A TokenProfile, by namespace and name.
    Profile(String, String),
    /// What the DcrPolicies say about a client, by its namespace and name.
    Verdict(String, String),
    /// The labels of a namespace.
    Namespace(String),
    /// A Secret that specs may read, by namespace and name.
    Credentials(String, String),
}

/// Runs until the context's token stops it. `secrets` are the operator's own Secrets as they change.
pub async fn run(
    context: Arc<Context>,
    watched: Watched<OAuthClient>,
    secrets: impl Stream<Item = SecretChange> + Send + 'static,
    changes: UnboundedReceiver<Changes>,
) {
    let config = Config::default().concurrency(context.settings.workers);
    let by_secret = Arc::clone(&context);
    let (gone, looked_for) = unbounded_channel();
    let context_of_gone = Arc::clone(&context);
    let controller = watched
        .controller()
        .with_config(config)
        .reconcile_on(secrets.flat_map(move |change| stream::iter(owners(&by_secret, &change))))
        .reconcile_on(concerned(Arc::clone(&context), changes))
        .graceful_shutdown_on(context.stop.clone().cancelled_owned())
        .run(reconcile, |_, error: &Infallible, _| match *error {}, Arc::clone(&context))
        .for_each(move |result| {
            if let Err(controller::Error::ObjectNotFound(client)) = result {
                if let Some(uid) = &client.extra.uid {
                    forget(&context_of_gone, uid);
                }
                // Nobody listens any more: the process is stopping.
                let _ = gone.send((client.namespace.unwrap_or_default(), client.name));
            }
            ready(())
        });
    tokio::join!(controller, abandoned::run(context, kubernetes::receive(looked_for)));
}

/// Nothing is kept of a client that is gone.
fn forget(context: &Context, uid: &str) {
    context.client_backoff.forget(uid);
    context.written.forget(uid);
    context.compared.forget(uid);
}

/// The clients that own a Secret that has changed.
fn owners(context: &Context, change: &SecretChange) -> Vec<ObjectRef<Guarded>> {
    match change {
        SecretChange::Unknown => context.clients.filter_map(|client| {
            Some(ObjectRef::new(&client.name_any()).within(&client.namespace().unwrap_or_default()))
        }),
        SecretChange::Of(secret) => {
            let owners = secret.owner_references().iter().filter(|owner| owner.kind == OAuthClient::kind(&()));
            let namespace = secret.namespace().unwrap_or_default();
            let is_held = abandoned::is_held(&secret.metadata);
            // Of a client that is gone, only a Secret that is held is news.
            let is_news = |name: &str| is_held || context.clients.look(&namespace, name, |_| ()).is_some();
            // Somebody may have taken the owner reference off.
            let label = secret.labels().get(labels::CLIENT).filter(|_| is_held);
            let names: BTreeSet<_> =
                owners.map(|owner| &owner.name).chain(label).filter(|name| is_news(name)).collect();
            names.into_iter().map(|name| ObjectRef::new(name).within(&namespace)).collect()
        }
    }
}

/// The clients that a change is about.
fn concerned(
    context: Arc<Context>,
    changes: UnboundedReceiver<Changes>,
) -> impl Stream<Item = ObjectRef<Guarded>> + Send {
    kubernetes::receive(changes).flat_map(move |change| {
        if let Changes::Verdict(namespace, name) = &change {
            return stream::iter(vec![ObjectRef::new(name).within(namespace)]);
        }
        stream::iter(context.clients.filter_map(|client| {
            let home = client.namespace().unwrap_or_default();
            let reference = &client.spec.profile_ref;
            let profile_namespace = reference.namespace.as_ref().unwrap_or(&home);
            let concerned = match &change {
                Changes::Profile(namespace, name) => profile_namespace == namespace && reference.name == *name,
                Changes::Namespace(namespace) => home == *namespace,
                Changes::Credentials(namespace, name) => {
                    let read = client.spec.adopt.as_ref().and_then(|adopt| adopt.secret_ref.as_ref());
                    home == *namespace && read.is_some_and(|read| read.name == *name)
                }
                Changes::Verdict(..) => false,
            };
            concerned.then(|| ObjectRef::new(&client.name_any()).within(&home))
        }))
    })
}

#[tracing::instrument(skip_all, fields(client = format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any())))]
async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Infallible> {
    let client = match &guarded.0 {
        Ok(client) => client.clone(),
        Err(error) => {
            tracing::error!(%error, "the OAuthClient does not fit the schema; update the CRDs");
            return Ok(Action::await_change());
        }
    };
    let uid = client.uid().unwrap_or_default();
    match Box::pin(pass(&context, client)).await {
        Ok(action) => Ok(action),
        Err(error) => {
            if matches!(error, kubernetes::Error::Conflict { .. } | kubernetes::Error::Gone { .. }) {
                context.written.suspect(&uid);
                tracing::debug!(%error, "looking again");
                return Ok(Action::requeue(AFTER_CONFLICT));
            }
            tracing::warn!(%error, reason = error.reason(), "the Kubernetes API fails; trying again");
            context.metrics.reconciled("OAuthClient", Outcome::Retrying, error.reason());
            // Not the object's fault: its own delays stay as they are.
            Ok(Action::requeue(Duration::from_secs(1).mul_f64(1.0 + fastrand::f64() * 4.0)))
        }
    }
}

/// One look at a client: steps until there is none, then the status.
async fn pass(context: &Context, client: OAuthClient) -> Result<Action, kubernetes::Error> {
    let Some(client) = fresh(context, client).await? else { return Ok(Action::await_change()) };
    let uid = client.uid().unwrap_or_default();
    let mut observed = observe(context, client).await?;
    let mut failed: Option<(Step, act::Error)> = None;
    let mut planned = plan(&observed, Timestamp::now());
    for _ in 0..MOST_STEPS {
        let Some(step) = planned.step.clone() else { break };
        if context.term.is_over() {
            return Ok(Action::requeue(AFTER_TERM));
        }
        if context.stop.is_cancelled() && step.calls_the_server() {
            // The next leader will do it.
            return Ok(Action::await_change());
        }
        crash_point::reached(step.name(), "begins");
        match guarded(context, &observed, step.clone()).await {
            Ok(change) => {
                crash_point::reached(step.name(), "is done");
                observed.apply(change);
            }
            Err(act::Error::Kubernetes(
                error @ (kubernetes::Error::Conflict { .. } | kubernetes::Error::Gone { .. }),
            )) => return Err(error),
            // The plan may have another way.
            Err(error) if error.reason() == reasons::UPDATE_UNSUPPORTED && !observed.cannot_update => {
                observed.cannot_update = true;
                failed = Some((step, error));
            }
            Err(error) if error.reason() == reasons::REGISTRATION_LOST && observed.lost.is_none() => {
                observed.lost = Some(error.to_string());
                failed = Some((step, error));
            }
            Err(error) => {
                failed = Some((step, error));
                break;
            }
        }
        planned = plan(&observed, Timestamp::now());
    }
    let way_out = |reason| match reason {
        reasons::REGISTRATION_LOST => observed.lost.is_none(),
        reasons::UPDATE_UNSUPPORTED => !observed.cannot_update,
        _ => false,
    };
    if failed.as_ref().is_some_and(|(_, error)| way_out(error.reason())) {
        // The plan had another way.
        failed = None;
    }
    if observed.client.finalizers().is_empty() && observed.client.meta().deletion_timestamp.is_some() {
        forget(context, &uid);
        return Ok(Action::await_change());
    }

    let now = Timestamp::now();
    let delay = if let Some((step, error)) = &failed {
        tracing::warn!(step = step.name(), reason = error.reason(), "{error}");
        let delay = if let act::Error::CircuitOpen(pause) = error {
            // Nothing of this client has failed, so its own delays do not grow.
            Some(pause.mul_f64(1.0 + fastrand::f64() / 4.0))
        } else {
            context.client_backoff.failed(&uid, observed.backoff_inputs(), error.retry())
        };
        observed.not_before = context.client_backoff.not_before(&uid, observed.backoff_inputs());
        // A deletion waits no longer than its time-out, whatever the delay.
        let planned = plan(&observed, now).requeue_after;
        [delay, planned].into_iter().flatten().min()
    } else {
        if observed.not_before.is_none_or(|not_before| not_before <= now) {
            context.client_backoff.forget(&uid);
        }
        planned.requeue_after
    };
    let failure = failed.as_ref().map(|(step, error)| Failure::new(step, error));
    let status = status(&observed, &planned, failure.as_ref(), now);
    report(context, &planned, failure.as_ref(), &status);
    if context.term.is_over() {
        return Ok(Action::requeue(AFTER_TERM));
    }
    if observed.client.status.as_ref() != Some(&status) {
        crash_point::reached("status", "is written next");
        act::write_status(context, &observed, &status).await?;
        crash_point::reached("status", "is written");
        announce(context, &observed, &status).await;
    }
    Ok(delay.map_or_else(Action::await_change, Action::requeue))
}

/// Carries out the step, unless it calls a server that is down.
async fn guarded(context: &Context, observed: &Observed, step: Step) -> Result<Change, act::Error> {
    let profile = observed.profile.as_ref().filter(|_| step.calls_the_server());
    let Some(profile) = profile else { return act::act(context, observed, step).await };
    let uid = profile.uid().unwrap_or_default();
    context.circuits.enter(&uid, Instant::now()).map_err(act::Error::CircuitOpen)?;
    let result = act::act(context, observed, step).await;
    let heard = result.as_ref().map_or_else(act::Error::heard, |_| Heard::Answer);
    context.circuits.note(&uid, heard, Instant::now());
    result
}

/// The client, read afresh if the watch may lag behind our own last write to it.
async fn fresh(context: &Context, client: OAuthClient) -> Result<Option<OAuthClient>, kubernetes::Error> {
    if !context.written.may_be_stale(&client) {
        return Ok(Some(client));
    }
    let (namespace, name) = (client.namespace().unwrap_or_default(), client.name_any());
    let read = Api::<OAuthClient>::namespaced(context.client.clone(), &namespace)
        .get_opt(&name)
        .await
        .map_err(|error| kubernetes::Error::new(format!("could not read OAuthClient {namespace}/{name}"), error))?;
    match &read {
        Some(client) => context.written.note(client),
        None => context.written.forget(&client.uid().unwrap_or_default()),
    }
    Ok(read)
}

fn report(context: &Context, plan: &Plan, failure: Option<&Failure>, status: &OAuthClientStatus) {
    let ready = condition(&status.conditions, conditions::READY);
    let outcome = if plan.stalled || failure.is_some_and(|failure| failure.stalled) {
        Outcome::Stalled
    } else if failure.is_some() {
        Outcome::Retrying
    } else if ready.is_some_and(|ready| ready.status == "True") {
        Outcome::Done
    } else {
        Outcome::Waiting
    };
    context.metrics.reconciled("OAuthClient", outcome, ready.map_or("", |ready| &ready.reason));
}

/// Events for what has turned: every warning, and the one piece of good news.
async fn announce(context: &Context, observed: &Observed, status: &OAuthClientStatus) {
    let old = observed.client.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let types = [conditions::ACCEPTED, conditions::REGISTERED, conditions::IN_SYNC, conditions::SECRET_SYNCED];
    let about = observed.client.object_ref(&());
    let mut warned = Vec::new();
    for news in kubernetes::transitions(old, &status.conditions, &types) {
        if news.status == "False" {
            // One cause may turn several conditions; it is one event.
            if !warned.contains(&news.reason.as_str()) {
                warned.push(&news.reason);
                context.events.warning(&about, &news.reason, &news.message).await;
            }
        } else if news.type_ == conditions::REGISTERED {
            context.events.normal(&about, &news.reason, &news.message).await;
        }
    }
}
