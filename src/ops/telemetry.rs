//! The log, on standard error; and what is measured by its spans.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use super::{Metrics, passes};
use crate::cli::LogFormat;

/// Starts the log. `RUST_LOG`, if set, wins over `level`.
pub fn init(format: LogFormat, level: &str, metrics: &Metrics) {
    // kube-runtime repeats in words of its own what ours says.
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(format!("{level},kube_runtime::controller=warn,kube_runtime::watcher=error")))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(passes::layer(metrics.clone()));
    match format {
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
            registry.with(layer.with_filter(filter)).init();
        }
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            let layer = fmt::layer().with_ansi(colours).with_writer(std::io::stderr);
            registry.with(layer.with_filter(filter)).init();
        }
    }
}
