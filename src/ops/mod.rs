//! What the people on call see: health, metrics, log.

mod admin;
mod metrics;
mod objects;
mod passes;
mod telemetry;

pub use admin::{Health, serve};
pub use metrics::{Metrics, Outcome};
pub use telemetry::init as init_telemetry;
