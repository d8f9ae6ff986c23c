//! From flags to running controllers, and back: client, lease, watches, controllers, admin server, and the stop order.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    io,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, PartialObjectMeta},
    core::NamespaceResourceScope,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{DcrPolicy, OAuthClient, OPERATOR, TokenProfile, labels},
    cli::RunArgs,
    context::{Context, Settings},
    crds,
    dcr_policy::{self, Counts},
    kubernetes::{
        self, Backoff, Cache, Events, Key, SecretChange, Watched, Written, follow, follow_by_name, lease,
        watch_secrets, words,
    },
    oauth_client::{self, Changes, Compared},
    ops::{self, Health, Metrics},
    policy::Seniority,
    token_profile::{self, Circuits, Connections, Findings},
};

/// What is in flight may take this long after a stop; Kubernetes kills after 30 s unless told otherwise.
const GRACE: Duration = Duration::from_secs(25);
/// The first delay after a failure, and the longest: a minute after the end of an outage everything is as it should be.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Pauses between two looks at namespaces that can't be watched.
const NAMESPACE_INTERVAL: Duration = Duration::from_secs(10);
/// Pauses between two looks for what keeps the first lists from coming.
const OBSTACLE_INTERVAL: Duration = Duration::from_secs(5);

/// Exit code for a configuration that can't work.
const MISCONFIGURED: u8 = 2;

/// Runs the operator until SIGTERM or SIGINT, or until the lease is lost.
pub async fn run(args: RunArgs) -> ExitCode {
    // Each once: two controllers must never look at the same object.
    let namespaces: BTreeSet<String> = args.namespaces().into_iter().collect();
    let RunArgs {
        namespaces: _,
        leader_elect,
        lease_namespace,
        admin_address,
        workers,
        deletion_timeout,
        allow_insecure_http,
        admission_bindings,
        log_format,
        log_level,
    } = args;
    let metrics = Metrics::default();
    ops::init_telemetry(log_format, &log_level, &metrics);
    let client = match kubernetes::connect(metrics.clone()).await {
        Ok(client) => client,
        Err(error) => {
            tracing::error!("{error}. Set KUBECONFIG, or run in a pod with a ServiceAccount");
            return ExitCode::from(MISCONFIGURED);
        }
    };
    let stop = CancellationToken::new();
    if let Err(error) = stop_on_signal(stop.clone()) {
        tracing::error!(%error, "no signal handler");
        return ExitCode::FAILURE;
    }
    let health = Health::default();
    let admin_done = CancellationToken::new();
    let mut admin = tokio::spawn(ops::serve(admin_address, health.clone(), metrics.clone(), admin_done.clone()));

    let settings = Settings { namespaces, allow_insecure_http, deletion_timeout, workers, admission_bindings };
    let lease_namespace = lease_namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let work = lead(client, settings, leader_elect.then_some(lease_namespace), health, metrics, stop);
    let code = tokio::select! {
        code = work => code,
        served = &mut admin => {
            match served {
                Ok(Err(error)) => tracing::error!(%error, %admin_address, "can't serve there: choose another --admin-address"),
                other => tracing::error!(?other, "the admin server has ended"),
            }
            return ExitCode::from(MISCONFIGURED);
        }
    };
    admin_done.cancel();
    // An open connection must not hold up the exit.
    let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
    code
}

/// Waits for the lease, works while it is held, and lets go of it last.
async fn lead(
    client: Client,
    settings: Settings,
    lease_namespace: Option<String>,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> ExitCode {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?settings, "starting");
    tokio::select! {
        () = crds::are_there(&client, &health) => {}
        () = stop.cancelled() => return ExitCode::SUCCESS,
    }
    health.started();
    let released = CancellationToken::new();
    let mut term = lease::Term::without_end();
    let lease: Option<JoinHandle<()>> = match lease_namespace {
        None => None,
        Some(namespace) => {
            let mut elector = lease::Elector::new(
                Api::<Lease>::namespaced(client.clone(), &namespace),
                lease::Params {
                    name: OPERATOR.into(),
                    identity: identity(),
                    lease_duration: Duration::from_secs(15),
                    renew_deadline: Duration::from_secs(10),
                    retry_period: Duration::from_secs(2),
                },
            );
            let standing = |obstacle: Option<String>| {
                health.obstacle(obstacle.map(|obstacle| format!("{obstacle} (--lease-namespace {namespace})")));
            };
            if !elector.acquire(&stop, standing).await {
                return ExitCode::SUCCESS;
            }
            health.obstacle(None);
            term = elector.term();
            let released = released.clone();
            Some(tokio::spawn(async move { elector.hold(&released).await }))
        }
    };
    tracing::info!("leading");
    health.leading();
    metrics.leading();
    tokio::spawn(crds::compare(client.clone()));

    // Fires on a signal and on a lost lease alike: the controllers finish what is in flight.
    let drain = stop.child_token();
    let mut work = tokio::spawn(control(client, settings, metrics, health.clone(), term, drain.clone()));
    let lost = async {
        match lease {
            Some(lease) => lease.await.unwrap_or_default(),
            None => std::future::pending().await,
        }
    };
    tokio::pin!(lost);
    let code = tokio::select! {
        // Asked to stop comes first: then the controllers end because they were asked to.
        biased;
        () = stop.cancelled() => ExitCode::SUCCESS,
        () = &mut lost => {
            tracing::error!("the lease is lost: another replica may be working already");
            ExitCode::FAILURE
        }
        _ = &mut work => {
            tracing::error!("a controller has ended unasked");
            return ExitCode::FAILURE;
        }
    };
    health.stopping();
    drain.cancel();
    tracing::info!("stopping: finishing what is in flight");
    let drained = tokio::time::timeout(GRACE, work).await.is_ok();
    if !drained {
        tracing::error!("what was in flight could not be finished in time; unfinished attempts will be reported");
    }
    if code == ExitCode::SUCCESS {
        released.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(3), lost).await;
    }
    tracing::info!("stopped");
    if drained { code } else { ExitCode::FAILURE }
}

/// Watches and controls, until `stop`.
async fn control(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    health: Health,
    term: lease::Term,
    stop: CancellationToken,
) {
    let namespaces = &settings.namespaces;
    let scopes: Vec<Option<String>> =
        if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() };
    let (senders, receivers): (Vec<_>, Vec<_>) = scopes.iter().map(|_| unbounded_channel()).unzip();
    let (to_judge, judged) = unbounded_channel();
    let tell = Tell { clients: Arc::new(senders), judge: to_judge };
    let (recounts, recounted): (Vec<_>, Vec<_>) = scopes.iter().map(|_| unbounded_channel()).unzip();
    let seniority = Arc::new(Seniority::default());
    let watches: Vec<Watches> =
        scopes.iter().map(|scope| Watches::start(&client, scope.as_deref(), &tell, &seniority)).collect();
    let namespaces = watch_namespaces(&client, &scopes, tell.clone());

    let context = Arc::new(Context {
        clients: Cache::new(watches.iter().map(|watches| watches.clients.store.clone()).collect()),
        profiles: Cache::new(watches.iter().map(|watches| watches.profiles.store.clone()).collect()),
        policies: Cache::new(watches.iter().map(|watches| watches.policies.store.clone()).collect()),
        namespaces,
        seniority,
        counts: Counts::default(),
        connections: Connections::new(client.clone(), settings.allow_insecure_http),
        findings: Findings::default(),
        events: Events::new(client.clone(), std::env::var("POD_NAME").ok()),
        metrics,
        client_backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
        profile_backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
        written: Written::default(),
        compared: Compared::new(jiff::Timestamp::now()),
        circuits: Circuits::default(),
        term,
        stop: stop.clone(),
        settings,
        client,
    });
    context.metrics.observe(&context.clients, &context.profiles, &context.policies, &context.circuits);
    let synced = async {
        context.clients.ready().await;
        context.profiles.ready().await;
        context.policies.ready().await;
        // Fails only if the watch has ended, and then so does the process.
        let _ = context.namespaces.wait_until_ready().await;
    };
    tokio::select! {
        () = synced => {}
        () = tell_obstacles(&context.client, &scopes, &health) => {}
        () = stop.cancelled() => return,
    }
    health.obstacle(None);
    context.seniority.listed();
    tracing::info!("the watches have delivered their first lists");
    health.synced();
    let controllers = watches.into_iter().zip(&scopes).zip(receivers.into_iter().zip(recounted)).map(
        |((watches, scope), (changes, recounted))| {
            watches.run(Arc::clone(&context), scope.as_deref(), changes, recounted)
        },
    );
    let policies_changed = Arc::new(Notify::new());
    let bindings = dcr_policy::keep_bindings(Arc::clone(&context), Arc::clone(&policies_changed));
    let look = move |change| tell.clients(&change);
    let judge = dcr_policy::judge(Arc::clone(&context), judged, recounts, look, policies_changed);
    // Tasks of their own: judging very many clients must not hold up the controllers.
    let (judge, bindings) = (tokio::spawn(judge), tokio::spawn(bindings));
    let controllers = join_all(controllers);
    tokio::pin!(controllers);
    let finished = tokio::select! {
        _ = &mut controllers => true,
        _ = judge => false,
        _ = bindings => false,
    };
    if !finished && stop.is_cancelled() {
        controllers.await;
    }
}

/// Where changes are told.
#[derive(Clone)]
struct Tell {
    clients: Arc<Vec<UnboundedSender<Changes>>>,
    judge: UnboundedSender<dcr_policy::Change>,
}

impl Tell {
    fn clients(&self, change: &Changes) {
        for sender in self.clients.iter() {
            // Nobody listens any more: the process is stopping.
            let _ = sender.send(change.clone());
        }
    }

    fn judge(&self, change: dcr_policy::Change) {
        // As above.
        let _ = self.judge.send(change);
    }
}

/// The watches of one namespace, or of all.
struct Watches {
    clients: Watched<OAuthClient>,
    profiles: Watched<TokenProfile>,
    policies: Watched<DcrPolicy>,
    tell: Tell,
}

impl Watches {
    fn start(client: &Client, scope: Option<&str>, tell: &Tell, seniority: &Arc<Seniority>) -> Self {
        let (mut digests, mut generations) = (HashMap::new(), HashMap::new());
        let (of_clients, of_profiles, of_policies) = (tell.clone(), tell.clone(), tell.clone());
        let seniority = Arc::clone(seniority);
        Self {
            tell: tell.clone(),
            clients: Watched::start(api(client, scope), move |(namespace, name), client: Option<&OAuthClient>| {
                let freed = seniority.note(&namespace, &name, client);
                of_clients.judge(dcr_policy::Change::Client { namespace, name, freed });
            }),
            profiles: Watched::start(api(client, scope), move |key, profile: Option<&TokenProfile>| {
                // A profile's count of clients changes with each of them, and is no news to them.
                if is_news(&mut digests, &key, profile.map(token_profile::digest)) {
                    of_profiles.judge(dcr_policy::Change::Profile(key.0.clone(), key.1.clone()));
                    of_profiles.clients(&Changes::Profile(key.0, key.1));
                }
            }),
            policies: Watched::start(api(client, scope), move |key, policy: Option<&DcrPolicy>| {
                let generation = policy.map(|policy| (policy.uid(), policy.metadata.generation));
                if is_news(&mut generations, &key, generation) {
                    of_policies.judge(dcr_policy::Change::Policy(key.0, key.1));
                }
            }),
        }
    }

    async fn run(
        self,
        context: Arc<Context>,
        scope: Option<&str>,
        changes: UnboundedReceiver<Changes>,
        recounted: UnboundedReceiver<Key>,
    ) {
        let told = self.tell;
        let secrets = |labels: &str| watch_secrets(api(&context.client, scope), labels);
        let credentials = secrets(&format!("{}=true", labels::CREDENTIALS)).inspect(move |change| {
            // A client may be adopted with one; after a cut, the clients that wait look again by themselves.
            if let SecretChange::Of(secret) = change {
                told.clients(&Changes::Credentials(secret.namespace().unwrap_or_default(), secret.name_any()));
            }
        });
        let own = secrets(&format!("{}={OPERATOR}", labels::MANAGED_BY));
        tokio::join!(
            token_profile::run(Arc::clone(&context), self.profiles, credentials),
            dcr_policy::run(Arc::clone(&context), self.policies, recounted),
            oauth_client::run(Arc::clone(&context), self.clients, own, changes),
        );
    }
}

/// Whether it is another than the last one of that key; what is gone is not remembered.
fn is_news<K: Clone + Eq + Hash, V: Clone + PartialEq>(last: &mut HashMap<K, V>, key: &K, now: Option<V>) -> bool {
    let before = match now.clone() {
        Some(now) => last.insert(key.clone(), now),
        None => last.remove(key),
    };
    before != now
}

fn api<K>(client: &Client, scope: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The labels of the namespaces, for selectors. With `--namespaces`, a Role in each of them suffices: a Role allows to
/// read the namespace that it is in, but neither a list nor a watch.
fn watch_namespaces(client: &Client, scopes: &[Option<String>], tell: Tell) -> Store<PartialObjectMeta<Namespace>> {
    let mut labels = HashMap::new();
    let tell = move |reference: ObjectRef<PartialObjectMeta<Namespace>>, namespace: Option<Arc<_>>| {
        let now = namespace.map(|namespace: Arc<PartialObjectMeta<Namespace>>| namespace.labels().clone());
        if is_news(&mut labels, &reference.name, now) {
            tell.judge(dcr_policy::Change::Namespace(reference.name.clone()));
            tell.clients(&Changes::Namespace(reference.name));
        }
    };
    match scopes.iter().cloned().collect::<Option<Vec<String>>>() {
        Some(names) => follow_by_name(Api::all(client.clone()), names, NAMESPACE_INTERVAL, tell),
        None => follow(Api::all(client.clone()), tell),
    }
}

/// Says what keeps the watches from delivering their first lists, for as long as it is asked. One namespace of
/// `--namespaces` that can't be read holds up all: what its policies and profiles say, others go by.
async fn tell_obstacles(client: &Client, scopes: &[Option<String>], health: &Health) {
    loop {
        tokio::time::sleep(OBSTACLE_INTERVAL).await;
        let mut obstacle = None;
        for scope in scopes {
            if let Err(error) = read(client, scope.as_deref()).await {
                let place =
                    scope.as_ref().map_or("the cluster".into(), |name| format!("namespace {name} of --namespaces"));
                obstacle = Some(format!("leader, can't read {place}: {}", words(&error)));
                break;
            }
        }
        health.obstacle(obstacle);
    }
}

/// Asks for what the watches ask for.
async fn read(client: &Client, scope: Option<&str>) -> kube::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let few = ListParams::default().limit(1);
    match scope {
        Some(name) => drop(namespaces.get_metadata_opt(name).await?),
        None => drop(namespaces.list_metadata(&few).await?),
    }
    api::<TokenProfile>(client, scope).list_metadata(&few).await?;
    api::<DcrPolicy>(client, scope).list_metadata(&few).await?;
    api::<OAuthClient>(client, scope).list_metadata(&few).await?;
    Ok(())
}

/// Unique to this process: two replicas must never take each other for themselves.
fn identity() -> String {
    let name = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| OPERATOR.into());
    format!("{name}_{}", uuid::Uuid::new_v4())
}

fn stop_on_signal(stop: CancellationToken) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
