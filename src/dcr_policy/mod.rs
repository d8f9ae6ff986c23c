//! The DcrPolicy controller: tells on the policy what it does. It refuses nothing itself: [`crate::policy`] is asked by
//! whoever acts on a client.

mod controller;
mod status;

pub use controller::run;
