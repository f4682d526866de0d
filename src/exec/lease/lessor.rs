//! Whom a worker answers to, and what an answer means.

use std::time::Duration;

use crate::model::{Report, Verdict};

/// The other side of a lease: who granted it, renews it, and takes what is told under it. Each method makes one attempt.
pub trait Lessor: Sync {
    /// Renews the lease. Where nobody wants the work stopped, the answer may wait for up to `park` for somebody who does;
    /// it comes within `park` and `limit`, or is [`Reply::Unknown`].
    fn heartbeat(&self, park: Duration, limit: Duration) -> impl Future<Output = Reply<Renewed>> + Send;

    /// Records reports, the first of which has this number; those that are recorded already are skipped. Answers the number
    /// of the last one that is recorded.
    fn report(&self, first: u64, reports: &[Report]) -> impl Future<Output = Reply<u64>> + Send;

    /// Records how the work ended. The same verdict again is answered as the first was.
    fn finish(&self, verdict: &Verdict) -> impl Future<Output = Reply<()>> + Send;
}

/// What a lessor says to a heartbeat, to reports or to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<T> {
    /// It is done.
    Done(T),
    /// The lease is not, or no longer, this worker's: what runs under it must stop, and nothing that is told counts.
    Lost,
    /// Reports are missing: the lessor knows them up to this number, and goes on from there.
    Gap {
        /// The number of the last report that is recorded.
        last: u64,
    },
    /// No, and the same would be refused again.
    Refused(String),
    /// The disk is full. Output gives way, so that phases and the end can be recorded.
    Full,
    /// Nobody knows whether it is done. The same may be sent again.
    Unknown(String),
}

/// A lease that was renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Whether somebody wants the work stopped.
    pub is_cancelled: bool,
    /// Why, in the canceller's words.
    pub reason: Option<String>,
}

/// The lease is lost: nothing that is told under it counts any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;
