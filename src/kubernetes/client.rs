//! The Kubernetes client: every request is counted and has a limit of time.

use std::{
    net::IpAddr,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper_util::client::proxy::matcher::Matcher;
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
pub async fn connect(metrics: Metrics) -> Result<Client, BoxError> {
    let mut config = Config::infer().await?;
    // In a pod, the API server is near, and kube uses no proxy.
    let is_in_cluster = config.root_cert_file.is_some();
    if !is_in_cluster {
        config.proxy_url =
            proxy(&config.cluster_url, config.proxy_url, proxy_of_the_environment(), &Matcher::from_env());
    }
    let builder = ClientBuilder::try_from(config).map_err(|error| match error {
        // The URL may have a password in it.
        kube::Error::ProxyProtocolUnsupported { .. } | kube::Error::ProxyProtocolDisabled { .. } => {
            "the proxy of HTTPS_PROXY, or of proxy-url in the kubeconfig, is no http:// or https:// URL".into()
        }
        error => BoxError::from(error),
    })?;
    Ok(builder.with_layer(&ObserveLayer(metrics)).build())
}

fn proxy_of_the_environment() -> Option<Uri> {
    let set = ["HTTPS_PROXY", "https_proxy"].into_iter().filter_map(|name| std::env::var(name).ok());
    set.filter(|value| !value.is_empty()).find_map(|value| value.parse().ok())
}

/// The proxy to the API server of a kubeconfig, as kubectl chooses it: the one that the kubeconfig names, or else that of
/// the environment. kube asks NO_PROXY about the proxy instead of the API server, and knows no exception for loopback.
fn proxy(server: &Uri, found: Option<Uri>, environment: Option<Uri>, rules: &Matcher) -> Option<Uri> {
    let named = found.filter(|found| environment.as_ref() != Some(found));
    named.or_else(|| environment.filter(|_| !is_loopback(server) && rules.intercept(server).is_some()))
}

fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

    #[test]
    fn the_proxy_of_the_environment_is_for_servers_that_are_elsewhere() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let environment = uri("http://10.0.0.1:3128");
        let rules = Matcher::builder().https("http://10.0.0.1:3128").no("10.0.0.0/8,.corp.example.com").build();
        for (server, is_proxied) in [
            ("https://api.example.com:6443", true),
            ("https://192.0.2.1", true),
            ("https://10.1.2.3:6443", false),
            ("https://api.corp.example.com:6443", false),
            ("https://127.0.0.1:40000", false),
            ("https://[::1]:40000", false),
            ("https://localhost:40000", false),
        ] {
            let server = uri(server);
            // kube takes it, and leaves it out where NO_PROXY has the address of the proxy itself.
            for found in [Some(environment.clone()), None] {
                let chosen = proxy(&server, found, Some(environment.clone()), &rules);
                assert_eq!(chosen, is_proxied.then(|| environment.clone()), "{server}");
            }
            let named = Some(uri("https://proxy.example.com"));
            assert_eq!(proxy(&server, named.clone(), Some(environment.clone()), &rules), named, "{server}");
            assert_eq!(proxy(&server, None, None, &Matcher::builder().build()), None, "{server}");
        }
    }
}
