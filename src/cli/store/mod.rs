//! `store`: what is done to a store as a whole, beside its server.

mod copy;
mod files;
mod prune;
mod told;

pub use files::{StoreCommand, store};
