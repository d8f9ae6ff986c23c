//! A registration whose OAuthClient has gone without it: somebody took the finalizer off, or a replica that was paused has
//! kept an answer too late. The garbage collector has marked the Secret `<name>-registration`, and only our finalizer keeps
//! it: what it tells of is reported, then it is let go.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Resource, ResourceExt, api::ObjectMeta};
use tokio::sync::mpsc::unbounded_channel;

use super::{
    act,
    registration::{self, Registration},
};
use crate::{
    api::{FINALIZER, OAuthClient, OPERATOR, labels},
    context::Context,
    kubernetes::{self, Key, SecretData},
    retry::Retry,
};

/// Looks after what these clients, by namespace and name, may have left: they are not there any more. One after the other,
/// for the same client may be told of twice at once, and what it has left is reported once.
pub async fn run(context: Arc<Context>, gone: impl Stream<Item = Key>) {
    let (again, retries) = unbounded_channel();
    // The next leader lists the Secrets.
    let gone = stream::select(gone, kubernetes::receive(retries)).take_until(context.stop.cancelled());
    let look = async |(namespace, name): Key| {
        // Not the client's uid, which nobody knows any more.
        let key = format!("{namespace}/{name}");
        let Err(error) = let_go(&context, &namespace, &name).await else { return context.client_backoff.forget(&key) };
        let delay = context.client_backoff.failed(&key, 0, Retry::Backoff).unwrap_or_default();
        tracing::warn!(client = key, reason = error.reason(), "{error}");
        let again = again.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            // Nobody listens any more: the process is stopping.
            let _ = again.send((namespace, name));
        });
    };
    gone.for_each(look).await;
}

/// Whether only our finalizer keeps the Secret of this metadata.
pub fn is_held(metadata: &ObjectMeta) -> bool {
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    metadata.deletion_timestamp.is_some() && finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

#[tracing::instrument(skip_all, fields(client = format!("{namespace}/{name}")))]
async fn let_go(context: &Context, namespace: &str, name: &str) -> Result<(), kubernetes::Error> {
    let secret_name = registration::secret_name(name);
    let secret = Api::<Secret>::namespaced(context.client.clone(), namespace)
        .get_opt(&secret_name)
        .await
        .map_err(|error| kubernetes::Error::new(format!("could not read Secret {namespace}/{secret_name}"), error))?;
    let is_ours = |secret: &Secret| {
        is_held(&secret.metadata)
            && secret.type_.as_deref() == Some(registration::SECRET_TYPE)
            && secret.labels().get(labels::MANAGED_BY).map(String::as_str) == Some(OPERATOR)
    };
    let Some(secret) = secret.filter(is_ours) else { return Ok(()) };
    // The watch may lag behind: one that is there does it itself.
    let client = Api::<OAuthClient>::namespaced(context.client.clone(), namespace)
        .get_metadata_opt(name)
        .await
        .map_err(|error| kubernetes::Error::new(format!("could not read OAuthClient {namespace}/{name}"), error))?;
    if client.is_some() || context.term.is_over() {
        return Ok(());
    }
    let why =
        format!("OAuthClient {namespace}/{name} has gone without removing it, as when its finalizer is taken off");
    let about = secret.object_ref(&());
    match Registration::from_data(&SecretData::of(&secret)) {
        Ok(registration) => {
            for (client_id, server) in registration.clients() {
                let place = format!("the server of TokenProfile {} at {}", server.profile, server.name());
                act::tell_of_orphan(context, &about, client_id, &server.profile, &place, &why).await?;
            }
        }
        Err(key) => {
            let why = format!("{why}, and key {key:?} of Secret {secret_name}, which would tell more, is spoilt");
            act::tell_of_orphan(context, &about, "of unknown identifier", "", "its server", &why).await?;
        }
    }
    kubernetes::remove_secret(&context.client, &secret).await
}
