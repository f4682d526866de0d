//! The HTTP API of the real server.

mod bad_input;
mod early;
mod events;
mod plan;
mod slot;
mod waits;
