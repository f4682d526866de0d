//! The lessor of a lease, and the meaning of its answers.

use std::time::Duration;

use crate::model::{Report, Verdict};

/// The other side of a lease: it granted the lease, renews it, and records what the worker reports under it. Each
/// method makes one attempt.
pub trait Lessor: Sync {
    /// Renews the lease. If no cancel was asked for, the answer may wait for up to `park` for one. It comes within
    /// `park` and `limit`, or is [`Reply::Unknown`].
    fn heartbeat(&self, park: Duration, limit: Duration) -> impl Future<Output = Reply<Renewed>> + Send;

    /// Records reports; `first` is the number of the first one. Reports that are recorded already are skipped. Returns
    /// the number of the last recorded report.
    fn report(&self, first: u64, reports: &[Report]) -> impl Future<Output = Reply<u64>> + Send;

    /// Records how the work ended. The same verdict again gets the same answer as the first time.
    fn finish(&self, verdict: &Verdict) -> impl Future<Output = Reply<()>> + Send;
}

/// A lessor's answer to a heartbeat, to reports or to an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<T> {
    /// It is done.
    Done(T),
    /// This worker does not hold the lease, or no longer. Everything that runs under the lease must stop, and nothing
    /// more is recorded under it.
    Lost,
    /// Reports are missing. The lessor has those up to this number, and continues from there.
    Gap {
        /// The number of the last report that is recorded.
        last: u64,
    },
    /// Refused, and the same request would be refused again.
    Refused(String),
    /// The disk is full. Drop output, so that phases and the end can be recorded.
    Full,
    /// Unknown whether it was done. The same request may be sent again.
    Unknown(String),
}

/// The answer to a heartbeat that renewed the lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Whether the work is to be cancelled.
    pub is_cancelled: bool,
    /// Why, in the words of the person who cancelled.
    pub reason: Option<String>,
    /// Whether the worker's token was revoked, so that it may do nothing more than end its work.
    pub is_token_revoked: bool,
}

/// The lease is lost: nothing more is recorded under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;
