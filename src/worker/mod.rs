//! The server's own worker: `embedded` claims waiting deployments, as long as there are free `places`, and `leased`
//! runs each claimed deployment and keeps its lease. `identity` is this server's identity, kept over a restart.

mod embedded;
mod fetch;
mod identity;
mod leased;
mod places;

pub use embedded::{Embedded, STOP_LAST_WORDS};
