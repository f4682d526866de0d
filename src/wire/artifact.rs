//! An artifact on the wire.

use serde::{Deserialize, Serialize};

/// An uploaded artifact, by its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRef {
    /// 64 hexadecimal digits in lower case.
    pub sha256: String,
}
