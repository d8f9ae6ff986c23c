//! The Kubernetes client: every request is counted and has a limit of time.

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{BoxError, Layer, Service};
use tower_http::timeout::TimeoutBody;

use crate::ops::Metrics;

/// How long the API server may take to begin its answer, the client's own retries included, and between two parts of it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two events of a watch. The watcher itself gives up after five minutes.
const WATCH_TIMEOUT: Duration = Duration::from_mins(10);

/// A client for the cluster that the environment names (`KUBECONFIG`, `~/.kube/config`, or the pod's ServiceAccount).
///
/// # Errors
/// If there is no usable configuration.
pub async fn connect(metrics: Metrics) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let config = Config::infer().await?;
    Ok(ClientBuilder::try_from(config)?.with_layer(&ObserveLayer(metrics)).build())
}

#[derive(Clone)]
struct ObserveLayer(Metrics);

#[derive(Clone)]
struct Observe<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observe { inner, metrics: self.0.clone() }
    }
}

impl<S, B> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<TimeoutBody<B>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // kube names the operation of every request ("get", "patch_status", "watch", ...).
        let operation = request.extensions().get::<&'static str>().copied().unwrap_or("other");
        let (metrics, started) = (self.metrics.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match tokio::time::timeout(TIMEOUT, answer).await {
                Ok(answer) => answer,
                Err(elapsed) => Err(elapsed.into()),
            };
            let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            metrics.kubernetes_request(operation, status, started.elapsed());
            let limit = if operation.starts_with("watch") { WATCH_TIMEOUT } else { TIMEOUT };
            answer.map(|answer| answer.map(|body| TimeoutBody::new(limit, body)))
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::body;
    use futures::{StreamExt, stream};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_stops_in_its_middle_is_given_up() {
        let server = tower::service_fn(async |_: Request<Body>| {
            let begun = stream::once(async { Ok::<_, BoxError>("{\"metadata\": {") }).chain(stream::pending());
            Ok::<_, BoxError>(Response::new(body::Body::from_stream(begun)))
        });
        let client = Client::new(ObserveLayer(Metrics::default()).layer(server), "default");
        let begun = tokio::time::Instant::now();
        let read = Api::<ConfigMap>::default_namespaced(client).get("trust").await;
        assert!(read.is_err(), "{read:?}");
        assert_eq!(begun.elapsed().as_secs(), TIMEOUT.as_secs());
    }
}
