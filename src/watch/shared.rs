//! The reads of waiters that were woken together: the first of them reads the store for all, so that ten thousand polls
//! on one deployment, or a thousand streams of it, cost one read.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::model::{Deployment, Event};

/// A page with more output than this, plus `KEPT_PAGE_BYTES_LIMIT_EACH` for each reader that was woken, is kept only by
/// the readers that have it, and not for readers that come later.
const KEPT_PAGE_BYTES_LIMIT: u64 = 64 << 10;
/// With many readers, a flood's output is told less often, and so in larger pages: this much more is kept for each
/// reader.
const KEPT_PAGE_BYTES_LIMIT_EACH: u64 = 1 << 10;
/// From how many cursors pages are kept, because most followers of a history are at the same cursor.
const KEPT_PAGES_LIMIT: usize = 4;

/// Some events in order.
#[derive(Debug, Default)]
pub struct EventPage {
    /// The events; empty when there were none.
    pub events: Vec<Event>,
    /// The cursor after them.
    pub last: u64,
    /// The final deployment, when the last event is `complete`, or `complete` was seen before.
    pub complete: Option<Arc<Deployment>>,
    /// Whether more events may be there already.
    pub goes_on: bool,
    /// The bytes to send, encoded by the first reader that needs them, for all readers of the page.
    pub encoded: OnceLock<Bytes>,
    /// The same for readers of a screen.
    pub encoded_rows: OnceLock<Bytes>,
}

impl EventPage {
    /// No events.
    pub fn empty(last: u64) -> Self {
        EventPage { last, ..EventPage::default() }
    }
}

/// A deployment as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The deployment.
    pub deployment: Deployment,
    /// How many are served before it, itself included; 0 when it does not wait.
    pub position: u64,
    /// The bytes to send, encoded by the first reader that needs them, for all that have read it together.
    pub encoded: OnceLock<Bytes>,
}

impl Seen {
    /// A deployment that nobody has sent yet.
    pub fn new(deployment: Deployment, position: u64) -> Self {
        Seen { deployment, position, encoded: OnceLock::new() }
    }
}

/// The reads of waiters that were woken together, each part once.
#[derive(Debug, Default)]
pub struct Shared {
    /// How many waiters were woken together.
    pub reader_count: usize,
    /// The deployment as the commit that woke the topic left it, where that is known and the deployment does not stand
    /// in line. It was true at that moment, so it may be told at once where it meets a waiter's condition; where it
    /// does not, the store is read.
    pub committed: Option<Arc<Seen>>,
    /// The deployment, where the topic is its state: empty until the first waiter has read it.
    pub deployment: OnceCell<Option<Arc<Seen>>>,
    /// The pages of its history, by the cursor before them.
    pages: Mutex<Vec<KeptPage>>,
}

/// A page, once it is read, and the cursor before it.
type KeptPage = (u64, Arc<OnceCell<Arc<EventPage>>>);

/// The reads that the waiters of one wake-up share.
pub type SharedRead = Arc<Shared>;

impl Shared {
    /// Nothing is read yet.
    pub(super) fn of(reader_count: usize, committed: Option<Arc<Seen>>) -> Self {
        Shared { reader_count, committed, ..Shared::default() }
    }

    /// The page after this cursor; the first caller reads it.
    ///
    /// # Errors
    /// The error of `read`; then the next caller tries.
    pub async fn page<E>(
        &self,
        after: u64,
        read: impl Future<Output = Result<EventPage, E>>,
    ) -> Result<Arc<EventPage>, E> {
        let cell = {
            let mut pages = self.pages();
            match pages.iter().find(|(cursor, _)| *cursor == after) {
                Some((_, cell)) => cell.clone(),
                None => {
                    let cell = Arc::default();
                    if pages.len() < KEPT_PAGES_LIMIT {
                        pages.push((after, Arc::clone(&cell)));
                    }
                    cell
                }
            }
        };
        let page = cell.get_or_try_init(|| async { read.await.map(Arc::new) }).await?.clone();
        let reader_count = u64::try_from(self.reader_count).unwrap_or(0);
        let limit = KEPT_PAGE_BYTES_LIMIT + reader_count * KEPT_PAGE_BYTES_LIMIT_EACH;
        if page.events.iter().map(|event| event.body.log_bytes()).sum::<u64>() > limit {
            self.pages().retain(|(cursor, _)| *cursor != after);
        }
        Ok(page)
    }

    fn pages(&self) -> MutexGuard<'_, Vec<KeptPage>> {
        // Every change of it is one call, so a panic leaves it whole.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use jiff::Timestamp;

    use super::*;
    use crate::model::{EventBody, Stream};

    /// Reads a page that holds this much output, by `reader_count` readers that are woken together at each of these
    /// cursors; answers how often it was read.
    async fn reads(cursors: &[u64], reader_count: usize, line: &str) -> usize {
        let (shared, read_count) = (Shared::default(), AtomicUsize::new(0));
        for _ in 0..reader_count {
            for after in cursors {
                let read = async {
                    read_count.fetch_add(1, Ordering::SeqCst);
                    let body = EventBody::Log { stream: Stream::Stdout, phase: None, lines: vec![line.to_owned()] };
                    let events = vec![Event { seq: after + 1, at: Timestamp::UNIX_EPOCH, body }];
                    Ok::<_, Infallible>(EventPage { events, ..EventPage::empty(after + 1) })
                };
                let page = shared.page(*after, read).await.expect("it cannot fail");
                assert_eq!(page.last, after + 1);
            }
        }
        read_count.into_inner()
    }

    #[tokio::test]
    async fn those_who_are_woken_at_the_same_place_read_once() {
        assert_eq!(reads(&[7], 1000, "short").await, 1);
        assert_eq!(reads(&[7, 9], 1000, "short").await, 2);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let long = "x".repeat(65 << 10);
        assert_eq!(reads(&[7], 10, &long).await, 10, "much output is not kept");
        let scattered: Vec<u64> = (0..20).collect();
        assert_eq!(reads(&scattered, 2, "short").await, 4 + 2 * 16, "few places are kept");
    }

    #[tokio::test]
    async fn a_read_that_fails_is_tried_by_the_next_one() {
        let shared = Shared::default();
        assert_eq!(shared.page(0, async { Err::<EventPage, _>("no") }).await.expect_err("it failed"), "no");
        assert!(shared.page(0, async { Ok::<_, &str>(EventPage::empty(0)) }).await.is_ok());
    }
}
