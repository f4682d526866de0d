//! The artifacts that a server keeps: `depot` is the place for them, in a `folder` of its own or `shared` in the store,
//! and `retention` removes artifacts that are not needed any more.

mod depot;
mod error;
mod folder;
pub mod retention;
mod shared;

pub use depot::{Depot, KeptArtifact, PartName, Upload};
pub use error::{DepotError, UploadBegun, UploadError};
pub use shared::Content;
