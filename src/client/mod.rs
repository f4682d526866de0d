//! The client of a server, as a library: typed `calls` with retry over one `transport`, the pure decisions of what to do
//! next (`resolve`), following a deployment (`follow`), an artifact's `upload`, and a lease that is kept over HTTP (`lease`).
//! `agent` is a client that runs pipelines. What a user sees of it is in `cli`.

pub mod agent;
pub mod audit;
pub mod calls;
pub mod credentials;
pub mod deadline;
mod dial;
pub mod error;
mod fault;
pub mod follow;
pub mod lease;
mod notifications;
mod patience;
pub mod resolve;
pub mod token;
mod tokens;
mod transport;
mod trouble;
pub mod upload;
