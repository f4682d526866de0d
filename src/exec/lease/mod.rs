//! The one loop that keeps a lease: for pipelines of the server's own worker, for `run` and for agents.
//!
//! A [`Keeper`] renews the lease, passes on what asks the work to stop, and tells reports and the end. It answers to a
//! [`Lessor`], which is the queue in the server's process and calls over HTTP elsewhere; what each answer means is one
//! [`Reply`]. [`Times`] is the arithmetic: until when a lease is trusted, and when the work must begin to stop. Reports
//! wait in a [`Backlog`], and an agent's [`Journal`] notes them on the way there. See decision 0061.

mod backlog;
mod deadline;
mod keeper;
mod lessor;

pub use backlog::{Backlog, Journal};
pub use deadline::{Times, pause_after};
pub use keeper::{Keeper, REPORT_QUEUE_LIMIT, Until};
pub use lessor::{Lessor, Lost, Renewed, Reply};
