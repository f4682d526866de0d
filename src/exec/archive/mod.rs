//! Artifacts: the files to deploy, as one file. The client packs them (tar + zstd), their name is the SHA-256 of the
//! packed bytes, the server keeps them, and the executor unpacks them into a deployment's workspace.
//!
//! The same tree always packs to the same bytes, so it is uploaded once. An artifact is untrusted input: it is unpacked
//! whole or not at all, and nothing is ever written outside its directory.

mod links;
mod pack;
mod unpack;

pub use pack::{IGNORE_FILE, LeftOut, PackError, PackOptions, Packed, pack};
pub use unpack::{UnpackError, UnpackLimits, unpack, unpacking_path};
