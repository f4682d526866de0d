//! What the user sees: a bar on a terminal, plain lines in a log.

pub mod clean;
pub mod fit;
pub mod print;
mod screen;
mod silence;
mod story;
pub mod table;
pub mod words;

pub use screen::Screen;
pub use story::Story;
