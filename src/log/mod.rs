//! The log, and other words on standard error. A line that cannot be written is dropped and counted: it neither ends nor
//! blocks its sender.
//!
//! A line is text for people, or one JSON object for programs. What a client sent can neither begin a line of its own nor
//! stand for a field. A line that is logged while a request is answered carries that request's id (decision 0077).

mod format;
mod line;
mod request;
mod sink;
mod start;

pub use line::LogFormat;
pub use request::{current_request, within, within_sync};
pub use sink::{dropped_count, flush, say, say_whole};
pub use start::start;
