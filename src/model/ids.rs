//! The names of things: parsed once at the edge, valid ever after.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Why a text is not a valid name, id or key. Reads after "invalid project name: " and the like.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidId {
    /// Not `[A-Za-z0-9][A-Za-z0-9._-]{0,254}`.
    #[error("a project name is 1 to 255 letters, digits, '.', '_' or '-', and begins with a letter or a digit")]
    ProjectName,
    /// Not a UUID.
    #[error("a deployment id is a UUID such as 01998c6e-7d2a-7c35-9a55-0c2f6f0b7a11")]
    DeploymentId,
    /// Neither an id nor a number.
    #[error("a deployment is named by its number, such as 17, #17 or web#17, or by its id")]
    DeploymentName,
    /// Empty, too long or with characters that a header cannot carry.
    #[error("an idempotency key is 1 to 255 visible ASCII characters")]
    IdempotencyKey,
    /// Empty, too long or with other characters.
    #[error("a request id is 1 to 64 letters, digits, '.', '_' or '-'")]
    RequestId,
}

/// A project's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,254}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectName(Arc<str>);

impl ProjectName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut bytes = text.bytes();
        let head = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let tail = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if head && tail && text.len() <= 255 { Ok(ProjectName(text.into())) } else { Err(InvalidId::ProjectName) }
    }
}

impl TryFrom<String> for ProjectName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ProjectName> for String {
    fn from(name: ProjectName) -> String {
        name.as_str().to_owned()
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A deployment's id: a version 7 UUID, so that ids made later sort later on one machine. Order is never read from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeploymentId(Uuid);

impl DeploymentId {
    /// A new id, unlike any other.
    pub fn generate() -> Self {
        DeploymentId(Uuid::now_v7())
    }

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        DeploymentId(Uuid::from_bytes(bytes))
    }

    /// The id's bytes, as stores keep them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl FromStr for DeploymentId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Only the hyphenated form in lower case: one deployment has one URL.
        match Uuid::try_parse(text) {
            Ok(id) if text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase()) => Ok(DeploymentId(id)),
            Ok(_) | Err(_) => Err(InvalidId::DeploymentId),
        }
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The client's own name for one submit: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(IdempotencyKey(text.into())) } else { Err(InvalidId::IdempotencyKey) }
    }
}

/// A number that grows by one with each change of a project's slot: it orders the project's history, the tickets of its
/// line and the fencing tokens of its leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
