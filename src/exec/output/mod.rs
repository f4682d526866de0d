//! Reads the output of commands without ever making them wait.
//!
//! `read` reads the streams of one command, `phase` is what both streams share, and `stream_log` is the way of each
//! stream into the log: `lines` cleans and cuts it, a `directive` in it is obeyed, `mask` removes secrets (in all their
//! `forms`, and those that are `announced`), and `outbox` keeps the reports that are not sent yet.

mod announced;
pub mod directive;
mod forms;
pub mod lines;
pub mod mask;
pub mod outbox;
pub mod phase;
mod read;
pub mod stream_log;

pub use announced::{SIGNS, begins_to_announce};
