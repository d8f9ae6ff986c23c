//! `/livez`, `/readyz` and `/metrics`.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// What `/readyz` tells.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    started: AtomicBool,
    leading: AtomicBool,
    synced: AtomicBool,
    stopping: AtomicBool,
    obstacle: Mutex<Option<String>>,
}

impl Health {
    /// The cluster can be reached; from now on this replica works or stands by.
    pub fn started(&self) {
        self.0.started.store(true, Ordering::Relaxed);
    }

    /// This replica leads.
    pub fn leading(&self) {
        self.0.leading.store(true, Ordering::Relaxed);
    }

    /// The watches have delivered their first lists.
    pub fn synced(&self) {
        self.0.synced.store(true, Ordering::Relaxed);
    }

    /// This replica is going away.
    pub fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// What keeps this replica from starting, for people; `None` = nothing any more.
    pub fn obstacle(&self, obstacle: Option<String>) {
        *self.0.obstacle.lock().unwrap_or_else(PoisonError::into_inner) = obstacle;
    }

    fn describe(&self) -> (StatusCode, String) {
        let flag = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let obstacle = self.0.obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (code, state) = if flag(&self.0.stopping) {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping".to_owned())
        } else if let Some(obstacle) = obstacle {
            (StatusCode::SERVICE_UNAVAILABLE, obstacle)
        } else if !flag(&self.0.started) {
            (StatusCode::SERVICE_UNAVAILABLE, "starting".to_owned())
        } else if !flag(&self.0.leading) {
            (StatusCode::OK, "standby".to_owned())
        } else if flag(&self.0.synced) {
            (StatusCode::OK, "leader".to_owned())
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "leader, reading the cluster".to_owned())
        };
        (code, state + "\n")
    }
}

/// Serves until `stop` fires.
///
/// # Errors
/// If the address can't be bound.
pub async fn serve(address: SocketAddr, health: Health, metrics: Metrics, stop: CancellationToken) -> io::Result<()> {
    let router = Router::new()
        // A restart helps only if the process no longer answers.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(async |State(health): State<Health>| health.describe()))
        .with_state(health)
        .route("/metrics", get(async move || metrics_page(&metrics)));
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn metrics_page(metrics: &Metrics) -> impl IntoResponse + use<> {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], metrics.encode())
}
