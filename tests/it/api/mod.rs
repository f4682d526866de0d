//! The HTTP API of the real server.

mod bad_input;
mod plan;
mod slot;
