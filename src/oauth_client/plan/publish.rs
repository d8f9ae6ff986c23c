//! The application's Secret, and the workloads that read it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::{Resource, ResourceExt};

use super::{ANOTHER_NAME, Plan, Step, server_metadata};
use crate::{
    api::{OPERATOR, labels, reasons},
    kubernetes::{Finding, Precondition, SecretSpec},
    oauth_client::{
        observe::{ApplicationSecret, Observed},
        registration::Registration,
        secret,
    },
};

impl Plan {
    /// The next step towards the application's Secret.
    pub(super) fn publish(&mut self, observed: &Observed, registration: &Registration) -> Option<Step> {
        let spec = &observed.client.spec.secret;
        let name = observed.secret_name();
        // The credentials are of no use at another server.
        let profile = observed.profile.as_ref().filter(|_| observed.former_server(registration).is_none());
        let server = profile.and_then(server_metadata);
        let server = server.as_ref().unwrap_or(&registration.server.metadata);
        let openid_is_implied =
            profile.map_or(registration.server.openid_is_implied, |profile| !profile.spec.server.registers_openid());
        let data = match secret::data(&observed.client.spec, registration, server, openid_is_implied) {
            Ok(data) => data,
            Err(error) => {
                self.secret_synced = Finding::no(reasons::TEMPLATE_ERROR, error.to_string());
                self.stalled = true;
                return None;
            }
        };
        let mut wanted_labels = secret_labels(observed.name());
        wanted_labels.extend(spec.labels.iter().map(|(name, value)| (name.clone(), value.0.clone())));
        let wanted_annotations: BTreeMap<String, String> =
            spec.annotations.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
        let precondition = match &observed.secret {
            ApplicationSecret::Foreign => {
                self.conflict(name, ANOTHER_NAME);
                return None;
            }
            ApplicationSecret::Absent if observed.namespace_is_terminating => {
                self.secret_synced = Finding::no(
                    reasons::NAMESPACE_TERMINATING,
                    format!("the namespace is being deleted, so Secret {name} is not made again"),
                );
                return None;
            }
            ApplicationSecret::Absent => Precondition::Absent,
            ApplicationSecret::Ours { secret, .. } if secret.0.type_.as_deref() != Some(spec.type_.as_str()) => {
                return Some(Step::RemoveSecret);
            }
            ApplicationSecret::Ours { secret, data: live } => {
                let has_all = |live: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
                    wanted.iter().all(|(key, value)| live.get(key) == Some(value))
                };
                let has_no_more = |path: &[&str], is_wanted: &dyn Fn(&str) -> bool| {
                    owned(&secret.0, path).is_none_or(|owned| owned.iter().all(|key| is_wanted(key)))
                };
                let as_wanted = live.contains(&data)
                    && has_all(secret.0.labels(), &wanted_labels)
                    && has_all(secret.0.annotations(), &wanted_annotations)
                    && has_no_more(&["f:data"], &|key| data.get(key).is_some())
                    && has_no_more(&["f:metadata", "f:labels"], &|key| wanted_labels.contains_key(key))
                    && has_no_more(&["f:metadata", "f:annotations"], &|key| wanted_annotations.contains_key(key));
                if as_wanted {
                    self.secret_synced = Finding::yes(reasons::SECRET_SYNCED, format!("Secret {name} is up to date"));
                    return observed.former_secret.is_some().then_some(Step::RemoveFormerSecret);
                }
                secret.unchanged()
            }
        };
        self.secret_synced = Finding::unknown(reasons::PROGRESSING, format!("writing Secret {name}"));
        let secret = SecretSpec {
            namespace: observed.namespace().to_owned(),
            name: name.to_owned(),
            type_: spec.type_.clone(),
            labels: wanted_labels,
            annotations: wanted_annotations,
            owner: observed.client.controller_owner_ref(&()).unwrap_or_default(),
            finalizer: None,
            data,
        };
        Some(Step::ApplySecret { secret, precondition })
    }

    /// Restarts the workloads, if these credentials are not the first and nobody has been restarted for them: the status,
    /// which is written last, says so.
    pub(super) fn restart(observed: &Observed, registration: &Registration) -> Option<Step> {
        let targets = &observed.client.spec.rollout_restart_targets;
        let rotated_at = registration.rotated_at()?;
        let status = observed.client.status.as_ref();
        let handled = status.and_then(|status| status.credentials_rotated_at.as_ref()).map(|time| time.0);
        let due = !targets.is_empty() && handled != Some(rotated_at) && !observed.workloads_are_restarted;
        due.then(|| Step::RestartWorkloads { targets: targets.clone(), rotated_at })
    }
}

/// The labels of every Secret that the operator makes.
#[must_use]
pub fn secret_labels(client: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(labels::MANAGED_BY.into(), OPERATOR.into()), (labels::CLIENT.into(), client.into())])
}

/// The keys under a path that we have written, as the Secret's managed fields have it.
fn owned(secret: &Secret, path: &[&str]) -> Option<Vec<String>> {
    let entries = secret.metadata.managed_fields.as_ref()?;
    let ours = entries
        .iter()
        .find(|entry| entry.manager.as_deref() == Some(OPERATOR) && entry.operation.as_deref() == Some("Apply"))?;
    let fields = &ours.fields_v1.as_ref()?.0;
    let fields = path.iter().try_fold(fields, |fields, name| fields.get(name))?.as_object()?;
    Some(fields.keys().filter_map(|key| key.strip_prefix("f:")).map(str::to_owned).collect())
}
