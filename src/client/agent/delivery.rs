//! Tells the server what happened, in order and each thing once, however often the connection breaks.
//!
//! What runs never waits for it: output that the server does not take in time is cut here, and said to be.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    calls::{Calls, Told},
    journal::Journal,
};
use crate::{client::calls::pauses, model::Report, wire::FinishRequest};

/// How many reports go with one call; the server takes 256.
const BATCH_LIMIT: usize = 128;
/// How much output goes with one call.
const BATCH_BYTES: usize = 1 << 20;
/// How much output may wait for the server: some seconds of a flood.
const PENDING_BYTES: usize = 4 << 20;

/// The lease is lost: nothing that is told counts any more.
#[derive(Debug)]
pub struct Lost;

/// What is to be told of one deployment.
pub struct Delivery {
    calls: Calls,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    journal: Journal,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    last: u64,
}

struct Pending {
    number: u64,
    report: Report,
    bytes: usize,
    /// How many lines stand for nothing but their number here.
    cut_count: usize,
}

impl Delivery {
    /// Begins after the report `last`, with those of a former agent that are still to be told.
    pub fn new(calls: Calls, journal: Journal, last: u64, former: Vec<(u64, Report)>) -> Self {
        let pending: VecDeque<_> = former
            .into_iter()
            .map(|(number, report)| Pending { number, bytes: size(&report), report, cut_count: 0 })
            .collect();
        let pending_bytes = pending.iter().map(|pending| pending.bytes).sum();
        Delivery { calls, state: Mutex::new(State { journal, pending, pending_bytes, last }), changed: Notify::new() }
    }

    /// Takes something to tell; never waits.
    pub fn push(&self, report: Report) {
        let mut state = self.state();
        let mut cut_count = 0;
        let mut report = report;
        if let Report::Log { lines, .. } = &mut report
            && state.pending_bytes > PENDING_BYTES
        {
            cut_count = lines.len();
            if let Some(cut) = state.pending.back_mut().filter(|last| last.cut_count > 0) {
                cut.cut_count += cut_count;
                let (line, count) = (cut_line(cut.cut_count), cut.cut_count);
                if let Report::Log { lines, .. } = &mut cut.report {
                    *lines = vec![line];
                }
                tracing::trace!(count, "output was cut");
                return;
            }
            *lines = vec![cut_line(cut_count)];
        }
        state.last += 1;
        let (number, bytes) = (state.last, size(&report));
        note(state.journal.report(number, &report));
        state.pending_bytes += bytes;
        state.pending.push_back(Pending { number, report, bytes, cut_count });
        drop(state);
        self.changed.notify_one();
    }

    /// Sends what there is to tell, for as long as it is polled.
    pub async fn send(&self) -> Lost {
        loop {
            let changed = self.changed.notified();
            if self.send_pending().await.is_err() {
                return Lost;
            }
            changed.await;
        }
    }

    /// Tells the end, after everything before it. It is on disk first.
    ///
    /// # Errors
    /// The lease was lost.
    pub async fn finish(&self, finish: &FinishRequest, is_journalled: bool) -> Result<(), Lost> {
        if !is_journalled {
            // On this thread: nothing else of this deployment goes on meanwhile, and it takes milliseconds.
            note(self.state().journal.end(finish));
        }
        let told = match self.send_pending().await {
            Ok(()) => self.send_finish(finish).await,
            Err(Lost) => {
                // It goes to the audit log there.
                let _ = self.calls.finish(finish).await;
                Err(Lost)
            }
        };
        self.state().journal.remove();
        told
    }

    async fn send_finish(&self, finish: &FinishRequest) -> Result<(), Lost> {
        let mut pauses = pauses();
        let mut finish = finish.clone();
        loop {
            match self.calls.finish(&finish).await {
                Told::Yes(()) => return Ok(()),
                Told::Lost => return Err(Lost),
                // Nothing that it says may hold up that it is over.
                Told::Refused(why) if finish != finish.bare() => {
                    tracing::error!(deployment.id = %self.calls.id(), %why, "the server does not take the end's text");
                    finish = finish.bare();
                }
                Told::Refused(why) => {
                    tracing::error!(deployment.id = %self.calls.id(), %why, "the server does not take the end");
                    return Err(Lost);
                }
                Told::Gap { .. } | Told::Unknown => {
                    tokio::time::sleep(pauses.next().unwrap_or(super::LONGEST_PAUSE)).await;
                }
            }
        }
    }

    async fn send_pending(&self) -> Result<(), Lost> {
        let mut pauses = pauses();
        let mut batch_limit = BATCH_LIMIT;
        while let Some((first, batch)) = self.batch(batch_limit) {
            let count = batch.len();
            match self.calls.report(first, batch).await {
                Told::Yes(last) => {
                    self.told(last);
                    batch_limit = BATCH_LIMIT;
                }
                Told::Lost => return Err(Lost),
                Told::Gap { last } => self.renumber(last),
                // One of them is not to the server's liking: which, is found out one by one.
                Told::Refused(_) if count > 1 => batch_limit = 1,
                Told::Refused(why) => self.replace_first(&why),
                Told::Unknown => tokio::time::sleep(pauses.next().unwrap_or(super::LONGEST_PAUSE)).await,
            }
        }
        Ok(())
    }

    fn batch(&self, limit: usize) -> Option<(u64, Vec<Report>)> {
        let mut state = self.state();
        let first = state.pending.front()?.number;
        let mut bytes = 0;
        let mut batch = Vec::new();
        for pending in state.pending.iter_mut().take(limit) {
            bytes += pending.bytes;
            if !batch.is_empty() && bytes > BATCH_BYTES {
                break;
            }
            // What has been sent once must stay the same.
            pending.cut_count = 0;
            batch.push(pending.report.clone());
        }
        Some((first, batch))
    }

    fn told(&self, last: u64) {
        let mut state = self.state();
        while let Some(pending) = state.pending.pop_front_if(|pending| pending.number <= last) {
            state.pending_bytes -= pending.bytes;
        }
        note(state.journal.told(last));
    }

    /// The server knows fewer reports than were told: it lost them, and they are gone.
    fn renumber(&self, last: u64) {
        let mut state = self.state();
        tracing::warn!(deployment.id = %self.calls.id(), last, "the server lost reports");
        let mut number = last;
        for pending in &mut state.pending {
            number += 1;
            pending.number = number;
        }
        state.last = number;
    }

    fn replace_first(&self, why: &str) {
        tracing::warn!(deployment.id = %self.calls.id(), %why, "the server does not take a report");
        let mut state = self.state();
        if let Some(first) = state.pending.front_mut() {
            // Something must have its number. A phase's state is told without its message.
            first.report = match &first.report {
                Report::Phase { name, state, message: Some(_) } => {
                    Report::Phase { name: name.clone(), state: *state, message: None }
                }
                Report::Phase { .. } | Report::Progress { .. } | Report::Output { .. } | Report::Log { .. } => {
                    Report::Progress { progress: None, message: None }
                }
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut_line(count: usize) -> String {
    format!("[singletrack: {count} lines came while the server did not answer, and were cut here]")
}

fn size(report: &Report) -> usize {
    match report {
        Report::Log { lines, .. } => lines.iter().map(|line| line.len() + 8).sum(),
        Report::Phase { .. } | Report::Progress { .. } | Report::Output { .. } => 64,
    }
}

/// A journal that cannot be written to is no reason to stop what runs: it matters only if the agent dies, too.
fn note(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::error!(%error, "the journal could not be written");
    }
}
