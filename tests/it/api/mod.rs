//! The HTTP API of the real server.

mod bad_input;
mod events;
mod early;
mod plan;
mod slot;
mod waits;
