//! The HTTP API of the real server.

mod bad_input;
mod events;
mod slot;
mod waits;
