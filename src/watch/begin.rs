//! Where a reader of a deployment's events begins that does not want all of them.

use jiff::Timestamp;

use super::wait::{EVENT_PAGE_LIMIT, EVENT_PART, Watch, WatchError};
use crate::model::{DeploymentId, EventBody, ProjectName, bounds};

/// Which of the events that are there already are wanted. Of both limits, the one that leaves fewer counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedEvents {
    /// The last so many lines of output, with what happened from the first of them on.
    pub tail: Option<usize>,
    /// What happened since then. The clock may have jumped: the last event that is older ends the search.
    pub since: Option<Timestamp>,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartingPoint {
    /// After this event.
    pub after: u64,
    /// How many lines of the first event are not wanted.
    pub skipped_lines: usize,
}

impl Watch {
    /// Where to begin to read what is wanted of a deployment's events. Looks backwards from the end, so the cost depends on
    /// what is wanted, and not on how much there is.
    ///
    /// # Errors
    /// There is no such deployment, or the store does not answer.
    pub async fn begin(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        wanted: WantedEvents,
    ) -> Result<StartingPoint, WatchError> {
        let last = self.read(project, id).await?.deployment.event_count;
        if wanted.tail == Some(0) {
            return Ok(StartingPoint { after: last, skipped_lines: 0 });
        }
        let (mut before, mut line_count) = (last + 1, 0);
        // In parts, since one event may be as large as a thousand others.
        let mut part = EVENT_PART;
        loop {
            let events = self.store.events_before(id, before, part).await?;
            for event in &events {
                if wanted.since.is_some_and(|since| event.at < since) {
                    return Ok(StartingPoint { after: event.seq, skipped_lines: 0 });
                }
                if let (Some(tail), EventBody::Log { lines, .. }) = (wanted.tail, &event.body) {
                    line_count += lines.len();
                    if line_count >= tail {
                        return Ok(StartingPoint { after: event.seq - 1, skipped_lines: line_count - tail });
                    }
                }
            }
            let Some(first) = events.last().filter(|_| events.len() == part) else {
                return Ok(StartingPoint::default());
            };
            before = first.seq;
            let bytes = events.iter().map(|event| event.body.size()).sum::<usize>();
            part = (bounds::PAGE_BYTES / (bytes / events.len()).max(1)).clamp(1, EVENT_PAGE_LIMIT);
        }
    }
}
