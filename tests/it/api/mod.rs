//! The HTTP API of the real server.

mod slot;
