//! Reports on their way to the lessor: in order, numbered, each recorded once even if a call is repeated.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, mpsc};

use crate::model::{Report, Stream};

/// The highest number of reports in one call; a server takes 256.
const BATCH_LIMIT: usize = 128;
/// The highest number of bytes of text in one call: well below the server's limit, and enough for 100 MiB/s on a slow
/// link.
const BATCH_BYTES_LIMIT: usize = 1 << 20;
/// How many reports wait here. More reports wait in the outbox, which cuts output.
const ROOM: usize = 64;
/// How many bytes of text a journalled backlog may hold: some seconds of a flood. Output beyond it is cut here.
const JOURNALLED_BYTES_LIMIT: usize = 4 << 20;

/// Writes reports down before they are sent, so that another process can send them if this one ends.
pub trait Journal: Send {
    /// Writes down a report that is to be sent.
    fn report(&mut self, number: u64, report: &Report);
    /// Writes down that every report up to this number has been recorded.
    fn told(&mut self, last: u64);
}

/// No journal: these reports end with this process.
impl Journal for () {
    fn report(&mut self, _: u64, _: &Report) {}
    fn told(&mut self, _: u64) {}
}

/// The reports of one deployment that its lessor has not recorded yet.
pub struct Backlog<J = ()> {
    state: Mutex<BacklogState<J>>,
    news: Notify,
    room: Notify,
}

struct BacklogState<J> {
    journal: J,
    /// Whether there is a journal. With one, no report waits for room, because the journal must have it before this
    /// process ends.
    is_journalled: bool,
    pending: VecDeque<Pending>,
    bytes: usize,
    /// The number of the newest report.
    last: u64,
    /// How many of the pending reports have been sent and not answered yet.
    sent_count: usize,
    /// Reports up to this number are sent one by one, because one of them is refused.
    alone_up_to: u64,
    is_closed: bool,
    is_lost: bool,
}

struct Pending {
    number: u64,
    report: Report,
    bytes: usize,
    /// How many cut lines this report stands for; 0 once it has been sent, because it must not change then.
    cut_count: usize,
}

impl Default for Backlog {
    /// For reports that need not outlive this process.
    fn default() -> Self {
        Backlog::new((), false, 0, Vec::new())
    }
}

impl<J: Journal> Backlog<J> {
    /// With a journal. Numbering begins after the report `last`; `former` are the reports of a former process that are
    /// still to be sent.
    pub fn journalled(journal: J, last: u64, former: Vec<(u64, Report)>) -> Self {
        Backlog::new(journal, true, last, former)
    }

    fn new(journal: J, is_journalled: bool, last: u64, former: Vec<(u64, Report)>) -> Self {
        let pending = former.into_iter();
        let pending: VecDeque<_> =
            pending.map(|(number, report)| Pending { number, bytes: size(&report), report, cut_count: 0 }).collect();
        let bytes = pending.iter().map(|pending| pending.bytes).sum();
        let state = BacklogState {
            journal,
            is_journalled,
            pending,
            bytes,
            last,
            sent_count: 0,
            alone_up_to: 0,
            is_closed: false,
            is_lost: false,
        };
        Backlog { state: Mutex::new(state), news: Notify::new(), room: Notify::new() }
    }

    /// Takes reports until the sender is dropped.
    pub async fn fill(&self, mut reports: mpsc::Receiver<Report>) {
        while let Some(report) = reports.recv().await {
            while !self.state().has_room() {
                self.room.notified().await;
            }
            self.push(report);
        }
        self.close();
    }

    /// Marks that no more reports will come.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.news.notify_one();
    }

    /// Calls `act` with the journal.
    pub fn with_journal<T>(&self, act: impl FnOnce(&mut J) -> T) -> T {
        act(&mut self.state().journal)
    }

    fn push(&self, report: Report) {
        self.state().push(report);
        self.news.notify_one();
    }

    /// The next reports to send and the number of the first of them, as soon as there are any; `None` when all are
    /// recorded and no more will come. Asked again without an answer in between, it returns the same reports and the
    /// newer ones.
    pub(super) async fn batch(&self) -> Option<(u64, Vec<Report>)> {
        loop {
            let news = self.news.notified();
            {
                let mut state = self.state();
                if let Some(batch) = state.batch() {
                    return Some(batch);
                }
                if state.is_closed {
                    return None;
                }
            }
            news.await;
        }
    }

    /// The batch is recorded, and `last` is the lessor's count.
    pub(super) fn told(&self, last: u64) {
        self.state().told(last);
        self.room.notify_one();
    }

    /// Continues after `last`, because the lessor's count differs. Returns whether that changed anything.
    pub(super) fn go_on_after(&self, last: u64) -> bool {
        self.state().go_on_after(last)
    }

    /// The batch is refused for good. Its reports are then sent one by one to find the refused one, and that one is
    /// sent without its text. Returns whether the batch was a single report.
    pub(super) fn refused(&self) -> bool {
        self.state().refused()
    }

    /// Drops the batch's output. Returns whether there was any.
    pub(super) fn drop_output(&self) -> bool {
        let dropped = self.state().drop_output();
        self.room.notify_one();
        dropped
    }

    /// Drops all pending and future reports, because the lessor accepts none any more.
    pub(super) fn give_up(&self) {
        let mut state = self.state();
        state.is_lost = true;
        state.pending.clear();
        state.bytes = 0;
        drop(state);
        self.room.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, BacklogState<J>> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Journal> BacklogState<J> {
    fn has_room(&self) -> bool {
        self.is_journalled || self.pending.len() < ROOM
    }

    fn push(&mut self, mut report: Report) {
        if self.is_lost {
            return;
        }
        let mut cut_count = 0;
        if let Report::Log { lines, .. } = &mut report
            && self.is_journalled
            && self.bytes > JOURNALLED_BYTES_LIMIT
        {
            cut_count = lines.len();
            if let Some(cut) = self.pending.back_mut().filter(|last| last.cut_count > 0) {
                cut.cut_count += cut_count;
                if let Report::Log { lines, .. } = &mut cut.report {
                    *lines = vec![cut_line(cut.cut_count)];
                }
                return;
            }
            *lines = vec![cut_line(cut_count)];
        }
        self.last += 1;
        let (number, bytes) = (self.last, size(&report));
        self.journal.report(number, &report);
        self.bytes += bytes;
        self.pending.push_back(Pending { number, report, bytes, cut_count });
    }

    fn batch(&mut self) -> Option<(u64, Vec<Report>)> {
        let first = self.pending.front()?.number;
        let limit = if first <= self.alone_up_to { 1 } else { BATCH_LIMIT };
        let mut bytes = 0;
        let mut batch = Vec::new();
        for pending in self.pending.iter_mut().take(limit) {
            bytes += pending.bytes;
            if !batch.is_empty() && bytes > BATCH_BYTES_LIMIT {
                break;
            }
            // A report that was sent once must not change.
            pending.cut_count = 0;
            batch.push(pending.report.clone());
        }
        self.sent_count = batch.len();
        Some((first, batch))
    }

    fn told(&mut self, last: u64) {
        let mut told = None;
        for _ in 0..self.sent_count {
            let Some(pending) = self.pending.pop_front_if(|pending| pending.number <= last) else { break };
            self.bytes -= pending.bytes;
            told = Some(pending.number);
        }
        self.sent_count = 0;
        if let Some(told) = told {
            self.journal.told(told);
            if told < last {
                // An earlier attempt had recorded more reports than this one.
                self.renumber(last);
            }
        }
    }

    fn go_on_after(&mut self, last: u64) -> bool {
        let is_news = self.before_pending() != last;
        if is_news {
            self.renumber(last);
        }
        is_news
    }

    /// The number of the last report before the pending ones.
    fn before_pending(&self) -> u64 {
        self.pending.front().map_or(self.last, |first| first.number - 1)
    }

    /// Numbers the pending reports anew, from the one after `last` on.
    fn renumber(&mut self, last: u64) {
        let former = std::mem::replace(&mut self.last, last);
        for pending in &mut self.pending {
            self.last += 1;
            pending.number = self.last;
        }
        // The journal's reader must count as the lessor does.
        self.journal.told(former);
        for pending in &self.pending {
            self.journal.report(pending.number, &pending.report);
        }
    }

    fn refused(&mut self) -> bool {
        if self.sent_count > 1 {
            self.alone_up_to = self.before_pending() + self.sent_count as u64;
            return false;
        }
        // Some report must have this number, because an earlier attempt may have recorded one under it. Output without
        // a line makes no event.
        let nothing = Report::Log { stream: Stream::Stdout, phase: None, lines: Vec::new() };
        let before = self.before_pending();
        let Some(mut first) = self.pending.pop_front() else { return true };
        self.bytes -= first.bytes;
        if first.report == nothing {
            self.renumber(before);
            return true;
        }
        first.report = first.report.bare().unwrap_or(nothing);
        first.bytes = size(&first.report);
        self.bytes += first.bytes;
        self.pending.push_front(first);
        true
    }

    fn drop_output(&mut self) -> bool {
        let before = self.before_pending();
        let mut sent_count = std::mem::take(&mut self.sent_count);
        let pending_count = self.pending.len();
        self.pending.retain(|pending| {
            let is_sent = sent_count > 0;
            sent_count = sent_count.saturating_sub(1);
            !(is_sent && matches!(pending.report, Report::Log { .. }))
        });
        let is_less = self.pending.len() < pending_count;
        if is_less {
            self.bytes = self.pending.iter().map(|pending| pending.bytes).sum();
            self.renumber(before);
        }
        is_less
    }
}

fn cut_line(count: usize) -> String {
    format!("[singletrack: {count} lines came while the server did not answer, and were cut here]")
}

fn size(report: &Report) -> usize {
    match report {
        Report::Log { lines, .. } => lines.iter().map(|line| line.len() + 8).sum(),
        Report::Output { name, value } => name.len() + value.len(),
        Report::Phase { .. } | Report::Progress { .. } => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Report {
        Report::Log { stream: Stream::Stdout, phase: None, lines: vec![text.to_owned()] }
    }

    fn output(value: &str) -> Report {
        Report::Output { name: "url".to_owned(), value: value.to_owned() }
    }

    fn backlog(reports: &[Report]) -> Backlog {
        let backlog = Backlog::default();
        reports.iter().for_each(|report| backlog.push(report.clone()));
        backlog
    }

    fn next(backlog: &Backlog<impl Journal>) -> Option<(u64, Vec<Report>)> {
        backlog.state().batch()
    }

    #[test]
    fn what_has_no_answer_is_sent_again_with_its_number_and_what_came_since() {
        let backlog = backlog(&[line("a")]);
        assert_eq!(next(&backlog), Some((1, vec![line("a")])));
        backlog.push(line("b"));
        assert_eq!(next(&backlog), Some((1, vec![line("a"), line("b")])));
        backlog.told(2);
        backlog.push(line("c"));
        assert_eq!(next(&backlog), Some((3, vec![line("c")])));
    }

    #[test]
    fn a_lessor_that_lost_reports_or_has_more_sets_the_count() {
        let lost = backlog(&[line("a"), line("b")]);
        next(&lost);
        lost.told(2);
        lost.push(line("c"));
        next(&lost);
        assert!(lost.go_on_after(1), "that is news");
        assert_eq!(next(&lost), Some((2, vec![line("c")])));
        assert!(!lost.go_on_after(1), "and now it is not");

        let more = backlog(&[line("a")]);
        next(&more);
        more.push(line("b"));
        more.told(5);
        assert_eq!(next(&more), Some((6, vec![line("b")])));
    }

    #[test]
    fn of_a_refused_batch_only_the_report_that_is_refused_loses_its_text() {
        let backlog = backlog(&[line("a"), output("bad"), line("c")]);
        next(&backlog);
        assert!(!backlog.refused(), "which one it is, is not known");
        assert_eq!(next(&backlog), Some((1, vec![line("a")])));
        backlog.told(1);
        assert_eq!(next(&backlog), Some((2, vec![output("bad")])));
        assert!(backlog.refused());
        let (number, instead) = next(&backlog).unwrap();
        assert!(matches!(&instead[..], [Report::Log { lines, .. }] if lines.is_empty()), "{instead:?}");
        backlog.told(number);
        assert_eq!(next(&backlog), Some((3, vec![line("c")])));
    }

    #[test]
    fn a_report_that_is_refused_to_its_bones_is_dropped() {
        let backlog = backlog(&[line("a"), line("b")]);
        next(&backlog);
        backlog.refused();
        for _ in 0..10 {
            if next(&backlog) == Some((1, vec![line("b")])) {
                return;
            }
            assert!(backlog.refused());
        }
        panic!("it holds up what comes after it");
    }

    #[test]
    fn where_the_disk_is_full_output_gives_way_and_the_numbers_close_up() {
        let backlog = backlog(&[line("a"), output("x"), line("b")]);
        next(&backlog);
        backlog.push(line("later"));
        assert!(backlog.drop_output());
        assert_eq!(next(&backlog), Some((1, vec![output("x"), line("later")])));
    }

    #[test]
    fn what_is_journalled_never_waits_and_a_flood_is_cut_and_counted() {
        let backlog = Backlog::journalled((), 7, vec![(7, line("former"))]);
        let flood = "x".repeat(JOURNALLED_BYTES_LIMIT + 1);
        [line(&flood), line("cut 1"), line("cut 2"), output("kept")]
            .into_iter()
            .for_each(|report| backlog.push(report));
        let mut seen = Vec::new();
        while let Some((first, batch)) = next(&backlog) {
            backlog.told(first + batch.len() as u64 - 1);
            seen.extend(batch);
        }
        assert_eq!(seen, [line("former"), line(&flood), line(&cut_line(2)), output("kept")]);
    }

    #[tokio::test]
    async fn reports_wait_for_room_until_the_lease_is_lost() {
        let backlog = Backlog::default();
        let (reports, reported) = mpsc::channel(1);
        let many = async {
            for _ in 0..3 * ROOM {
                reports.send(line("x")).await.unwrap();
            }
            drop(reports);
        };
        let losing = async {
            while backlog.state().has_room() {
                tokio::task::yield_now().await;
            }
            backlog.give_up();
        };
        tokio::join!(backlog.fill(reported), many, losing);
        assert_eq!(backlog.batch().await, None);
    }
}
