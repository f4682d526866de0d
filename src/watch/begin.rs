//! Where a reader begins that does not want all of a deployment's events.

use jiff::Timestamp;

use super::wait::{EVENT_PAGE_LIMIT, EVENT_PART, Watch, WatchError};
use crate::model::{DeploymentId, EventBody, ProjectName, bounds};

/// Which of the existing events are wanted. Where both limits are given, the limit that leaves fewer events counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedEvents {
    /// The last so many lines of output, with all other events from the first of these lines on.
    pub tail: Option<usize>,
    /// The events since then. The clock may have jumped: the last event that is older ends the search.
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
    /// Where to begin to read the wanted events of a deployment. The search goes backwards from the end, so the cost
    /// depends on the number of wanted events, and not on the number of all.
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
