//! Which build this is: told by `version`, `/readyz` and the log's first line.

use serde::Serialize;

/// A build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// The version.
    pub version: &'static str,
    /// The commit of the source; `unknown` where that was in no repository.
    pub commit: &'static str,
    /// When it was built, RFC 3339 in UTC; `unknown` where the builder's clock told nothing.
    pub built_at: &'static str,
}

/// This one. `build.rs` looks for what the package does not say.
pub const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("SINGLETRACK_BUILD_COMMIT"),
    built_at: env!("SINGLETRACK_BUILD_DATE"),
};
