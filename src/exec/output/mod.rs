//! What commands print, read without ever making them wait.
//!
//! `phase` reads the streams of one command, `stream_log` is the way of each into the log: `lines` cleans and cuts it, `mask`
//! takes secrets out (in all their `forms`, and those that are `announced`), and `outbox` keeps what is not told yet.

mod announced;
mod forms;
pub mod lines;
pub mod mask;
pub mod outbox;
pub mod phase;
pub mod stream_log;

pub use announced::{SIGNS, begins_to_announce};
