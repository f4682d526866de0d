//! A deployment's events as the wire shows them, the same over SSE and long-poll.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{deployment::Deployment, time};
use crate::model::{self, EventBody};

/// One event: `{seq, at, type, …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the deployment's history, from 1 without a gap.
    pub seq: u64,
    /// When it was recorded.
    #[serde(with = "time")]
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub data: EventData,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventData {
    /// The last event: the whole final deployment beside `type`.
    Complete {
        /// Always `complete`.
        r#type: CompleteTag,
        /// The final deployment.
        #[serde(flatten)]
        deployment: Box<Deployment>,
    },
    /// Everything else.
    Other(EventBody),
}

/// The tag of the last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompleteTag {
    /// `complete`.
    #[serde(rename = "complete")]
    Complete,
}

/// An answer of the events' long-poll.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventsPage {
    /// The events after the cursor; none when the window ended.
    pub events: Vec<Event>,
    /// The cursor for the next call.
    pub last: u64,
    /// Whether there will be no more.
    pub r#final: bool,
}

impl Event {
    /// The wire's form of `event`; `complete` needs the deployment as it `ended`.
    pub fn of(event: model::Event, ended: Option<Deployment>) -> Option<Self> {
        let data = match event.body {
            EventBody::Complete => EventData::Complete { r#type: CompleteTag::Complete, deployment: Box::new(ended?) },
            body => EventData::Other(body),
        };
        Some(Event { seq: event.seq, at: event.at, data })
    }

    /// The name of the event, as SSE carries it.
    pub fn name(&self) -> &'static str {
        match &self.data {
            EventData::Complete { .. } => "complete",
            EventData::Other(body) => body.kind(),
        }
    }
}
