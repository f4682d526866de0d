//! A connection as it was made, and what of it lasts until it is closed.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, Client,
    error::{DbError, Severity, SqlState},
};

use super::{facts::Facts, fault::DatabaseFault};

/// How long to wait until a connection that is being closed is gone.
const ROOM_LIMIT: Duration = Duration::from_secs(5);

/// Room for a connection of the pool, until the connection opened in it is closed.
pub(super) type Room = Arc<OwnedSemaphorePermit>;

/// A connection to a usable database.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) facts: Facts,
    pub(super) wire: Arc<Wire>,
}

/// The state of a connection for as long as it is open, even after its client was dropped.
pub(super) struct Wire {
    /// Whether a commit was answered, or is about to be lost, that no standby is known to have.
    is_warned: AtomicBool,
    _room: Option<Room>,
    /// The permits to write. They are fewer than the connections, because some connections must never wait for a
    /// standby.
    writes: Arc<Semaphore>,
    writing: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Wire {
    /// Of a connection with this room, that may write with this permit, or with one of `writes`.
    pub(super) fn new(
        room: Option<Room>,
        writes: Arc<Semaphore>,
        writing: Mutex<Option<OwnedSemaphorePermit>>,
    ) -> Self {
        Wire { is_warned: AtomicBool::new(false), _room: room, writes, writing }
    }

    /// Whether the database has warned, since the last call, that a commit is not replicated as its settings demand.
    pub(super) fn take_warning(&self) -> bool {
        self.is_warned.swap(false, Ordering::Relaxed)
    }

    /// Waits until one more connection may write, unless this one may already.
    pub(super) async fn begin_writing(&self) -> Result<(), DatabaseFault> {
        if self.writing().is_none() {
            self.may_write(one_of(&self.writes).await?);
        }
        Ok(())
    }

    /// Lets this connection write, with a permit that was waited for before there was a connection.
    pub(super) fn may_write(&self, leave: OwnedSemaphorePermit) {
        *self.writing() = Some(leave);
    }

    /// Returns the permit: the database has answered, so nothing waits for a standby any more.
    pub(super) fn end_writing(&self) {
        *self.writing() = None;
    }

    fn writing(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hear(&self, message: &AsyncMessage) {
        if let AsyncMessage::Notice(notice) = message
            && is_unreplicated(notice)
        {
            self.is_warned.store(true, Ordering::Relaxed);
            // The code that commits reports it if it matters; an immediate shutdown brings the same warning.
            tracing::debug!(notice = notice.message(), "the database warns");
        }
    }
}

/// Waits for a permit, within a limit.
pub(super) async fn one_of(room: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, DatabaseFault> {
    let taken = timeout(ROOM_LIMIT, room.clone().acquire_owned()).await;
    // It is never closed.
    taken.ok().and_then(Result::ok).ok_or(DatabaseFault::Exhausted)
}

/// Whether a commit that waits for its standby was told to stop waiting. The message is in the database's language, but
/// the codes are not. No statement of ours brings a warning of these codes otherwise.
fn is_unreplicated(notice: &DbError) -> bool {
    let codes = [SqlState::WARNING, SqlState::ADMIN_SHUTDOWN];
    notice.parsed_severity() == Some(Severity::Warning) && codes.contains(notice.code())
}
