//! Refused attempts on their way to the audit log: counted in memory by kind, and written in the background, so many lines
//! a day and no more. See decision 0076.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::Method;
use jiff::Timestamp;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    health::{Pulse, Task},
    model::{Identity, ProjectName, RequestId},
    queue::Queue,
    store::{NewAuditLine, Store},
    wire::ErrorCode,
};

/// Whether a refusal with this code goes into the audit log: somebody tried what the rules keep from them.
pub fn is_worth_knowing(code: ErrorCode) -> bool {
    matches!(code.status(), 401 | 403 | 429) || code == ErrorCode::HolderAlive
}

/// The project that a path is about.
pub fn project_in(path: &str) -> Option<ProjectName> {
    path.strip_prefix("/v1/projects/")?.split('/').next()?.parse().ok()
}

/// What a request asks for: its route, and not its path, which its sender chooses.
pub fn what(method: &Method, route: &str) -> String {
    format!("{method} {route}")
}

/// How many kinds are told apart in memory. Attempts of further kinds are counted together.
const KINDS_LIMIT: usize = 256;
/// How many lines may be written at once, and how often one more may be. Lines of the audit log stay for ever: under an
/// attack that goes on for two years, this makes 210,000 of them.
const LINES_LIMIT: u32 = 60;
const LINE_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How many lines one flush writes.
const FLUSH_LIMIT: usize = 10;
/// How the task that writes is supervised.
pub const TASK: Task = Task::new("refusals", Duration::from_secs(60));
/// How long attempts are gathered before they are written.
const GATHER: Duration = Duration::from_secs(10);

/// Attempts that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RefusalKind {
    /// Why it was refused; `None` for several reasons.
    code: Option<ErrorCode>,
    caller: Option<Arc<Identity>>,
    address: Option<IpAddr>,
    project: Option<ProjectName>,
}

/// The kind of all attempts that are not told apart.
const OTHERS: RefusalKind = RefusalKind { code: None, caller: None, address: None, project: None };

/// A refused attempt.
#[derive(Clone, Debug)]
pub struct RefusedAttempt {
    /// When.
    pub at: Timestamp,
    /// Why it was refused.
    pub code: ErrorCode,
    /// Whose it was, if that is known.
    pub caller: Option<Arc<Identity>>,
    /// From where.
    pub address: Option<IpAddr>,
    /// On which project.
    pub project: Option<ProjectName>,
    /// What was asked for: a method and a path.
    pub what: String,
    /// With which request.
    pub request: RequestId,
}

#[derive(Debug)]
struct RefusalTally {
    count: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    what: String,
    request: RequestId,
}

/// The attempts that are not written yet.
#[derive(Debug, Default)]
pub struct RefusalLog {
    pending: Mutex<PendingRefusals>,
    has_some: Notify,
}

#[derive(Debug)]
struct PendingRefusals {
    by_kind: HashMap<RefusalKind, RefusalTally>,
    lines_left: u32,
    counted_at: Instant,
}

impl Default for PendingRefusals {
    fn default() -> Self {
        PendingRefusals { by_kind: HashMap::new(), lines_left: LINES_LIMIT, counted_at: Instant::now() }
    }
}

impl RefusalLog {
    /// Counts an attempt.
    pub fn note(&self, attempt: RefusedAttempt) {
        let RefusedAttempt { at, code, caller, address, project, what, request } = attempt;
        let kind = RefusalKind { code: Some(code), caller, address, project };
        self.pending().add(kind, RefusalTally { count: 1, first_at: at, last_at: at, what, request });
        self.has_some.notify_one();
    }

    /// Writes what is counted, within the limits. What cannot be written now stays counted.
    pub async fn flush(&self, store: &Arc<dyn Store>, now: Timestamp) {
        let taken = self.pending().take(Instant::now());
        if taken.is_empty() {
            return;
        }
        let lines = taken.iter().map(|(kind, tally)| line(kind, tally, now)).collect();
        if let Err(error) = store.audit().append(lines).await {
            tracing::warn!(%error, "refused attempts could not be written into the audit log; trying again");
            let mut pending = self.pending();
            pending.lines_left += u32::try_from(taken.len()).unwrap_or(u32::MAX);
            taken.into_iter().for_each(|(kind, tally)| pending.add(kind, tally));
        }
    }

    /// Writes now and then, until `shutdown`.
    pub async fn write(self: Arc<Self>, queue: Queue, pulse: Pulse, shutdown: CancellationToken) {
        loop {
            let is_empty = self.pending().by_kind.is_empty();
            let next = async {
                tokio::select! {
                    () = self.has_some.notified(), if is_empty => {}
                    // What is left had no line.
                    () = sleep(LINE_PAUSE), if !is_empty => {}
                }
                sleep(GATHER).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = pulse.resting(next) => {}
            }
            self.flush(queue.store(), queue.clock().wall()).await;
            pulse.done();
        }
    }

    fn pending(&self) -> MutexGuard<'_, PendingRefusals> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingRefusals {
    fn add(&mut self, kind: RefusalKind, more: RefusalTally) {
        let is_known = self.by_kind.len() < KINDS_LIMIT || self.by_kind.contains_key(&kind);
        let kind = if is_known { kind } else { OTHERS };
        match self.by_kind.get_mut(&kind) {
            Some(tally) => {
                tally.count = tally.count.saturating_add(more.count);
                tally.first_at = tally.first_at.min(more.first_at);
                if more.last_at >= tally.last_at {
                    (tally.last_at, tally.what, tally.request) = (more.last_at, more.what, more.request);
                }
            }
            None => _ = self.by_kind.insert(kind, more),
        }
    }

    /// The attempts to be written now, the most frequent kinds first; the rest of them together in one line.
    fn take(&mut self, now: Instant) -> Vec<(RefusalKind, RefusalTally)> {
        let earned = now.duration_since(self.counted_at).as_secs() / LINE_PAUSE.as_secs();
        if let Ok(earned) = u32::try_from(earned)
            && earned > 0
        {
            self.lines_left = self.lines_left.saturating_add(earned).min(LINES_LIMIT);
            self.counted_at += LINE_PAUSE * earned;
        }
        let limit = usize::try_from(self.lines_left).unwrap_or(0).min(FLUSH_LIMIT);
        if limit == 0 {
            return Vec::new();
        }
        let mut taken: Vec<_> = self.by_kind.drain().collect();
        taken.sort_by_key(|(kind, tally)| (*kind == OTHERS, std::cmp::Reverse(tally.count)));
        if taken.len() > limit {
            for (_, tally) in taken.split_off(limit - 1) {
                self.add(OTHERS, tally);
            }
            taken.extend(self.by_kind.drain());
        }
        self.lines_left -= u32::try_from(taken.len()).unwrap_or(0).min(self.lines_left);
        taken
    }
}

fn line(kind: &RefusalKind, tally: &RefusalTally, now: Timestamp) -> NewAuditLine {
    let RefusalTally { count, first_at, last_at, what, request } = tally;
    let reason = kind.code.map_or_else(|| "several reasons".to_owned(), ErrorCode::as_text);
    let detail = match count {
        1 => format!("{reason}: {what}"),
        count => format!("{reason}: {what} and others, {count} since {first_at:.0}"),
    };
    NewAuditLine {
        at: (*last_at).min(now),
        project: kind.project.clone(),
        action: "refused",
        caller: kind.caller.clone(),
        address: kind.address,
        request: Some(request.clone()),
        deployment: None,
        detail,
        count: *count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32, code: ErrorCode) -> RefusedAttempt {
        RefusedAttempt {
            at: Timestamp::UNIX_EPOCH,
            code,
            caller: None,
            address: Some(IpAddr::from(number.to_be_bytes())),
            project: None,
            what: "GET /".to_owned(),
            request: RequestId::made(u64::from(number)),
        }
    }

    #[test]
    fn attempts_of_one_kind_are_one_line_with_their_number() {
        let refusals = RefusalLog::default();
        (0..100_000).for_each(|_| refusals.note(attempt(1, ErrorCode::Unauthorized)));
        refusals.note(attempt(1, ErrorCode::MissingScope));
        let taken = refusals.pending().take(Instant::now());
        let counts: Vec<_> = taken.iter().map(|(_, tally)| tally.count).collect();
        assert_eq!(counts, [100_000, 1]);
    }

    #[test]
    fn a_hundred_thousand_addresses_fill_neither_the_memory_nor_the_log() {
        let refusals = RefusalLog::default();
        let (begin, mut lines, mut told) = (Instant::now(), 0, 0);
        for minute in 0..60 {
            (0..2_000).for_each(|number| refusals.note(attempt(minute * 2_000 + number, ErrorCode::Unauthorized)));
            assert!(refusals.pending().by_kind.len() <= KINDS_LIMIT + 1);
            let taken = refusals.pending().take(begin + Duration::from_secs(60) * minute);
            lines += taken.len();
            told += taken.iter().map(|(_, tally)| tally.count).sum::<u64>();
        }
        let left: u64 = refusals.pending().by_kind.values().map(|tally| tally.count).sum();
        assert_eq!(told + left, 120_000, "none is lost");
        assert!(lines <= 60 + 12, "{lines} lines in an hour");
    }

    #[test]
    fn nothing_is_lost_while_no_line_may_be_written() {
        let refusals = RefusalLog::default();
        let begin = Instant::now();
        for number in 0..200 {
            refusals.note(attempt(number, ErrorCode::MissingScope));
            let _ = refusals.pending().take(begin);
        }
        assert!(refusals.pending().take(begin).is_empty(), "the lines of this time are used up");
        let waiting: u64 = refusals.pending().by_kind.values().map(|tally| tally.count).sum();
        assert_eq!(waiting, 200 - u64::from(LINES_LIMIT));
        let later = refusals.pending().take(begin + LINE_PAUSE);
        assert_eq!(later.iter().map(|(_, tally)| tally.count).sum::<u64>(), waiting, "one line tells them all");
    }
}
