//! The server's own worker: `embedded` claims what waits for it, as far as there are `places`, and `leased` runs each claimed
//! deployment and keeps its lease. `identity` is who this server is after a restart.

mod embedded;
mod fetch;
mod identity;
mod leased;
mod places;

pub use embedded::{Embedded, STOP_LAST_WORDS};
