//! The mark of a project: a deployment with a lower build number does not start, unless it is a declared rollback. Each
//! ordinary start moves the mark up; an administrator may set it, higher or lower, or remove it. See decision 0081.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    hold::{instant, who},
    identity::Party,
    mention::Mention,
};

/// The build number of a deployment that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartedOrder {
    /// The build number.
    pub order: u64,
    /// The deployment.
    pub deployment: Mention,
}

/// A mark that somebody set, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetMark {
    /// The build number.
    pub order: u64,
    /// When it was set.
    #[serde(serialize_with = "instant")]
    pub at: Timestamp,
    /// Who set it.
    pub by: Party,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The mark, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildMark {
    /// The deployment with the highest build number that was started.
    Started(StartedOrder),
    /// Somebody set it.
    Set(SetMark),
}

impl BuildMark {
    /// The build number.
    pub fn order(&self) -> u64 {
        match self {
            BuildMark::Started(started) => started.order,
            BuildMark::Set(set) => set.order,
        }
    }
}

/// `build 42, which web#17 started`, `42, the mark that anna (token ops) set: 40 and 41 lose data`.
impl fmt::Display for BuildMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildMark::Started(StartedOrder { order, deployment }) => {
                write!(f, "build {order}, which {deployment} started")
            }
            BuildMark::Set(SetMark { order, by, reason, .. }) => {
                let who = who(Some(&by.identity.to_string()), by.actor.as_deref());
                write!(f, "build {order}, the mark that {} set", who.unwrap_or_else(|| "somebody".to_owned()))?;
                match reason {
                    Some(reason) => write!(f, ": {reason}"),
                    None => Ok(()),
                }
            }
        }
    }
}
