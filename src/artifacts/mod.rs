//! The artifacts that a server keeps: `depot` is the place for them, in a `folder` of its own or `shared` in the store,
//! and `retention` removes artifacts that are not needed any more.

mod depot;
mod folder;
pub mod retention;
mod shared;

pub use depot::{Content, Depot, DepotError, KeptArtifact, PartName, Upload, UploadBegun, UploadError};
