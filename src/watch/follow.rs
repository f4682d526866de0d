//! Following one deployment's events.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Subscription, Topic, Watch, WatchError,
    shared::{EventPage, SharedRead},
};
use crate::model::{Deployment, DeploymentId, ProjectName};

/// The shortest time between two reads of output, because nobody reads faster than that.
const REST: Duration = Duration::from_millis(25);
/// How much longer that time is for each follower, so that a crowd is told of a flood at most 2,500 times a second in
/// all.
const REST_OF_EACH: Duration = Duration::from_micros(400);
/// The longest that output waits for more of it, however many follow.
const REST_LIMIT: Duration = Duration::from_secs(1);

/// Follows one deployment's events: each exactly once and in order.
pub struct Follow {
    watch: Watch,
    project: ProjectName,
    id: DeploymentId,
    cursor: u64,
    /// Events that must be told at once.
    history: Subscription,
    /// Output, which may wait for more output.
    output: Subscription,
    /// The cell that is shared by all readers of the last wake-up; `None` before the first wake-up.
    woken: Option<SharedRead>,
    /// Whether everything was read that was there at the last wake-up.
    is_drained: bool,
    /// Until when output waits for more output. No output wakes this reader until then.
    rests_until: Option<Instant>,
    /// Ends the wait for more.
    wait_end: CancellationToken,
}

impl Watch {
    /// Follows the events after `after`. Answers the deployment as it stands at the beginning, too.
    ///
    /// # Errors
    /// There is no such deployment, the cursor is ahead of its end, or the store does not answer.
    pub async fn follow(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        after: u64,
    ) -> Result<(Follow, Deployment), WatchError> {
        let follow = Follow::new(self.clone(), project.clone(), id, after);
        let deployment = self.read(project, id).await?.deployment;
        let last = deployment.event_count;
        if after > last {
            return Err(WatchError::AheadOfEnd { last });
        }
        Ok((follow, deployment))
    }
}

impl Follow {
    /// Follows the events after `cursor`. Read the deployment after this, never before.
    pub(super) fn new(watch: Watch, project: ProjectName, id: DeploymentId, cursor: u64) -> Self {
        Follow {
            history: watch.notifier.subscribe(Topic::History(id)),
            output: watch.notifier.subscribe(Topic::Output(id)),
            wait_end: watch.wait_end().clone(),
            watch,
            project,
            id,
            cursor,
            woken: None,
            is_drained: false,
            rests_until: None,
        }
    }

    /// The next events, at least one; waits for it. When the server drains or ends the page is empty. A call that is dropped halfway loses
    /// nothing: the next one begins where the last that answered ended.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn next_page(&mut self) -> Result<Arc<EventPage>, WatchError> {
        loop {
            // Boxed, so that whoever waits does not keep the room for a look.
            if let Some(page) = Box::pin(self.look()).await? {
                return Ok(page);
            }
            let is_resting = self.rests_until.is_some();
            tokio::select! {
                biased;
                () = self.wait_end.cancelled() => return Ok(Arc::new(EventPage::empty(self.cursor))),
                shared = self.history.changed() => self.woken_by(shared),
                () = sleep_until(self.rests_until.unwrap_or_else(Instant::now)), if is_resting => self.rested(),
                shared = self.output.changed(), if !is_resting => self.woken_by(shared),
            }
        }
    }

    fn rested(&mut self) {
        self.rests_until = None;
        if self.output.has_changed() {
            let shared = self.output.latest();
            self.woken_by(shared);
        }
    }

    fn woken_by(&mut self, shared: SharedRead) {
        self.woken = Some(shared);
        self.is_drained = false;
    }

    /// The next events, if there are any that were not read since the last wake-up. Later events wake the topic again
    /// after their commit, so a page that was not full needs no second look.
    pub(super) async fn look(&mut self) -> Result<Option<Arc<EventPage>>, WatchError> {
        if self.is_drained {
            return Ok(None);
        }
        let read = self.watch.read_page(&self.project, self.id, self.cursor);
        let page = match &self.woken {
            // The page is read after the wake-up, by one reader for all readers at the same cursor.
            Some(shared) => shared.page(self.cursor, read).await?,
            None => Arc::new(read.await?),
        };
        self.is_drained = !page.goes_on;
        if page.events.is_empty() {
            return Ok(None);
        }
        // A flood of output is read at intervals: the output of one interval is sent to each reader at once.
        let is_output = page.events.iter().all(|event| event.body.is_log());
        let reader_count = self.woken.as_ref().map_or(1, |shared| shared.reader_count);
        self.rests_until = is_output.then(|| Instant::now() + rest(reader_count));
        // Only now, because nothing may drop this future between the cursor's move and the events' arrival.
        self.cursor = page.last;
        Ok(Some(page))
    }
}

/// How long output waits for more output, with this many followers.
fn rest(reader_count: usize) -> Duration {
    let count = u32::try_from(reader_count).unwrap_or(u32::MAX);
    REST_OF_EACH.saturating_mul(count).clamp(REST, REST_LIMIT)
}
