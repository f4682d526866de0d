//! Notifications: what is told to targets outside, and by which rules. See decision 0086.
//!
//! A notification names what happened, and carries no text of a deployment: the message is made from the deployment when it
//! is sent. So nothing has to be taken out of the outbox when a deployment is redacted.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    glob::Glob,
    ids::{DeploymentId, ProjectName},
};

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NotificationEvent {
    /// A worker took a deployment.
    Started,
    /// A deployment succeeded.
    Succeeded,
    /// A deployment failed.
    Failed,
    /// A newer deployment took a deployment's place.
    Superseded,
    /// A deployment was cancelled, was given up by its client, or left the line at its deadline.
    Cancelled,
    /// An operator forced the slot free.
    Released,
    /// A deployment waits longer than the rule's `waits_longer_than`.
    Waiting,
    /// A project was paused, or its pause changed.
    Paused,
    /// The pause of a project ended.
    Resumed,
}

impl NotificationEvent {
    /// All of them.
    pub const ALL: [NotificationEvent; 9] = [
        NotificationEvent::Started,
        NotificationEvent::Succeeded,
        NotificationEvent::Failed,
        NotificationEvent::Superseded,
        NotificationEvent::Cancelled,
        NotificationEvent::Released,
        NotificationEvent::Waiting,
        NotificationEvent::Paused,
        NotificationEvent::Resumed,
    ];

    /// The word for it, in the configuration, in the stores and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            NotificationEvent::Started => "started",
            NotificationEvent::Succeeded => "succeeded",
            NotificationEvent::Failed => "failed",
            NotificationEvent::Superseded => "superseded",
            NotificationEvent::Cancelled => "cancelled",
            NotificationEvent::Released => "released",
            NotificationEvent::Waiting => "waiting",
            NotificationEvent::Paused => "paused",
            NotificationEvent::Resumed => "resumed",
        }
    }

    /// Reads the word.
    pub fn of(word: &str) -> Option<Self> {
        NotificationEvent::ALL.into_iter().find(|event| event.as_str() == word)
    }

    /// Whether it is about a project and no deployment.
    pub fn is_of_project(self) -> bool {
        matches!(self, NotificationEvent::Paused | NotificationEvent::Resumed)
    }
}

/// Which changes a target is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationRule {
    /// Its name.
    pub name: Arc<str>,
    /// Of these projects.
    pub projects: Vec<Glob>,
    /// Of these events.
    pub events: BTreeSet<NotificationEvent>,
    /// From when on a deployment that has not started is told of as waiting.
    pub waits_longer_than: Option<Duration>,
    /// Whether only deployments that started are told of.
    pub only_started: bool,
}

/// By what a receiver tells a notification that it has already from a new one. The same for every attempt to send it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotificationId(Arc<str>);

/// How many hexadecimal digits an id has.
const ID_LENGTH: usize = 32;

impl NotificationId {
    /// The id, if the text is one.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == ID_LENGTH && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
        fits.then(|| NotificationId(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of what a rule tells of an event of a deployment, or of the project's slot at this revision.
    pub(super) fn of(rule: &str, event: NotificationEvent, project: &ProjectName, about: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in [rule.as_bytes(), event.as_str().as_bytes(), project.as_str().as_bytes(), about] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        NotificationId(HEXLOWER.encode(&hash.finalize()[..ID_LENGTH / 2]).into())
    }
}

impl fmt::Display for NotificationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A notification to be recorded with the changes that it tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotification {
    /// Its id.
    pub id: NotificationId,
    /// The name of its rule.
    pub rule: Arc<str>,
    /// What happened.
    pub event: NotificationEvent,
    /// To which deployment; `None` for what happened to the project.
    pub deployment: Option<DeploymentId>,
    /// About a pause: [`PauseDetail`] as JSON.
    pub detail: Option<String>,
    /// When it happened.
    pub at: Timestamp,
    /// From when on it may be sent, counted from the commit.
    pub delay: Duration,
}

impl NewNotification {
    /// What is sent in the order in which it was recorded: the notifications of one rule about one deployment, or about one
    /// project's pauses. A deployment that waits too long is told of by itself, because that is recorded long before.
    pub fn lane(&self) -> String {
        match (self.event, self.deployment) {
            (NotificationEvent::Waiting, Some(id)) => format!("waiting {id}"),
            (_, Some(id)) => id.to_string(),
            (_, None) => "pauses".to_owned(),
        }
    }
}

/// What is told of a pause, or of its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseDetail {
    /// Who set or ended it, as the server knows it; `None` where its end came by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The person that the caller named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its end, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}
