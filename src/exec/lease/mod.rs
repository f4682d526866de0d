//! The one loop that keeps a lease: for the server's own worker, for `run` and for agents.
//!
//! A [`Keeper`] renews the lease, passes on every stop, and sends the reports and the end. It calls a [`Lessor`]: the
//! queue in the server's process, or the server over HTTP. Each answer is one [`Reply`]. [`Times`] is the arithmetic:
//! until when a lease is trusted, and when the work must begin to stop. Reports wait in a [`Backlog`], and an agent's
//! [`Journal`] writes them down on the way there. See decision 0061.

mod backlog;
mod deadline;
mod keeper;
mod lessor;

pub use backlog::{Backlog, Journal};
pub use deadline::{Times, pause_after};
pub use keeper::{Keeper, REPORT_QUEUE_LIMIT, Until};
pub use lessor::{Lessor, Lost, Renewed, Reply};
