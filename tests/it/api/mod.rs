//! The HTTP API of the real server.

mod bad_input;
mod early;
mod plan;
mod slot;
