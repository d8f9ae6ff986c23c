//! One ValidatingAdmissionPolicyBinding for each namespace that has a DcrPolicy: a binding takes its parameters from one
//! namespace only.
//!
//! A cluster without the ValidatingAdmissionPolicy, without its API or without the right to bind it still enforces all
//! policies in the operator; the log says what is missing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    api::{OPERATOR, labels},
    context::Context,
    kubernetes::Error,
    policy::admission,
};

/// How often the bindings are compared although no policy came or went: somebody may have removed one.
const RESYNC: Duration = Duration::from_mins(1);
/// After a failure.
const RETRY: Duration = Duration::from_secs(10);

/// What there is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Observed {
    /// Namespaces that have a DcrPolicy.
    namespaces: BTreeSet<String>,
    /// The bindings that are the operator's, by name, with the namespace of their policies.
    bindings: BTreeSet<(String, String)>,
    /// The namespaces that the operator watches; empty: all.
    watched: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Bind(String),
    Remove(String),
}

/// What to do. The bindings of namespaces that another operator watches are not touched.
fn plan(observed: &Observed) -> Vec<Step> {
    let Observed { namespaces, bindings, watched } = observed;
    let bound: BTreeSet<&String> = bindings
        .iter()
        .filter(|(name, namespace)| *name == admission::binding_name(namespace))
        .map(|(_, namespace)| namespace)
        .collect();
    let missing = namespaces.iter().filter(|namespace| !bound.contains(namespace));
    let left_over = bindings.iter().filter(|(name, namespace)| {
        let ours = watched.is_empty() || watched.contains(namespace);
        ours && !(namespaces.contains(namespace) && *name == admission::binding_name(namespace))
    });
    let bind = missing.cloned().map(Step::Bind);
    bind.chain(left_over.map(|(name, _)| Step::Remove(name.clone()))).collect()
}

/// Why nothing can be bound.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error(
        "the ValidatingAdmissionPolicy {} is not installed: apply deploy/base/admission-policy.yaml, or what `dcr-operator admission-policy` prints",
        admission::NAME
    )]
    Policy,
    #[error("the cluster does not have admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy (Kubernetes 1.30)")]
    Api,
    #[error(
        "{0}: give the operator's ServiceAccount the rules for validatingadmissionpolicies of deploy/base/rbac.yaml"
    )]
    Right(Error),
    #[error("{0}")]
    Other(Error),
}

impl Missing {
    fn new(what: &str, error: kube::Error) -> Self {
        match Error::new(what, error) {
            Error::Gone { .. } => Self::Api,
            error @ Error::Forbidden { .. } => Self::Right(error),
            error => Self::Other(error),
        }
    }
}

/// Keeps the bindings until the context's token stops it, unless that is turned off. `changed` tells of policies that come
/// and go; `watched` are the namespaces that the operator watches, none for all.
pub async fn keep_bindings(context: Arc<Context>, watched: BTreeSet<String>, changed: Arc<Notify>) {
    if !context.settings.admission_bindings {
        return context.stop.cancelled().await;
    }
    let mut settled: Option<BTreeSet<String>> = None;
    let mut said = String::new();
    let mut due = Instant::now();
    loop {
        let namespaces: BTreeSet<String> = context.policies.filter_map(ResourceExt::namespace).into_iter().collect();
        if settled.as_ref() != Some(&namespaces) || Instant::now() >= due {
            let outcome = keep(&context, namespaces.clone(), &watched).await;
            settled = Some(namespaces);
            due = Instant::now() + if outcome.is_ok() { RESYNC } else { RETRY };
            let message = outcome.err().map(|missing| missing.to_string()).unwrap_or_default();
            if message != said {
                if message.is_empty() {
                    tracing::info!("forbidden OAuthClients are refused at apply again");
                } else {
                    tracing::warn!("DcrPolicies are enforced by the operator alone, and not at apply: {message}");
                }
                said = message;
            }
        }
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = changed.notified() => {}
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

async fn keep(context: &Context, namespaces: BTreeSet<String>, watched: &BTreeSet<String>) -> Result<(), Missing> {
    let observed = observe(context, namespaces, watched).await?;
    let steps = plan(&observed);
    if steps.iter().any(|step| matches!(step, Step::Bind(_))) {
        // Without the policy, Kubernetes asks for all rights on everything before it lets anybody bind.
        let policies = Api::<ValidatingAdmissionPolicy>::all(context.client.clone());
        let found = policies.get_opt(admission::NAME).await;
        found.map_err(|error| Missing::new("could not read the admission policy", error))?.ok_or(Missing::Policy)?;
    }
    for step in steps {
        act(context, step).await?;
    }
    Ok(())
}

async fn observe(
    context: &Context,
    namespaces: BTreeSet<String>,
    watched: &BTreeSet<String>,
) -> Result<Observed, Missing> {
    let ours = ListParams::default().labels(&format!("{}={OPERATOR}", labels::MANAGED_BY));
    let list = Api::<ValidatingAdmissionPolicyBinding>::all(context.client.clone()).list(&ours).await;
    let list = list.map_err(|error| Missing::new("could not list the admission policy's bindings", error))?;
    let bindings = list.into_iter().filter_map(|binding| {
        let spec = binding.spec.as_ref()?;
        let namespace = spec.param_ref.as_ref()?.namespace.clone()?;
        (spec.policy_name.as_deref() == Some(admission::NAME)).then(|| (binding.name_any(), namespace))
    });
    Ok(Observed { namespaces, bindings: bindings.collect(), watched: watched.clone() })
}

async fn act(context: &Context, step: Step) -> Result<(), Missing> {
    let api = Api::<ValidatingAdmissionPolicyBinding>::all(context.client.clone());
    match step {
        Step::Bind(namespace) => {
            let binding = admission::binding(&namespace);
            let applied = api
                .patch(
                    &admission::binding_name(&namespace),
                    &PatchParams::apply(OPERATOR).force(),
                    &Patch::Apply(&binding),
                )
                .await;
            applied.map_err(|error| Missing::new(&format!("could not bind the policies of {namespace}"), error))?;
            tracing::info!(namespace, "OAuthClients that its DcrPolicies forbid are refused at apply");
        }
        Step::Remove(name) => {
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(Missing::new(&format!("could not remove the binding {name}"), error)),
            }
            tracing::info!(name, "removed the binding: there is no DcrPolicy any more");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(namespaces: &[&str], bindings: &[(&str, &str)], watched: &[&str]) -> Observed {
        let set = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Observed {
            namespaces: set(namespaces),
            bindings: bindings.iter().map(|(name, of)| ((*name).to_owned(), (*of).to_owned())).collect(),
            watched: set(watched),
        }
    }

    #[test]
    fn there_is_one_binding_for_each_namespace_with_a_policy_and_no_other() {
        let name = admission::binding_name("a");
        let bound: &[(&str, &str)] = &[(&name, "a")];
        for (observed, expected) in [
            (observed(&["a"], &[], &[]), vec![Step::Bind("a".into())]),
            (observed(&["a"], bound, &[]), vec![]),
            (observed(&[], bound, &[]), vec![Step::Remove(name.clone())]),
            (observed(&["b"], bound, &[]), vec![Step::Bind("b".into()), Step::Remove(name.clone())]),
            (observed(&["a"], &[("odd", "a")], &[]), vec![Step::Bind("a".into()), Step::Remove("odd".into())]),
            (observed(&[], bound, &["b"]), vec![]),
            (observed(&[], bound, &["a"]), vec![Step::Remove(name.clone())]),
        ] {
            assert_eq!(plan(&observed), expected, "{observed:?}");
        }
    }
}
