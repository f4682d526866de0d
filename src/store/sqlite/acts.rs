//! Administrative writes on the writer's connection: each in a transaction of its own, between two batches.
//!
//! A decision about a slot goes by [`transact`](crate::store::Store::transact) and shares its commit. Everything else
//! that is written (a token, a pruned deployment) is an act. Between two batches, one act is carried out at most, so
//! whoever sends many does not hold up the decisions. An act must stay small: some ms, not more.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::store::StoreError;

/// An act, and the caller that waits for it.
pub(super) trait Act: Send {
    /// Writes. Called again after everything that it wrote was taken back, where the disk was full.
    fn write(&mut self, db: &Connection) -> rusqlite::Result<()>;

    /// Answers the caller: the commit is durable, or nothing is left of the act.
    fn answer(self: Box<Self>, result: Result<(), StoreError>);
}

/// How an act ended before its commit.
pub(super) enum ActEnd {
    /// It may be committed.
    Done,
    /// Take back what it wrote.
    Failed(rusqlite::Error),
    /// Take back what it wrote; the mistake is in the act.
    Panicked,
}

/// Carries an act out, without a commit.
pub(super) fn write(act: &mut dyn Act, db: &Connection) -> ActEnd {
    match catch_unwind(AssertUnwindSafe(|| act.write(db))) {
        Ok(Ok(())) => ActEnd::Done,
        Ok(Err(error)) => ActEnd::Failed(error),
        Err(_) => ActEnd::Panicked,
    }
}

struct AwaitedAct<T, W> {
    write: W,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Act for AwaitedAct<T, W>
where
    T: Send,
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn write(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.value = Some((self.write)(db)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), StoreError>) {
        let AwaitedAct { value, answer, .. } = *self;
        let unanswered = || StoreError::Unavailable("the act was not carried out".to_owned());
        // The caller may be gone; what was committed stays.
        let _ = answer.send(result.and_then(|()| value.ok_or_else(unanswered)));
    }
}

/// An act that answers the value of `write`.
pub(super) fn act<T, W>(write: W) -> (Box<dyn Act>, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    (Box::new(AwaitedAct { write, value: None, answer }), answered)
}
