//! What the user sees: a bar on a terminal, plain lines in a log.

pub mod clean;
pub mod print;
mod screen;
mod silence;
pub mod table;
pub mod words;

pub use screen::Screen;
