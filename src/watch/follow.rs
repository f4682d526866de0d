//! Following one deployment's events.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Subscription, Topic, Watch, WatchError,
    shared::{Page, SharedRead},
    shift::Shift,
};
use crate::model::{DeploymentId, ProjectName};

/// Follows one deployment's events: each exactly once and in order.
pub struct Follow {
    watch: Watch,
    project: ProjectName,
    id: DeploymentId,
    cursor: u64,
    /// What must be told at once.
    history: Subscription,
    /// Output, which may wait for more of it.
    output: Subscription,
    /// When those who follow with us are told of output.
    shift: Shift,
    /// What is shared with those who were woken with us last; nobody has woken us yet where there is none.
    woken: Option<SharedRead>,
    /// Whether everything was read that was there when we were woken last.
    is_drained: bool,
    /// Until when output waits for more of it. Nothing of it wakes us until then.
    rests_until: Option<Instant>,
    /// Whether we have heard of output that is looked for after the rest: what others have read meanwhile, woken by something
    /// else, may be older than it.
    has_output: bool,
    /// What ends the wait for more.
    wait_end: CancellationToken,
}

impl Follow {
    /// Follows what comes after `cursor`. Read the deployment after this, never before.
    pub(super) fn new(watch: Watch, project: ProjectName, id: DeploymentId, cursor: u64) -> Self {
        Follow {
            history: watch.notifier.subscribe(Topic::History(id)),
            output: watch.notifier.subscribe(Topic::Output(id)),
            shift: watch.shifts.next(),
            wait_end: watch.wait_end().clone(),
            watch,
            project,
            id,
            cursor,
            woken: None,
            is_drained: false,
            rests_until: None,
            has_output: false,
        }
    }

    /// The next events, at least one; waits for it. When the server drains or ends the page is empty. A call that is dropped halfway loses
    /// nothing: the next one begins where the last that answered ended.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn next_page(&mut self) -> Result<Arc<Page>, WatchError> {
        loop {
            if let Some(page) = self.look().await? {
                return Ok(page);
            }
            let is_resting = self.rests_until.is_some();
            tokio::select! {
                biased;
                () = self.wait_end.cancelled() => return Ok(Arc::new(Page::empty(self.cursor))),
                shared = self.history.changed() => self.woken_by(shared),
                () = sleep_until(self.rests_until.unwrap_or_else(Instant::now)), if is_resting => self.rested(),
                shared = self.output.changed(), if !is_resting => self.hear_output(shared),
            }
        }
    }

    /// A flood of output is read in sips: what comes within one is sent to each reader at once.
    fn hear_output(&mut self, shared: SharedRead) {
        match self.shift.begins(shared.reader_count, Instant::now()) {
            Some(at) => (self.rests_until, self.has_output) = (Some(at), true),
            None => self.woken_by(shared),
        }
    }

    fn rested(&mut self) {
        self.rests_until = None;
        if std::mem::take(&mut self.has_output) || self.output.has_changed() {
            let shared = self.output.latest();
            self.woken_by(shared);
        }
    }

    fn woken_by(&mut self, shared: SharedRead) {
        self.woken = Some(shared);
        self.is_drained = false;
    }

    /// The next events, if there are any that were not looked for since the last wake-up. What follows them stirs the topic
    /// again after its commit, so a page that was not full need not be followed by another look.
    pub(super) async fn look(&mut self) -> Result<Option<Arc<Page>>, WatchError> {
        if self.is_drained {
            return Ok(None);
        }
        let read = self.watch.read_page(&self.project, self.id, self.cursor);
        let page = match &self.woken {
            // It is read after the wake-up, by one of us for all who are at the same place.
            Some(shared) => shared.page(self.cursor, read).await?,
            None => Arc::new(read.await?),
        };
        self.is_drained = !page.goes_on;
        if page.events.is_empty() {
            return Ok(None);
        }
        let reader_count = self.woken.as_ref().map_or(1, |shared| shared.reader_count);
        let is_output = page.events.iter().all(|event| event.body.is_log());
        if is_output {
            self.rests_until = Some(self.shift.next(reader_count, Instant::now()));
        } else if !self.has_output {
            self.rests_until = None;
        }
        // Only now: nobody may drop this between the cursor's move and the events' arrival.
        self.cursor = page.last;
        Ok(Some(page))
    }
}
