//! A small, strict HTTP/1.1 server on loopback that misbehaves on request: it resets, truncates, stalls, floods, redirects,
//! and remembers what it was sent. With a [`Registrar`] it is also an authorization server.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

#[path = "fault_server/registrar.rs"]
mod registrar;
#[path = "fault_server/token.rs"]
mod token;
#[path = "fault_server/wire.rs"]
mod wire;

pub use registrar::{RegisteredClient, Registrar, RegistrarOptions};
pub use wire::{Answer, Request};
use wire::{Connection, deliver, read_request};

type Handler = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

#[derive(Default)]
struct State {
    /// The flag: only once, even if it is the last of the queue.
    answers: HashMap<(String, String), VecDeque<(Answer, bool)>>,
    handlers: HashMap<(String, String), Handler>,
    registrar: Option<Registrar>,
    requests: Vec<Request>,
    under_way: Vec<String>,
    /// The paths of this server that an answer has redirected to: nobody goes there.
    redirected_to: BTreeSet<String>,
    most_under_way: usize,
    connections: usize,
    body_bytes_sent: usize,
    down: bool,
    tls: Option<TlsAcceptor>,
    /// How often the certificate has changed. Connections from before do not go on.
    certificate: usize,
    misuses: Vec<String>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server; it ends when it is dropped, and then asserts that nobody misused it.
pub struct FaultServer {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl FaultServer {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Speaks TLS.
    pub async fn start_tls(config: ServerConfig) -> Self {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// Is an authorization server where nobody asked for another answer.
    pub async fn start_registrar(mut registrar: Registrar) -> Self {
        let server = Self::start().await;
        registrar.issuer = server.url("");
        server.shared.state().registrar = Some(registrar);
        server
    }

    /// `start_registrar` that speaks TLS.
    pub async fn start_registrar_tls(mut registrar: Registrar, config: ServerConfig) -> Self {
        let server = Self::start_tls(config).await;
        registrar.issuer = server.url("");
        server.shared.state().registrar = Some(registrar);
        server
    }

    /// Shows another certificate from now on.
    pub fn change_certificate(&self, config: ServerConfig) {
        let mut state = self.shared.state();
        state.tls = Some(TlsAcceptor::from(Arc::new(config)));
        state.certificate += 1;
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = State { tls, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, scheme, shared, accepting }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Adds an answer to the queue of a method and a path. The last one of a queue repeats.
    pub fn answer(&self, method: &str, path: &str, answer: Answer) {
        self.queue(method, path, answer, false);
    }

    /// As `answer`, but never repeated: afterwards comes what would come without it.
    pub fn answer_once(&self, method: &str, path: &str, answer: Answer) {
        self.queue(method, path, answer, true);
    }

    fn queue(&self, method: &str, path: &str, answer: Answer, once: bool) {
        let key = (method.to_owned(), path.to_owned());
        self.shared.state().answers.entry(key).or_default().push_back((answer, once));
    }

    /// Computes the answers of a method and a path; the queue comes first.
    pub fn handle(&self, method: &str, path: &str, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.shared.state().handlers.insert((method.to_owned(), path.to_owned()), Box::new(handler));
    }

    /// Takes back the answers that were asked for and have not been given.
    pub fn clear_answers(&self) {
        self.shared.state().answers.clear();
    }

    /// While down, each connection is reset without being read.
    pub fn set_down(&self, down: bool) {
        self.shared.state().down = down;
    }

    /// How many requests it has got.
    pub fn request_count(&self) -> usize {
        self.shared.state().requests.len()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// The requests of one method and path.
    pub fn requests_to(&self, method: &str, path: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.method == method && request.path == path).collect()
    }

    /// Waits until so many requests have been read.
    pub async fn wait_for_requests(&self, count: usize) {
        loop {
            let changed = self.shared.changed.notified();
            if self.shared.state().requests.len() >= count {
                return;
            }
            changed.await;
        }
    }

    /// The most requests that were under way at the same time.
    pub fn most_under_way(&self) -> usize {
        self.shared.state().most_under_way
    }

    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    pub fn body_bytes_sent(&self) -> usize {
        self.shared.state().body_bytes_sent
    }

    /// Looks into the registrar.
    pub fn registrar<T>(&self, look: impl FnOnce(&mut Registrar) -> T) -> T {
        look(self.shared.state().registrar.as_mut().expect("a server with a registrar"))
    }

    pub fn assert_no_misuse(&self) {
        let misuses = self.misuses();
        assert!(misuses.is_empty(), "the server was misused: {misuses:#?}");
    }

    /// Takes what has been recorded, for tests that misuse the server on purpose.
    pub fn take_misuses(&self) -> Vec<String> {
        let misuses = self.misuses();
        let mut state = self.shared.state();
        state.misuses.clear();
        if let Some(registrar) = &mut state.registrar {
            registrar.misuses.clear();
        }
        misuses
    }

    fn misuses(&self) -> Vec<String> {
        let state = self.shared.state();
        let registrars = state.registrar.as_ref().map(|registrar| registrar.misuses.clone()).unwrap_or_default();
        [state.misuses.clone(), registrars].concat()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.accepting.abort();
        if !std::thread::panicking() {
            self.assert_no_misuse();
        }
    }
}

/// Ends with its connections when the server is dropped.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.state().connections += 1;
        if shared.state().down {
            stream.reset();
            continue;
        }
        // Head and body are two writes: Nagle's algorithm would keep the second for 40 ms.
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        let (tls, certificate) = {
            let state = shared.state();
            (state.tls.clone(), state.certificate)
        };
        connections.spawn(async move {
            // An error is a client that went away; the tests look at what the client says about that.
            let _ = match tls {
                None => serve(stream, &shared, certificate).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, &shared, certificate).await,
                    Err(error) => Err(error),
                },
            };
        });
    }
}

async fn serve(stream: impl Connection, shared: &Shared, certificate: usize) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let request = match read_request(&mut stream).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    shared.state().misuses.push(format!("not a request: {error}"));
                }
                return Err(error);
            }
        };
        let path = request.path.clone();
        // A connection from before: a server that is down does not carry out what comes over it.
        let is_over = {
            let state = shared.state();
            state.down || state.certificate != certificate
        };
        if is_over {
            stream.get_ref().reset();
            return Ok(());
        }
        let answer = {
            let mut state = shared.state();
            state.begin(&request);
            state.answer(request)
        };
        shared.changed.notify_waiters();
        let delivered = deliver(stream.get_mut(), answer, |count| shared.state().body_bytes_sent += count).await;
        shared.state().end(&path);
        if !delivered? {
            return Ok(());
        }
    }
}

impl State {
    fn begin(&mut self, request: &Request) {
        if self.redirected_to.contains(&request.path) {
            self.misuses.push(format!("a redirect was followed: {} {}", request.method, request.path));
        }
        if self.registrar.is_some() && request.path.starts_with("/reg/") && self.under_way.contains(&request.path) {
            self.misuses.push(format!("two management calls at once: {} {}", request.method, request.path));
        }
        self.under_way.push(request.path.clone());
        self.most_under_way = self.most_under_way.max(self.under_way.len());
    }

    fn end(&mut self, path: &str) {
        if let Some(index) = self.under_way.iter().position(|other| other == path) {
            self.under_way.swap_remove(index);
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        let key = (request.method.clone(), request.path.clone());
        let queued = self.answers.get_mut(&key).and_then(|queue| {
            let (_, once) = queue.front()?;
            if *once || queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }
        });
        let answer = match (queued, &mut self.registrar) {
            (Some((answer, _)), Some(registrar)) => {
                registrar.answer(&request, answer.carried_out);
                answer
            }
            (Some((answer, _)), None) => answer,
            (None, registrar) => match (self.handlers.get(&key), registrar) {
                (Some(handler), _) => handler(&request),
                (None, Some(registrar)) => registrar.answer(&request, true),
                (None, None) => Answer::empty(404),
            },
        };
        self.redirected_to.extend(answer.redirected_to().map(str::to_owned));
        self.requests.push(request);
        answer
    }
}
