//! Reads the output of commands without ever making them wait.
//!
//! `phase` reads the streams of one command, `stream_log` is the way of each stream into the log: `lines` cleans and
//! cuts it, `mask` removes secrets (in all their `forms`, and those that are `announced`), and `outbox` keeps the
//! reports that are not sent yet.

mod announced;
mod forms;
pub mod lines;
pub mod mask;
pub mod outbox;
pub mod phase;
pub mod stream_log;

pub use announced::{SIGNS, begins_to_announce};
