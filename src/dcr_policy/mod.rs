//! The DcrPolicy controller: what policies say, told to whom it concerns.
//!
//! | file | does |
//! |---|---|
//! | `judge` | judges the clients that a change is about, has those looked at whose status says something else, and counts |
//! | `audit` | tells by events what policies find that only audit |
//! | `controller`, `status` | write the counts, and whether the policy makes sense, to the policy's status |
//! | `bindings` | puts the policies of a namespace into force at admission |
//!
//! It refuses nothing itself: [`crate::policy`] is asked by whoever acts on a client.

mod audit;
mod bindings;
mod controller;
mod judge;
mod status;

pub use bindings::keep_bindings;
pub use controller::run;
pub use judge::{Change, Counts, judge};
