//! Holds reports between the commands that make them and the task that sends them.
//!
//! Commands never wait for it. Log lines beyond a limit are dropped and counted, except the last ones, because these
//! often say why a command fails. Phases, outputs and progress are never lost; outputs and progress overtake the lines
//! (I16). Lines leave in batches, so a flood makes few events. A line that comes alone leaves at once; the same holds
//! for progress and outputs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::lines::LINE_LIMIT;
use crate::{
    exec::report::{PhaseState, Report, Stream},
    model::bounds,
};

/// How many bytes of log text may wait: enough for a slow commit at any sane rate, and small beside a server's memory.
pub const PENDING_LIMIT: usize = 1024 * 1024;

/// How many bytes at the end of a cut output are kept.
const TAIL_LIMIT: usize = 64 * 1024;

/// What a line costs besides its text.
const LINE_OVERHEAD: usize = 32;

/// How many batches are kept separate to keep the order of the two streams. Beyond it, lines join the last batch of
/// their stream.
const BATCH_LIMIT: usize = 16;

/// How long lines, or values, are collected after the last ones of their kind have left.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The reports of one deployment that have not been sent yet.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// The phases' reports stand between the segments; the last segment is the one being filled.
    done: VecDeque<(Segment, Report)>,
    filling: Segment,
    pending_bytes: usize,
    progress: u8,
    progress_told: bool,
    outputs: BTreeMap<String, String>,
    /// The largest value that each output has had, in bytes. The server may still hold the largest value of one output
    /// when another output has grown already.
    output_peaks: BTreeMap<String, usize>,
    closed: bool,
}

/// The lines, outputs and progress between two reports of phases.
#[derive(Debug, Default)]
struct Segment {
    progress: Option<(Option<u8>, Option<String>)>,
    outputs: BTreeMap<String, String>,
    batches: VecDeque<Batch>,
    cuts: VecDeque<Cut>,
}

#[derive(Debug)]
struct Batch {
    stream: Stream,
    phase: String,
    lines: Vec<String>,
    bytes: usize,
}

#[derive(Debug)]
struct Cut {
    stream: Stream,
    phase: String,
    line_count: u64,
    /// The last lines. They are not counted as cut.
    tail: VecDeque<String>,
    tail_bytes: usize,
}

impl Cut {
    fn new(stream: Stream, phase: &str) -> Self {
        Cut { stream, phase: phase.to_owned(), line_count: 0, tail: VecDeque::new(), tail_bytes: 0 }
    }

    fn add(&mut self, line: String) {
        self.tail_bytes += line.len() + LINE_OVERHEAD;
        self.tail.push_back(line);
        while self.tail_bytes > TAIL_LIMIT
            && let Some(line) = self.tail.pop_front()
        {
            self.tail_bytes -= line.len() + LINE_OVERHEAD;
            self.line_count += 1;
        }
    }
}

impl Segment {
    fn add(&mut self, stream: Stream, phase: &str, text: String) {
        let bytes = text.len() + LINE_OVERHEAD;
        let same = |batch: &&mut Batch| batch.stream == stream && batch.phase == phase;
        let depth = if self.batches.len() >= BATCH_LIMIT { usize::MAX } else { 1 };
        // Only the stream's last batch may take the line, because otherwise lines would change their order.
        let last = self.batches.iter_mut().rev().take(depth).find(same);
        match last.filter(|batch| batch.bytes + bytes <= LINE_LIMIT) {
            Some(batch) => {
                batch.lines.push(text);
                batch.bytes += bytes;
            }
            None => self.batches.push_back(Batch { stream, phase: phase.to_owned(), lines: vec![text], bytes }),
        }
    }

    fn is_empty(&self) -> bool {
        self.progress.is_none() && self.outputs.is_empty() && self.batches.is_empty() && self.cuts.is_empty()
    }
}

/// What can be sent now.
enum Takeable {
    Report(Report),
    /// A report that tells how much was cut.
    Cut(Report),
    /// Reports wait, but may collect a little longer.
    Later,
    Nothing,
    Closed,
}

impl Outbox {
    /// Reports that a phase changed its state.
    pub fn phase(&self, name: &str, state: PhaseState, message: Option<&str>) {
        let message = message.map(str::to_owned);
        let mut inner = self.lock();
        let segment = std::mem::take(&mut inner.filling);
        inner.done.push_back((segment, Report::Phase { name: name.to_owned(), state, message }));
        self.changed.notify_one();
    }

    /// Reports the deployment's progress. A progress lower than an earlier one counts as that one.
    pub fn progress(&self, progress: Option<u8>, message: Option<String>) {
        let mut inner = self.lock();
        inner.progress = inner.progress.max(progress.unwrap_or(0).min(100));
        inner.progress_told |= progress.is_some();
        let progress = progress.map(|_| inner.progress);
        let waiting = inner.filling.progress.get_or_insert_default();
        waiting.0 = progress.or(waiting.0);
        waiting.1 = message.or(waiting.1.take());
        self.changed.notify_one();
    }

    /// Reports the progress of the pipeline's own steps, only if it is further than the last reported progress.
    pub fn reached(&self, percent: usize) {
        let percent = u8::try_from(percent).unwrap_or(100).min(100);
        let news = {
            let inner = self.lock();
            !inner.progress_told || percent > inner.progress
        };
        if news {
            self.progress(Some(percent), None);
        }
    }

    /// Reports an output; refused if there are too many outputs, or if they are too large together.
    #[must_use]
    pub fn output(&self, name: &str, value: &str) -> bool {
        let mut inner = self.lock();
        let peak = inner.output_peaks.get(name).copied();
        let others: usize = inner.output_peaks.iter().map(|(name, peak)| name.len() + peak).sum::<usize>()
            - peak.map_or(0, |peak| name.len() + peak);
        let peak_now = peak.unwrap_or(0).max(value.len());
        let is_too_many = peak.is_none() && inner.output_peaks.len() >= bounds::OUTPUTS;
        if is_too_many || others + name.len() + peak_now > bounds::OUTPUTS_BYTES {
            return false;
        }
        inner.output_peaks.insert(name.to_owned(), peak_now);
        let before = inner.outputs.insert(name.to_owned(), value.to_owned());
        if before.as_deref() == Some(value) {
            return true;
        }
        inner.filling.outputs.insert(name.to_owned(), value.to_owned());
        self.changed.notify_one();
        true
    }

    /// Every output reported so far.
    pub fn outputs(&self) -> BTreeMap<String, String> {
        self.lock().outputs.clone()
    }

    /// Takes a line for the log, or counts it as cut. Never waits.
    pub fn line(&self, stream: Stream, phase: &str, text: String) {
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        let bytes = text.len() + LINE_OVERHEAD;
        let full = inner.pending_bytes + bytes > PENDING_LIMIT;
        let segment = &mut inner.filling;
        // Once lines were cut, no line is taken until the cut has been reported, so that the cut has its right place in
        // the log.
        match segment.cuts.iter_mut().find(|cut| cut.stream == stream && cut.phase == phase) {
            Some(cut) => cut.add(text),
            None if full => {
                let mut cut = Cut::new(stream, phase);
                cut.add(text);
                segment.cuts.push_back(cut);
            }
            None => {
                segment.add(stream, phase, text);
                inner.pending_bytes += bytes;
            }
        }
        self.changed.notify_one();
    }

    /// Marks that no more will come. [`Outbox::forward`] ends when everything is taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Sends every report, in order, until the outbox is closed and empty, or the receiver is dropped.
    pub async fn forward(&self, reports: mpsc::Sender<Report>) {
        let mut urgent_at = Instant::now();
        let mut lines_at = urgent_at;
        // How many batches of the current flush are still to be sent. Later ones wait for the next flush.
        let mut flushing_count = 0_usize;
        loop {
            let now = Instant::now();
            match self.take(now >= urgent_at, flushing_count > 0 || now >= lines_at) {
                Takeable::Report(report) => {
                    match &report {
                        Report::Log { .. } => {
                            flushing_count = flushing_count.checked_sub(1).unwrap_or_else(|| self.batch_count());
                            if flushing_count == 0 {
                                lines_at = now + BATCH_INTERVAL;
                            }
                        }
                        Report::Progress { .. } | Report::Output { .. } => urgent_at = now + BATCH_INTERVAL,
                        Report::Phase { .. } => flushing_count = 0,
                    }
                    if !self.send(&reports, report).await {
                        return;
                    }
                }
                Takeable::Cut(report) => {
                    flushing_count = 0;
                    if !self.send(&reports, report).await {
                        return;
                    }
                }
                Takeable::Later => {
                    let next = [urgent_at, lines_at].into_iter().filter(|at| *at > now).min().unwrap_or(now);
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(next) => {}
                    }
                }
                Takeable::Nothing => self.changed.notified().await,
                Takeable::Closed => return,
            }
        }
    }

    /// Sends a report, and returns whether it was taken. Once the receiver is dropped, nothing more is collected.
    async fn send(&self, reports: &mpsc::Sender<Report>, report: Report) -> bool {
        let is_taken = reports.send(report).await.is_ok();
        if !is_taken {
            self.lock().closed = true;
        }
        is_taken
    }

    fn batch_count(&self) -> usize {
        let inner = self.lock();
        inner.done.front().map_or(&inner.filling, |(segment, _)| segment).batches.len()
    }

    fn take(&self, urgent_due: bool, lines_due: bool) -> Takeable {
        let mut inner = self.lock();
        // The lines before the report of a phase must not delay it.
        let hurry = !inner.done.is_empty() || inner.closed;
        let lines_due = lines_due || hurry || inner.pending_bytes >= LINE_LIMIT;
        let segment = match inner.done.front_mut() {
            Some((segment, _)) => segment,
            None => &mut inner.filling,
        };
        if urgent_due || hurry {
            if let Some((name, value)) = segment.outputs.pop_first() {
                return Takeable::Report(Report::Output { name, value });
            }
            if let Some((progress, message)) = segment.progress.take() {
                return Takeable::Report(Report::Progress { progress, message });
            }
        }
        if lines_due {
            if let Some(Batch { stream, phase, lines, bytes }) = segment.batches.pop_front() {
                inner.pending_bytes -= bytes;
                return Takeable::Report(Report::Log { stream, phase: Some(phase), lines });
            }
            if let Some(Cut { stream, phase, line_count, tail, tail_bytes }) = segment.cuts.pop_front() {
                tail.into_iter().for_each(|line| segment.add(stream, &phase, line));
                inner.pending_bytes += tail_bytes;
                let line = format!("[singletrack: {line_count} lines came too fast and were cut here]");
                return Takeable::Cut(Report::Log { stream, phase: Some(phase), lines: vec![line] });
            }
        }
        if !segment.is_empty() {
            return Takeable::Later;
        }
        match inner.done.pop_front() {
            Some((_, report)) => Takeable::Report(report),
            None if inner.closed => Takeable::Closed,
            None => Takeable::Nothing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way; and the log of a deployment must not bring a server down.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
