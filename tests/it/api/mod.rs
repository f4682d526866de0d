//! The HTTP API of the real server.

mod bad_input;
mod early;
mod events;
mod feed;
mod guard;
mod history;
mod lifecycle;
mod limits;
mod newer;
mod openapi;
mod pages;
mod plan;
mod schema;
mod slot;
mod start;
mod strangers;
mod waits;
mod workers;
