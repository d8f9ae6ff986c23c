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
    context::{Context, Settings},
    kubernetes::Error,
    policy::admission,
};

/// How often the bindings are compared although no policy came or went: somebody may have removed or changed one.
const RESYNC: Duration = Duration::from_mins(1);
/// After a failure that is new: it may pass.
const RETRY: Duration = Duration::from_secs(10);

/// What there is.
#[derive(Debug, Default, PartialEq)]
struct Observed {
    /// Namespaces that have a DcrPolicy.
    namespaces: BTreeSet<String>,
    /// The bindings that are the operator's.
    bindings: Vec<ValidatingAdmissionPolicyBinding>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Remove(String),
    Bind(String),
}

/// What to do. The bindings of namespaces that another operator watches are not touched. One that is not as this operator
/// makes it is made anew: applied, it would keep what others have added.
fn plan(observed: &Observed, settings: &Settings) -> Vec<Step> {
    let mut missing = observed.namespaces.clone();
    let mut steps = Vec::new();
    for binding in &observed.bindings {
        let Some(namespace) = namespace_of(binding).filter(|namespace| settings.watches(namespace)) else { continue };
        let wanted = admission::binding(namespace);
        let is_as_made = binding.metadata.name == wanted.metadata.name && binding.spec == wanted.spec;
        if !(is_as_made && missing.remove(namespace)) {
            steps.push(Step::Remove(binding.name_any()));
        }
    }
    steps.extend(missing.into_iter().map(Step::Bind));
    steps
}

/// The namespace of the policies that it puts into force.
fn namespace_of(binding: &ValidatingAdmissionPolicyBinding) -> Option<&str> {
    binding.spec.as_ref()?.param_ref.as_ref()?.namespace.as_deref()
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
/// and go.
pub async fn keep_bindings(context: Arc<Context>, changed: Arc<Notify>) {
    if !context.settings.admission_bindings {
        return context.stop.cancelled().await;
    }
    let mut settled: Option<BTreeSet<String>> = None;
    let mut said = String::new();
    let mut due = Instant::now();
    loop {
        let namespaces: BTreeSet<String> = context.policies.filter_map(ResourceExt::namespace).into_iter().collect();
        if settled.as_ref() != Some(&namespaces) || Instant::now() >= due {
            let outcome = keep(&context, namespaces.clone()).await;
            settled = Some(namespaces);
            let message = outcome.err().map(|missing| missing.to_string()).unwrap_or_default();
            // What is missing for longer may be missing for ever: then one look costs no more than where all is well.
            due = Instant::now() + if message.is_empty() || message == said { RESYNC } else { RETRY };
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

async fn keep(context: &Context, namespaces: BTreeSet<String>) -> Result<(), Missing> {
    let steps = plan(&observe(context, namespaces).await?, &context.settings);
    if steps.iter().any(|step| matches!(step, Step::Bind(_))) {
        // Without the policy, Kubernetes asks for all rights on everything before it lets anybody bind.
        let policies = Api::<ValidatingAdmissionPolicy>::all(context.client.clone());
        let found = policies.get_opt(admission::NAME).await;
        found.map_err(|error| Missing::new("could not read the admission policy", error))?.ok_or(Missing::Policy)?;
    }
    for step in steps {
        // A replica that was paused knows nothing of the policies that have come since.
        if context.term.is_over() {
            break;
        }
        act(context, step).await?;
    }
    Ok(())
}

async fn observe(context: &Context, namespaces: BTreeSet<String>) -> Result<Observed, Missing> {
    let ours = ListParams::default().labels(&format!("{}={OPERATOR}", labels::MANAGED_BY));
    let list = Api::<ValidatingAdmissionPolicyBinding>::all(context.client.clone()).list(&ours).await;
    let mut bindings =
        list.map_err(|error| Missing::new("could not list the admission policy's bindings", error))?.items;
    bindings.retain(|binding| {
        binding.spec.as_ref().is_some_and(|spec| spec.policy_name.as_deref() == Some(admission::NAME))
    });
    Ok(Observed { namespaces, bindings })
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
            tracing::info!(name, "removed the binding: it is not needed, or not as this operator makes it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Method, Request, Response};
    use k8s_openapi::api::admissionregistration::v1::MatchResources;
    use kube::{Client, api::ObjectList, client::Body};
    use serde_json::json;

    use super::*;
    use crate::kubernetes::lease;

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn there_is_one_binding_for_each_namespace_with_a_policy_and_no_other() {
        let bound = || admission::binding("a");
        let changed = |change: fn(&mut ValidatingAdmissionPolicyBinding)| {
            let mut binding = bound();
            change(&mut binding);
            vec![binding]
        };
        let bind = |namespace: &str| Step::Bind(namespace.into());
        let remove = || Step::Remove(admission::binding_name("a"));
        for (namespaces, bindings, watched, expected) in [
            (&["a"][..], vec![], &[][..], vec![bind("a")]),
            (&["a"], vec![bound()], &[], vec![]),
            (&[], vec![bound()], &[], vec![remove()]),
            (&["b"], vec![bound()], &[], vec![remove(), bind("b")]),
            (
                &["a"],
                changed(|binding| binding.metadata.name = Some("odd".into())),
                &[],
                vec![Step::Remove("odd".into()), bind("a")],
            ),
            (&[], vec![bound()], &["b"], vec![]),
            (&[], vec![bound()], &["a"], vec![remove()]),
            // Somebody has changed it, or it is of another version.
            (
                &["a"],
                changed(|binding| binding.spec.as_mut().unwrap().validation_actions = Some(vec!["Audit".into()])),
                &[],
                vec![remove(), bind("a")],
            ),
            (
                &["a"],
                changed(|binding| binding.spec.as_mut().unwrap().match_resources = Some(MatchResources::default())),
                &[],
                vec![remove(), bind("a")],
            ),
            // What the API server adds to all objects is no difference.
            (&["a"], changed(|binding| binding.metadata.uid = Some("u".into())), &[], vec![]),
        ] {
            let settings = Settings { namespaces: set(watched), ..Settings::default() };
            let observed = Observed { namespaces: set(namespaces), bindings };
            assert_eq!(plan(&observed, &settings), expected, "{observed:?}");
        }
    }

    /// An API server that has a binding for the policies of `a`, and what it is asked to change.
    fn client(writes: Arc<Mutex<Vec<Method>>>) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = if request.method() == Method::GET {
                let list = ObjectList {
                    types: kube::core::TypeMeta::list::<ValidatingAdmissionPolicyBinding>(),
                    metadata: kube::core::ListMeta::default(),
                    items: vec![admission::binding("a")],
                };
                serde_json::to_vec(&list)
            } else {
                writes.lock().unwrap().push(request.method().clone());
                serde_json::to_vec(&json!({"kind": "Status", "status": "Success"}))
            };
            async move { Ok::<_, tower::BoxError>(Response::new(Body::from(answer?))) }
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_replica_whose_term_is_over_removes_nothing() {
        let writes = Arc::new(Mutex::new(Vec::new()));
        let mut context = Context::test(client(Arc::clone(&writes)));
        let params = lease::Params {
            name: String::new(),
            identity: String::new(),
            lease_duration: RESYNC,
            renew_deadline: RESYNC,
            retry_period: RESYNC,
        };
        // It has not begun either.
        let over = lease::Elector::new(Api::default_namespaced(context.client.clone()), params).term();
        let term = std::mem::replace(&mut context.term, over);
        keep(&context, BTreeSet::new()).await.unwrap();
        assert!(writes.lock().unwrap().is_empty());
        context.term = term;
        keep(&context, BTreeSet::new()).await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [Method::DELETE]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_looked_for_again_soon_and_then_every_minute() {
        let asked = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&asked);
        let service = tower::service_fn(move |_: Request<Body>| {
            *counted.lock().unwrap() += 1;
            let forbidden = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "status": "Failure"});
            let answer = Body::from(forbidden.to_string().into_bytes());
            async move { Ok::<_, tower::BoxError>(Response::builder().status(403).body(answer)?) }
        });
        let context = Context::test(Client::new(service, "default"));
        tokio::spawn(keep_bindings(Arc::new(context), Arc::default()));
        for (seconds, times) in [(5, 1), (10, 2), (50, 2), (600, 12)] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(*asked.lock().unwrap(), times, "{seconds} s later");
        }
    }
}
