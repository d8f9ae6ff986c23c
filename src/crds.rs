//! Whether the cluster has the CRDs of this operator. Waits for those that are missing, and warns of older ones.

use std::time::Duration;

use kube::Client;

use crate::{api, kubernetes, ops::Health};

/// Pauses between two looks for missing CRDs, and before the first comparison.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause between two comparisons: the schemas are a large document.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// So many of the fields that are missing are named.
const NAMED: usize = 8;

/// Waits until the API server serves the three kinds. Without them nothing works, and a restart would not help.
pub async fn are_there(client: &Client, health: &Health) {
    let mut said = None;
    loop {
        let obstacle = match kubernetes::missing_kinds(client, &api::crds()).await {
            Ok(missing) if missing.is_empty() => break,
            Ok(missing) => format!(
                "the cluster lacks the CRDs {}: apply crds/, or set crds.enabled in the Helm chart",
                missing.join(", ")
            ),
            Err(error) => error.to_string(),
        };
        if said.as_ref() != Some(&obstacle) {
            tracing::error!("{obstacle}; looking again every {} s", INTERVAL.as_secs());
        }
        health.obstacle(Some(obstacle.clone()));
        said = Some(obstacle);
        tokio::time::sleep(INTERVAL).await;
    }
    if said.is_some() {
        tracing::info!("the CRDs are there");
    }
    health.obstacle(None);
}

/// Warns if the CRDs are older than this operator. It works all the same, but for the fields that they lack.
pub async fn compare(client: Client) {
    let (mut said, mut pause) = (None, INTERVAL);
    loop {
        // The API server publishes a changed schema some seconds after the change. Later, somebody may take days to apply it.
        pause = (pause * 2).min(LONGEST_PAUSE);
        tokio::time::sleep(pause).await;
        match kubernetes::missing_fields(&client, &api::crds()).await {
            Ok(missing) if missing.is_empty() => {
                if said.is_some() {
                    tracing::info!("the CRDs are those of this operator");
                }
                return;
            }
            Ok(missing) => {
                if said.as_ref() != Some(&missing) {
                    let named = missing.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
                    let further = missing.len().saturating_sub(NAMED);
                    let further = if further == 0 { String::new() } else { format!(" and {further} more") };
                    tracing::warn!(
                        "the CRDs are older than this operator: they lack {named}{further}, so what is written there \
                         is dropped; apply crds/ of version {}",
                        env!("CARGO_PKG_VERSION")
                    );
                }
                said = Some(missing);
            }
            Err(error) => tracing::debug!(%error, "could not compare the CRDs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// The document of an API server that has these CRDs, or none of their fields.
    fn document(with_fields: bool) -> Value {
        let schemas = api::crds().into_iter().map(|crd| {
            let kind = json!([{"group": crd.spec.group, "version": "v1alpha1", "kind": crd.spec.names.kind}]);
            let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.clone();
            let mut schema = if with_fields { serde_json::to_value(schema).unwrap() } else { json!({}) };
            schema["x-kubernetes-group-version-kind"] = kind;
            (crd.spec.names.kind, schema)
        });
        json!({"components": {"schemas": schemas.collect::<serde_json::Map<_, _>>()}})
    }

    #[tokio::test(start_paused = true)]
    async fn older_crds_are_compared_less_and_less_often_until_they_are_replaced() {
        let (asked, replaced) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (asked_of, replaced_there) = (Arc::clone(&asked), Arc::clone(&replaced));
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/openapi/v3/apis/dcr-operator.dev/v1alpha1");
            asked_of.fetch_add(1, Ordering::Relaxed);
            let answer = document(replaced_there.load(Ordering::Relaxed)).to_string().into_bytes();
            async move { Ok::<_, tower::BoxError>(Response::new(Body::from(answer))) }
        });
        let compared = tokio::spawn(compare(Client::new(service, "default")));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1, "one document has all the kinds");
        tokio::time::sleep(Duration::from_hours(1)).await;
        let so_far = asked.load(Ordering::Relaxed);
        assert!((12..=20).contains(&so_far), "{so_far} times within an hour");
        replaced.store(true, Ordering::Relaxed);
        tokio::time::timeout(LONGEST_PAUSE + INTERVAL, compared).await.expect("it is noticed").unwrap();
    }
}
