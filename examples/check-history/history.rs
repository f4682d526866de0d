//! What is known of a history: what the store holds in the end, and what clients were told on the way.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Everything that is looked at.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What the store holds.
    pub kept: Vec<Kept>,
    /// What clients were told, in no order.
    pub told: Vec<Told>,
}

/// A deployment as the store holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Its project.
    pub project: String,
    /// Its id.
    pub id: String,
    /// The revision at which it was admitted.
    pub ticket: u64,
    /// The revision of its last slot change.
    pub revision: u64,
    /// The status on the wire.
    pub status: String,
    /// Whether it holds the slot.
    pub holds_slot: bool,
    /// The revision at which a worker took it.
    pub fencing_token: Option<u64>,
    /// How many events it says it has.
    pub event_count: u64,
    /// The events that are there.
    pub events: Vec<KeptEvent>,
    /// Whether retention cut some of its output.
    pub is_trimmed: bool,
    /// The key under which it was submitted.
    pub key: Option<String>,
    /// The commit that was asked for: who submits gives each wish one of its own.
    pub commit: Option<String>,
}

/// One of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEvent {
    /// Its number.
    pub seq: u64,
    /// What it is.
    pub kind: String,
    /// The lines, where it is output.
    pub lines: Vec<String>,
}

/// When something was asked and answered, on one monotonic clock of the machine, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// When the request was sent.
    pub sent: u64,
    /// When its answer was there.
    pub answered: u64,
}

/// Something that a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Told {
    /// How a deployment stood.
    Deployment {
        /// When; not known of what a command printed.
        at: Option<Span>,
        /// Its project.
        project: String,
        /// Its id.
        id: String,
        /// The status.
        status: String,
        /// The revision.
        revision: u64,
    },
    /// A submit under a key made this deployment, or found it again.
    Submitted {
        /// The project.
        project: String,
        /// The key, which is the commit, too.
        key: String,
        /// The deployment.
        id: String,
    },
    /// A submit was refused since this deployment held the slot.
    Conflict {
        /// When.
        at: Span,
        /// The project.
        project: String,
        /// Who held the slot.
        holder: String,
    },
    /// A lease was given.
    Leased {
        /// When.
        at: Span,
        /// The project.
        project: String,
        /// The deployment.
        id: String,
        /// The fencing token.
        fencing_token: u64,
    },
    /// A worker called under a lease.
    Called {
        /// When.
        at: Span,
        /// The deployment.
        id: String,
        /// Whether the lease was ever this deployment's.
        is_own: bool,
        /// Whether it was accepted, and not answered with `LEASE_LOST`.
        is_accepted: bool,
    },
    /// A line of output was reported, and the answer was definite.
    Reported {
        /// The deployment.
        id: String,
        /// The line: no two are the same.
        line: String,
        /// Whether it was accepted. One that was not was never sent before either.
        is_accepted: bool,
    },
    /// A reader resumed a stream of events, from whomever, until it was told that this was all.
    Streamed {
        /// The deployment.
        id: String,
        /// Numbers and kinds, as they came.
        events: Vec<(u64, String)>,
    },
}

impl Told {
    /// The facts in a text of one JSON value after the other, each of them one of these or a deployment as it is on the wire.
    /// An error that names no deployment is none.
    pub fn parse(text: &str) -> Result<Vec<Told>, String> {
        let mut facts = Vec::new();
        for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            let value = value.map_err(|error| error.to_string())?;
            if value.get("told").is_some() {
                facts.push(serde_json::from_value(value).map_err(|error| error.to_string())?);
                continue;
            }
            let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
            let (Some(project), Some(id), Some(status)) = (text("project"), text("id"), text("status")) else {
                continue;
            };
            let revision = value.get("revision").and_then(Value::as_u64).ok_or("a deployment without a revision")?;
            facts.push(Told::Deployment { at: None, project, id, status, revision });
        }
        Ok(facts)
    }
}

impl History {
    /// How much it is.
    pub fn summary(&self) -> String {
        let projects: std::collections::BTreeSet<_> = self.kept.iter().map(|kept| &kept.project).collect();
        let started = self.kept.iter().filter(|kept| kept.fencing_token.is_some()).count();
        let events: usize = self.kept.iter().map(|kept| kept.events.len()).sum();
        format!(
            "{} deployments of {} projects ({started} started), {events} events, {} answers",
            self.kept.len(),
            projects.len(),
            self.told.len()
        )
    }
}
