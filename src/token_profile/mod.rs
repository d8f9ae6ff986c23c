//! The TokenProfile controller: finds the endpoints, and checks that an initial access token can be had.

mod act;
mod circuit;
mod connection;
mod controller;
mod observe;
mod plan;
mod status;

pub use circuit::{Circuits, Heard};
pub use connection::{Connections, Credential, Error as ConnectionError};
pub use controller::{digest, is_ready, run};
pub use observe::Findings;
