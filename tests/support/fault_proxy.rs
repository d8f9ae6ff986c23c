//! A proxy between the operator and the API server, for the faults that a real API server shows only on bad days.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::body::{Body, Bytes, to_bytes};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{broadcast, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::{certificates::certificates, install_crypto_provider, process::Folder};

#[path = "fault_proxy/rule.rs"]
mod rule;

use rule::Call;
pub use rule::{Fault, Rule};

/// What all open watches are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Cut,
    Expire,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    rules: Mutex<Vec<Rule>>,
    injected: Mutex<BTreeMap<String, usize>>,
    is_down: AtomicBool,
    watches: broadcast::Sender<Signal>,
    connections: broadcast::Sender<()>,
}

/// The proxy. It has a thread of its own, so it works also while the test's thread waits for a process.
pub struct FaultProxy {
    address: SocketAddr,
    ca_pem: String,
    shared: Arc<Shared>,
    folder: Folder,
    /// Dropped: the thread ends.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl FaultProxy {
    /// Stands before the API server of a kubeconfig of the control plane.
    pub fn start(kubeconfig: &Path) -> Self {
        install_crypto_provider();
        let cluster = read(kubeconfig)["clusters"][0]["cluster"].clone();
        let text = |name: &str| cluster[name].as_str().expect("a kubeconfig of the control plane").to_owned();
        let ca = fs::read(text("certificate-authority")).expect("the API server's certificate");
        let trusted = reqwest::Certificate::from_pem_bundle(&ca).expect("certificates");
        let http = reqwest::Client::builder()
            .tls_certs_only(trusted)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never());
        let shared = Arc::new(Shared {
            upstream: text("server"),
            http: http.build().expect("an HTTP client"),
            rules: Mutex::default(),
            injected: Mutex::default(),
            is_down: AtomicBool::new(false),
            watches: broadcast::channel(16).0,
            connections: broadcast::channel(16).0,
        });

        let certificates = certificates();
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(certificates.server.as_bytes()).collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(certificates.server_key.as_bytes()).expect("PEM");
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("a certificate");

        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn({
            let shared = shared.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).expect("a listener");
                    tokio::select! {
                        () = accept(listener, TlsAcceptor::from(Arc::new(tls)), shared) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        Self {
            address,
            ca_pem: certificates.ca,
            shared,
            folder: Folder::new("fault-proxy"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The kubeconfig of the same user, by way of the proxy.
    pub fn kubeconfig(&self, kubeconfig: &Path) -> PathBuf {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let mut config = read(kubeconfig);
        config["clusters"][0]["cluster"] = json!({
            "server": format!("https://{}", self.address), "certificate-authority": self.folder.write("ca.crt", &self.ca_pem),
        });
        self.folder.write(&format!("{}.kubeconfig", CALLS.fetch_add(1, Ordering::Relaxed)), config.to_string())
    }

    /// One rule more. Of those that fit a request, the first counts.
    pub fn add(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// No rules any longer. What is held up already stays so.
    pub fn clear(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Ends all open watches in the middle. Returns how many.
    pub fn cut_watches(&self) -> usize {
        self.signal(Signal::Cut, "watch cut")
    }

    /// Tells all open watches that what they ask for is too old (410), and ends them. Returns how many.
    pub fn expire_watches(&self) -> usize {
        self.signal(Signal::Expire, "watch expired (410)")
    }

    fn signal(&self, signal: Signal, name: &str) -> usize {
        let watches = self.shared.watches.send(signal).unwrap_or(0);
        *lock(&self.shared.injected).entry(name.to_owned()).or_default() += watches;
        watches
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.shared.watches.receiver_count()
    }

    /// While down, there are no connections.
    pub fn set_down(&self, down: bool) {
        self.shared.is_down.store(down, Ordering::SeqCst);
        if down {
            let _ = self.shared.connections.send(());
            *lock(&self.shared.injected).entry("API server out of reach".to_owned()).or_default() += 1;
        }
    }

    /// How often each fault has been met.
    pub fn injected(&self) -> BTreeMap<String, usize> {
        lock(&self.shared.injected).clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An error that ends the connection.
#[derive(Debug)]
struct EndOfConnection;

impl fmt::Display for EndOfConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the proxy ends the connection")
    }
}

impl std::error::Error for EndOfConnection {}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        if shared.is_down.load(Ordering::SeqCst) {
            continue;
        }
        let _ = stream.set_nodelay(true);
        let (tls, shared) = (tls.clone(), shared.clone());
        let mut closed = shared.connections.subscribe();
        tasks.spawn(async move {
            let serve = async {
                let stream = tls.accept(stream).await?;
                let service = service_fn(|request| handle(shared.clone(), request));
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                served.map_err(io::Error::other)
            };
            // An error is a client that went away, or a fault that ends the connection.
            tokio::select! {
                _ = serve => {}
                _ = closed.recv() => {}
            }
        });
    }
}

async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, EndOfConnection> {
    let uri = request.uri();
    let call = Call::new(request.method().as_str(), uri.path(), uri.query());
    let fault = shared.fault(&call);
    match fault {
        Some(Fault::Cut) => return Err(EndOfConnection),
        Some(Fault::Refuse(status)) => return Ok(refusal(status, None)),
        Some(Fault::Throttle(seconds)) => return Ok(refusal(429, Some(seconds))),
        Some(Fault::Delay(time)) => sleep(time).await,
        Some(Fault::LoseAnswer | Fault::NeverAnswer | Fault::CutWatch(_)) | None => {}
    }
    // Before the request is passed on: no signal is missed by a watch that has been answered.
    let signals = (call.verb == "watch").then(|| shared.watches.subscribe());
    let response = shared.pass_on(request).await?;
    match fault {
        Some(Fault::LoseAnswer) => {
            finish(response).await;
            Err(EndOfConnection)
        }
        Some(Fault::NeverAnswer) => {
            finish(response).await;
            std::future::pending().await
        }
        Some(Fault::CutWatch(time)) => Ok(relayed(response, signals, Some(Instant::now() + time))),
        _ => Ok(relayed(response, signals, None)),
    }
}

/// The request has been carried out when its answer has come to its end.
async fn finish(mut response: reqwest::Response) {
    while let Ok(Some(_)) = response.chunk().await {}
}

impl Shared {
    /// The fault that a request meets.
    fn fault(&self, call: &Call) -> Option<Fault> {
        let fault = lock(&self.rules).iter_mut().find_map(|rule| rule.meets(call))?;
        *lock(&self.injected).entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Result<reqwest::Response, EndOfConnection> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await.map_err(|_| EndOfConnection)?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut passed = self.http.request(parts.method, format!("{}{path}", self.upstream)).body(body);
        for (name, value) in parts.headers.iter().filter(|(name, _)| !is_of_the_connection(name.as_str())) {
            passed = passed.header(name, value);
        }
        passed.send().await.map_err(|_| EndOfConnection)
    }
}

fn is_of_the_connection(header: &str) -> bool {
    matches!(header, "connection" | "content-length" | "host" | "transfer-encoding")
}

/// An answer in the API server's form.
fn refusal(status: u16, retry_after: Option<u32>) -> Response<Body> {
    let reason = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let mut response = Response::builder().status(status).header("content-type", "application/json");
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(Body::from(failure(status, reason).to_string())).expect("a response")
}

fn failure(status: u16, reason: &str) -> Value {
    let message = format!("the proxy answers {reason}");
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": status, "reason": reason, "message": message})
}

/// What is left of an answer that is being passed back.
struct Relay {
    response: reqwest::Response,
    /// Watches only.
    signals: Option<broadcast::Receiver<Signal>>,
    cut_at: Option<Instant>,
    /// Events are lines, and one can be added only between two of them.
    at_line_end: bool,
    expired: bool,
    ended: bool,
}

fn relayed(
    response: reqwest::Response,
    signals: Option<broadcast::Receiver<Signal>>,
    cut_at: Option<Instant>,
) -> Response<Body> {
    let mut relayed = Response::builder().status(response.status());
    for (name, value) in response.headers().iter().filter(|(name, _)| !is_of_the_connection(name.as_str())) {
        relayed = relayed.header(name, value);
    }
    let relay = Relay { response, signals, cut_at, at_line_end: true, expired: false, ended: false };
    let stream = futures::stream::unfold(relay, |mut relay| async { relay.next().await.map(|chunk| (chunk, relay)) });
    relayed.body(Body::from_stream(stream)).expect("a response")
}

impl Relay {
    async fn next(&mut self) -> Option<Result<Bytes, EndOfConnection>> {
        loop {
            if self.ended {
                return None;
            }
            if self.expired && self.at_line_end {
                self.ended = true;
                let event = json!({"type": "ERROR", "object": failure(410, "Expired")});
                return Some(Ok(format!("{event}\n").into()));
            }
            let signal = async {
                match &mut self.signals {
                    // A proxy that is gone says nothing more.
                    Some(signals) => signals.recv().await.unwrap_or(Signal::Cut),
                    None => std::future::pending().await,
                }
            };
            let cut = async {
                match self.cut_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                chunk = self.response.chunk() => match chunk {
                    Ok(Some(chunk)) => {
                        self.at_line_end = chunk.ends_with(b"\n");
                        return Some(Ok(chunk));
                    }
                    Ok(None) => self.ended = true,
                    Err(_) => return Some(self.cut()),
                },
                signal = signal => match signal {
                    Signal::Cut => return Some(self.cut()),
                    Signal::Expire => self.expired = true,
                },
                () = cut => return Some(self.cut()),
            }
        }
    }

    /// The client sees that the end is none.
    fn cut(&mut self) -> Result<Bytes, EndOfConnection> {
        self.ended = true;
        Err(EndOfConnection)
    }
}

/// The kubeconfigs of the control plane are JSON.
fn read(kubeconfig: &Path) -> Value {
    let text = fs::read_to_string(kubeconfig).expect("a kubeconfig");
    serde_json::from_str(&text).expect("a kubeconfig of the control plane")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
