//! The HTTP API of the real server.

mod bad_input;
mod events;
mod guard;
mod lifecycle;
mod openapi;
mod slot;
mod waits;
