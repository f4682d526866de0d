//! What is deployed, as one file: packed by the client (tar + zstd), named by the SHA-256 of its bytes, kept by the
//! server, and unpacked into a deployment's workspace.
//!
//! The same tree always packs to the same bytes, so it is uploaded once. What is unpacked was written by strangers: it
//! is taken whole or not at all, and nothing is ever written outside its directory.

mod links;
mod pack;
mod unpack;

pub use pack::{IGNORE_FILE, LeftOut, PackError, PackOptions, Packed, pack};
pub use unpack::{UnpackError, UnpackLimits, unpack, unpacking_path};
