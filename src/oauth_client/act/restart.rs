//! Restart the workloads that read the Secret, as `kubectl rollout restart` does: by an annotation on the pod template.

use jiff::Timestamp;
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::json;

use super::Error;
use crate::{
    api::{OPERATOR, RolloutRestartTarget, WorkloadKind, annotations},
    context::Context,
    kubernetes,
    oauth_client::observe::{Change, Observed},
};

/// Restarts each of them once for the credentials of that time. What can't be restarted is told, and stops nothing else.
pub async fn restart(
    context: &Context,
    observed: &Observed,
    targets: &[RolloutRestartTarget],
    rotated_at: Timestamp,
) -> Result<Change, Error> {
    for target in targets {
        let kind = match target.kind {
            WorkloadKind::Deployment => "Deployment",
            WorkloadKind::StatefulSet => "StatefulSet",
            WorkloadKind::DaemonSet => "DaemonSet",
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
        let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), observed.namespace(), &resource);
        // The same value again is no restart.
        let annotation = json!({annotations::RESTARTED_FOR: rotated_at.to_string()});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotation}}}});
        let parameters = PatchParams { field_manager: Some(OPERATOR.into()), ..PatchParams::default() };
        let patched = api.patch(&target.name, &parameters, &Patch::Merge(&patch)).await;
        let what = format!("could not restart {kind} {}/{}", observed.namespace(), target.name);
        let about = observed.client.object_ref(&());
        match patched.map_err(|error| kubernetes::Error::new(what, error)) {
            Ok(_) => {
                let note = format!("restarted {kind} {} for new credentials", target.name);
                tracing::info!("{note}");
                context.events.normal(&about, "WorkloadRestarted", &note).await;
            }
            Err(
                error @ (kubernetes::Error::Gone { .. }
                | kubernetes::Error::Forbidden { .. }
                | kubernetes::Error::Invalid { .. }),
            ) => {
                tracing::warn!(reason = error.reason(), "{error}");
                context.events.warning(&about, "RolloutRestartFailed", &error.to_string()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Change::WorkloadsRestarted)
}
