//! The HTTP API of the real server.

mod bad_input;
mod early;
mod events;
mod plan;
mod guard;
mod lifecycle;
mod openapi;
mod slot;
mod waits;
