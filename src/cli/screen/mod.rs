//! What the user sees: a bar on a terminal, plain lines in a log.

pub mod fit;
pub mod held;
mod live;
pub mod print;
mod silence;
mod story;
pub mod table;
pub mod words;

pub use crate::clean;
pub use live::Screen;
pub use story::Story;
