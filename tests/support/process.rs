//! Child processes that end with the test, however the test ends, and the one way to wait for something.

use std::{
    fmt::Display,
    fs::{self, File},
    future::Future,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    panic::Location,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};

/// What `wait_until` accepts from a look: `Some`, `Ok` and `true` are what was waited for.
pub trait Look {
    type Found;
    /// What was found, or the state that was seen instead.
    fn found(self) -> Result<Self::Found, String>;
}

impl<T> Look for Option<T> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "None".into())
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.map_err(|state| state.to_string())
    }
}

impl Look for bool {
    type Found = ();
    fn found(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "false".into())
    }
}

/// Looks again and again until `look` finds something (`Some`, `Ok`, `true`).
///
/// Panics, at the caller's line, with `what` and the last state (the `Err`) when `limit` has passed.
#[track_caller]
pub fn wait_until<L: Look, F: Future<Output = L>, N: FnMut() -> F>(
    what: &str,
    limit: Duration,
    mut look: N,
) -> impl Future<Output = L::Found> + use<L, F, N> {
    let what = what.to_owned();
    // Not `AsyncFnMut`: its futures cannot be shown to be Send, and `tokio::spawn` asks for that.
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        let mut last = "nothing yet".to_owned();
        let mut pause = Duration::from_millis(10);
        loop {
            match timeout_at(deadline, look()).await.map(Look::found) {
                Ok(Ok(found)) => return found,
                Ok(Err(state)) => last = state,
                Err(_) => last.push_str(" (and the look that came after did not return)"),
            }
            assert!(
                Instant::now() < deadline,
                "waited {limit:?} in vain until {what}; last seen: {last}\n(waited for at {caller})"
            );
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 3 / 2).min(Duration::from_millis(250));
        }
    }
}

/// A loopback port that nobody listens on, and that this process has not handed out before.
///
/// It is taken from below the range from which systems choose the local port of outgoing connections: else any
/// connection could occupy it before its server starts, or while a test has stopped that server.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test processes that run side by side start at different places.
    let start = || u16::try_from(std::process::id().wrapping_mul(211) % u32::from(COUNT)).expect("less than COUNT");
    let next = NEXT.get_or_init(|| AtomicU16::new(start()));
    (0..COUNT)
        .map(|_| FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free loopback port")
}

/// Starts something that listens on ports from `free_port`, with new ports if another process was faster.
pub async fn with_free_ports<T, F>(what: &str, mut start: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let mut attempts = 5;
    loop {
        attempts -= 1;
        match start().await {
            Ok(started) => return started,
            Err(error) if attempts > 0 && is_port_conflict(&error) => {}
            Err(error) => panic!("{what} did not start: {error}"),
        }
    }
}

fn is_port_conflict(log: &str) -> bool {
    let log = log.to_lowercase();
    log.contains("address already in use") || log.contains("eaddrinuse")
}

/// Starts a `T` once for all tests of this process; later callers, on whatever runtime, wait for the first one.
///
/// A start that failed is not tried again: every test then fails at once, with the same message.
pub fn once_per_process<T, F>(
    cell: &'static OnceLock<Result<T, String>>,
    start: impl FnOnce() -> F + Send,
) -> &'static T
where
    T: Send + Sync,
    F: Future<Output = T>,
{
    let started = cell.get_or_init(|| {
        // A thread of its own, because the caller is on a runtime already, and that runtime ends with its test.
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    runtime.expect("a runtime").block_on(start())
                })
                .join()
        });
        result.map_err(|panic| match panic.downcast::<String>() {
            Ok(message) => *message,
            Err(panic) => panic.downcast_ref::<&str>().unwrap_or(&"the start panicked").to_string(),
        })
    });
    started.as_ref().unwrap_or_else(|message| panic!("{message}"))
}

/// A shell command that runs when this process dies, even by SIGKILL, and does not run when the value is dropped.
struct Watchdog(Child);

impl Watchdog {
    /// `argument` is `$1` of `command`.
    fn new(command: &str, argument: &str) -> Self {
        // Only this process holds the other end of the pipe (std opens pipes close-on-exec), so the end of the file
        // means that it is gone. Statics are never dropped and a killed process drops nothing: the kernel closes the
        // pipe for both.
        let shell = Command::new("/bin/sh")
            .args(["-c", &format!("read -r _ || {{ {command}; }}"), "watchdog", argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Ctrl-C in a terminal must not end the watchdog before its work is done.
            .process_group(0)
            .spawn();
        Self(shell.expect("/bin/sh starts"))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.0.stdin.take().expect("a pipe").write_all(b"done\n");
        let _ = self.0.wait();
    }
}

/// A temporary folder that is removed even when this process is killed.
pub struct Folder {
    // Dropped in this order: nobody else removes the folder while we do.
    _watchdog: Watchdog,
    folder: tempfile::TempDir,
}

impl Folder {
    pub fn new(prefix: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(&format!("dcr-operator-{prefix}-")).tempdir();
        let folder = folder.expect("a temporary folder");
        let path = folder.path().to_str().expect("a temporary folder with a UTF-8 name");
        // The processes that write to it are killed by their own watchdogs, at the same moment: let those be first.
        let watchdog = Watchdog::new("sleep 1; rm -rf -- \"$1\"", path);
        Self { _watchdog: watchdog, folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file of this folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{} is not writable: {error}", path.display()));
        path
    }
}

/// A child process that does not outlive this process. What it prints goes to a file.
pub struct Supervised {
    name: String,
    log: PathBuf,
    state: Mutex<State>,
}

struct State {
    command: Command,
    child: Child,
    /// Gone as soon as the child is, because its id may then be another process's.
    watchdog: Option<Watchdog>,
}

impl Supervised {
    /// `log` is the file for stdout and stderr; it is appended to.
    pub fn spawn(name: &str, mut command: Command, log: PathBuf) -> Self {
        let (child, watchdog) = spawn(name, &mut command, &log);
        let state = Mutex::new(State { command, child, watchdog: Some(watchdog) });
        Self { name: name.into(), log, state }
    }

    /// Runs the same command again, after killing what still runs of it.
    pub fn respawn(&self) {
        self.kill();
        let mut state = self.state.lock().unwrap();
        let (child, watchdog) = spawn(&self.name, &mut state.command, &self.log);
        state.child = child;
        state.watchdog = Some(watchdog);
    }

    pub fn id(&self) -> u32 {
        self.state.lock().unwrap().child.id()
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        let mut state = self.state.lock().unwrap();
        let status = state.child.try_wait().expect("a child can be waited for");
        if status.is_some() {
            state.watchdog = None;
        }
        status
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&self, limit: Duration) -> impl Future<Output = ExitStatus> {
        let what = format!("{} ends", self.name);
        let caller = Location::caller();
        async move {
            wait_until(&what, limit, async || {
                self.exited().ok_or_else(|| format!("it still runs (waited for at {caller})\n{}", self.tail()))
            })
            .await
        }
    }

    /// SIGTERM, then waits for the end.
    #[track_caller]
    pub fn terminate(&self, limit: Duration) -> impl Future<Output = ExitStatus> {
        self.signal("TERM");
        self.wait(limit)
    }

    /// SIGKILL. Returns when the process is gone.
    pub fn kill(&self) {
        let mut state = self.state.lock().unwrap();
        let _ = state.child.kill();
        let _ = state.child.wait();
        state.watchdog = None;
    }

    /// SIGSTOP: it keeps its ports and connections, and answers nothing.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// SIGCONT: it goes on after `stop`.
    pub fn cont(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        if self.exited().is_some() {
            return;
        }
        // The shell's own `kill`: not every system has the program, and std can send SIGKILL only.
        let id = self.id().to_string();
        let status = Command::new("/bin/sh").args(["-c", "kill -s \"$1\" \"$2\"", "kill", name, &id]).status();
        assert!(status.expect("/bin/sh starts").success(), "SIG{name} to {} (process {id}) failed", self.name);
    }

    /// The file with all that it has printed.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All that it has printed, over all its runs.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of the log, for messages.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        format!("--- the end of what {} printed\n{tail}\n---", self.name)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(name: &str, command: &mut Command, log: &Path) -> (Child, Watchdog) {
    let file = File::options().create(true).append(true).open(log);
    let file = file.unwrap_or_else(|error| panic!("{} is not writable: {error}", log.display()));
    command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
    // Ctrl-C in a terminal goes to the demo, which then stops its processes in order.
    command.process_group(0);
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{name} ({}) does not start: {error}", command.get_program().display()));
    let watchdog = Watchdog::new("kill -s KILL \"$1\"", &child.id().to_string());
    (child, watchdog)
}
