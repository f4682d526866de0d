//! Keeps one lease. Heartbeats renew it and bring a cancel at once, reports carry the progress, and the end is sent
//! until it is recorded.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{Backlog, Journal, Lessor, Lost, Renewed, Reply, Times, pause_after};
use crate::{
    clock::{BootInstant, Clock},
    exec::{Job, Stop},
    model::{DeploymentId, Report, Verdict},
};

/// How many reports wait for the backlog. More reports wait in the outbox, which cuts lines.
pub const REPORT_QUEUE_LIMIT: usize = 64;
/// The longest single sleep towards a deadline. Timers stand still while a machine is suspended and the boot clock does
/// not, so a longer sleep could miss a deadline.
const SLEEP_LIMIT: Duration = Duration::from_secs(1);

/// Keeps one lease.
pub struct Keeper<L> {
    lessor: L,
    clock: Arc<dyn Clock>,
    id: DeploymentId,
    times: Times,
    stop: watch::Sender<Option<Stop>>,
    trusted_until: watch::Sender<BootInstant>,
    reason: watch::Sender<Option<String>>,
    is_token_revoked: AtomicBool,
}

/// For how long an end is sent again while nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until an answer comes.
    Answered,
    /// Until the lease is over, but at least once.
    LeaseOver,
}

impl<L: Lessor> Keeper<L> {
    /// Keeps a lease; `sent_at` is when the call that brought it was sent.
    pub fn new(lessor: L, clock: Arc<dyn Clock>, id: DeploymentId, times: Times, sent_at: BootInstant) -> Self {
        Keeper {
            lessor,
            clock,
            id,
            times,
            stop: watch::Sender::new(None),
            trusted_until: watch::Sender::new(times.trusted_until(sent_at)),
            reason: watch::Sender::new(None),
            is_token_revoked: AtomicBool::new(false),
        }
    }

    /// Keeps a lease whose grant may be old, once it has been renewed: the call that brought it may have been parked
    /// for longer than the lease lasts. A cancel that came meanwhile is known then.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn renewed(
        lessor: L,
        clock: Arc<dyn Clock>,
        id: DeploymentId,
        times: Times,
        answer_limit: Duration,
    ) -> Result<Self, Lost> {
        let mut failure_count = 0;
        loop {
            let sent_at = clock.boot();
            match lessor.heartbeat(Duration::ZERO, answer_limit).await {
                Reply::Done(renewed) => {
                    let keeper = Keeper::new(lessor, clock, id, times, sent_at);
                    keeper.note_renewal(sent_at, renewed);
                    return Ok(keeper);
                }
                Reply::Lost => return Err(Lost),
                Reply::Gap { .. } | Reply::Refused(_) | Reply::Full | Reply::Unknown(_) => {
                    failure_count += 1;
                    sleep(pause_after(failure_count)).await;
                }
            }
        }
    }

    /// Whether, and why, the work should stop.
    pub fn stop(&self) -> watch::Receiver<Option<Stop>> {
        self.stop.subscribe()
    }

    /// Until when the lease is trusted. The owner of the processes must end them by then if the lease is not renewed.
    pub fn deadline(&self) -> watch::Receiver<BootInstant> {
        self.trusted_until.subscribe()
    }

    /// The reason for the cancel, if the lessor told it.
    pub fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Whether the worker's token was revoked. Its work is cancelled then.
    pub fn is_token_revoked(&self) -> bool {
        self.is_token_revoked.load(Ordering::Relaxed)
    }

    /// How long everything may take to stop before the lease ends.
    pub fn kill_budget(&self) -> Duration {
        self.times.kill_budget
    }

    /// Stops the work when the whole worker has to stop.
    pub async fn obey(&self, mut worker: watch::Receiver<Option<Stop>>) -> Infallible {
        loop {
            if let Some(stop) = *worker.borrow_and_update() {
                stop.ask(&self.stop);
            }
            if worker.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Renews the lease and passes on every stop, for as long as it is polled. A lost lease is passed to the work as a
    /// stop; the work then ends by itself.
    pub async fn keep(&self) -> Infallible {
        let mut failure_count = 0;
        self.pause(self.times.before_first_beat(self.clock.boot(), self.trusted_until())).await;
        loop {
            let sent_at = self.clock.boot();
            let park = self.times.park(self.stop.borrow().is_some());
            let reply = tokio::select! {
                reply = self.lessor.heartbeat(park, self.times.answer_limit) => reply,
                never = self.watch_deadline() => match never {},
            };
            match reply {
                Reply::Done(renewed) => {
                    failure_count = 0;
                    self.note_renewal(sent_at, renewed);
                    let spent = self.clock.boot().since(sent_at);
                    self.pause(self.times.before_next_beat(park, spent)).await;
                }
                Reply::Lost => {
                    let deadline = self.times.gone_by(self.clock.boot(), self.trusted_until());
                    Stop::LeaseLost { deadline }.ask(&self.stop);
                    std::future::pending().await
                }
                Reply::Gap { .. } | Reply::Refused(_) | Reply::Full | Reply::Unknown(_) => {
                    failure_count += 1;
                    self.pause(pause_after(failure_count)).await;
                }
            }
        }
    }

    fn trusted_until(&self) -> BootInstant {
        *self.trusted_until.borrow()
    }

    fn note_renewal(&self, sent_at: BootInstant, renewed: Renewed) {
        self.trusted_until.send_replace(self.times.trusted_until(sent_at));
        self.is_token_revoked.fetch_or(renewed.is_token_revoked, Ordering::Relaxed);
        if renewed.is_cancelled {
            self.reason.send_replace(renewed.reason);
            Stop::Cancel.ask(&self.stop);
        }
    }

    /// Raises a stop when the lease could not be renewed in time.
    async fn watch_deadline(&self) -> Infallible {
        loop {
            let deadline = self.trusted_until();
            let left = self.times.before_stop(self.clock.boot(), deadline);
            if left.is_zero() {
                tracing::error!(deployment.id = %self.id, "the lease could not be renewed in time");
                Stop::LeaseLost { deadline }.ask(&self.stop);
                std::future::pending::<()>().await;
            }
            sleep(left.min(SLEEP_LIMIT)).await;
        }
    }

    async fn pause(&self, length: Duration) {
        tokio::select! {
            () = sleep(length) => {}
            never = self.watch_deadline() => match never {},
        }
    }

    /// Runs a pipeline to its end, and sends its reports meanwhile. Reports that are not sent by then stay in
    /// `backlog`. `None`: no end may be sent under this lease.
    pub async fn run<J: Journal>(&self, mut job: Job, backlog: &Backlog<J>) -> Option<Verdict> {
        job.lease_deadline = Some(self.deadline());
        let (reports, reported) = mpsc::channel(REPORT_QUEUE_LIMIT);
        let running = async { tokio::join!(crate::exec::run(job, self.stop(), reports), backlog.fill(reported)).0 };
        tokio::pin!(running);
        tokio::select! {
            verdict = &mut running => verdict,
            // Either every report is recorded, or the lease is lost. The heartbeat also learns of the loss, and stops
            // the pipeline.
            _ = self.tell(backlog) => running.await,
        }
    }

    /// Sends reports until their sender is dropped and all of them are recorded, or the lease is lost.
    pub async fn relay(&self, reports: mpsc::Receiver<Report>) {
        let backlog = Backlog::default();
        let (filling, telling) = (backlog.fill(reports), self.tell(&backlog));
        tokio::pin!(telling);
        tokio::select! {
            () = filling => {
                let _ = telling.await;
            }
            _ = &mut telling => {}
        }
    }

    /// Sends the reports of the backlog, until it is closed and empty. No report blocks the next one: a report that is
    /// refused for good is sent without its text, or dropped.
    ///
    /// # Errors
    /// The lease is lost, and nothing more will be sent.
    pub async fn tell<J: Journal>(&self, backlog: &Backlog<J>) -> Result<(), Lost> {
        let mut failure_count = 0;
        while let Some((first, batch)) = backlog.batch().await {
            let must_wait = match self.lessor.report(first, &batch).await {
                Reply::Done(last) => {
                    backlog.told(last);
                    false
                }
                Reply::Lost => {
                    backlog.give_up();
                    return Err(Lost);
                }
                Reply::Gap { last } => {
                    tracing::warn!(deployment.id = %self.id, last, "reports were lost; going on after the last that is known");
                    !backlog.go_on_after(last)
                }
                Reply::Refused(why) => {
                    if backlog.refused() {
                        tracing::error!(deployment.id = %self.id, %why, "a report is refused");
                    }
                    false
                }
                Reply::Full => !backlog.drop_output(),
                Reply::Unknown(_) => true,
            };
            failure_count = if must_wait { failure_count + 1 } else { 0 };
            if must_wait {
                sleep(pause_after(failure_count)).await;
            }
        }
        Ok(())
    }

    /// Sends every report of the backlog, and then how the work ended. Does not renew the lease meanwhile.
    ///
    /// # Errors
    /// The lease was lost before.
    pub async fn finish<J: Journal>(&self, backlog: &Backlog<J>, verdict: Verdict) -> Result<(), Lost> {
        match self.tell(backlog).await {
            Ok(()) => self.tell_end(verdict, Until::Answered).await,
            Err(Lost) => {
                // The server keeps an end that comes too late in its audit log.
                let _ = self.lessor.finish(&verdict).await;
                Err(Lost)
            }
        }
    }

    /// Sends how the work ended, until that is recorded or the lease is over; renews the lease meanwhile.
    /// `last_reports` is the future that still sends reports. It goes first, within a limit: after an outage the server
    /// needs the end more than the last lines.
    ///
    /// # Errors
    /// The lease was over before.
    pub async fn finish_in_time(&self, last_reports: impl Future<Output = ()>, verdict: Verdict) -> Result<(), Lost> {
        let telling = async {
            let _ = timeout(self.times.last_reports_limit(), last_reports).await;
            self.tell_end(verdict, Until::LeaseOver).await
        };
        tokio::select! {
            told = telling => told,
            never = self.keep() => match never {},
        }
    }

    /// Sends how the work ended. No text of the verdict may prevent that: if the text is refused, the verdict is sent
    /// without it.
    ///
    /// # Errors
    /// The lease was lost or over before the end was recorded; or the end is refused for good, and the lease must run
    /// out.
    pub async fn tell_end(&self, mut verdict: Verdict, until: Until) -> Result<(), Lost> {
        let mut failure_count = 0;
        loop {
            let why = match self.lessor.finish(&verdict).await {
                Reply::Done(()) => return Ok(()),
                Reply::Lost => return Err(Lost),
                Reply::Refused(why) => {
                    let bare = verdict.clone().bare();
                    if bare == verdict {
                        tracing::error!(deployment.id = %self.id, %why, "the end is refused; the lease must run out");
                        return Err(Lost);
                    }
                    tracing::error!(deployment.id = %self.id, %why, "the end is refused; it is told without its text");
                    verdict = bare;
                    continue;
                }
                Reply::Unknown(why) => why,
                Reply::Full => "the disk is full".to_owned(),
                Reply::Gap { .. } => "reports are missing".to_owned(),
            };
            if until == Until::LeaseOver && self.trusted_until().since(self.clock.boot()).is_zero() {
                return Err(Lost);
            }
            failure_count += 1;
            if failure_count == 1 {
                tracing::warn!(deployment.id = %self.id, error = why, "the end could not be told yet; trying again");
            }
            sleep(pause_after(failure_count)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Mutex};

    use super::*;
    use crate::{
        clock::SystemClock,
        model::{FailureCause, PhaseState, Stream},
    };

    /// A lessor that answers by a script. After the script's end it never answers.
    #[derive(Default)]
    struct Script {
        heartbeats: Mutex<VecDeque<Reply<Renewed>>>,
        reports: Mutex<VecDeque<Reply<u64>>>,
        ends: Mutex<VecDeque<Reply<()>>>,
        told: Mutex<Vec<(u64, Vec<Report>)>>,
        ended: Mutex<Vec<Verdict>>,
    }

    async fn next<T>(script: &Mutex<VecDeque<T>>) -> T {
        let reply = script.lock().unwrap().pop_front();
        match reply {
            Some(reply) => reply,
            None => std::future::pending().await,
        }
    }

    impl Lessor for &Script {
        async fn heartbeat(&self, _: Duration, _: Duration) -> Reply<Renewed> {
            next(&self.heartbeats).await
        }

        async fn report(&self, first: u64, reports: &[Report]) -> Reply<u64> {
            self.told.lock().unwrap().push((first, reports.to_vec()));
            next(&self.reports).await
        }

        async fn finish(&self, verdict: &Verdict) -> Reply<()> {
            self.ended.lock().unwrap().push(verdict.clone());
            next(&self.ends).await
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn keeper(script: &Script, times: Times) -> Keeper<&Script> {
        Keeper::new(script, Arc::new(SystemClock), DeploymentId::generate(), times, SystemClock.boot())
    }

    fn script<T>(replies: impl IntoIterator<Item = T>) -> Mutex<VecDeque<T>> {
        Mutex::new(replies.into_iter().collect())
    }

    fn unknown<T>() -> Reply<T> {
        Reply::Unknown("no answer".to_owned())
    }

    fn failed() -> Verdict {
        Verdict::Failed { cause: FailureCause::PhaseFailed, message: "it failed".to_owned(), phase: None }
    }

    /// Keeps the lease until a stop comes for which `fits` holds.
    async fn stop_of(keeper: &Keeper<&Script>, fits: impl FnMut(&Option<Stop>) -> bool) -> Option<Stop> {
        let mut stop = keeper.stop();
        tokio::select! {
            stop = stop.wait_for(fits) => *stop.unwrap(),
            never = keeper.keep() => match never {},
        }
    }

    fn is_lost(stop: &Option<Stop>) -> bool {
        matches!(stop, Some(Stop::LeaseLost { .. }))
    }

    #[tokio::test]
    async fn a_lease_without_an_answer_is_lost_when_it_was_trusted_until() {
        let all_of_it = Times { kill_budget: HOUR - Duration::from_millis(500), ..Times::of_length(HOUR) };
        let script =
            Script { heartbeats: script([unknown(), Reply::Full, Reply::Gap { last: 3 }]), ..Script::default() };
        let keeper = keeper(&script, all_of_it);
        let trusted_until = *keeper.deadline().borrow();
        assert_eq!(stop_of(&keeper, is_lost).await, Some(Stop::LeaseLost { deadline: trusted_until }));
    }

    #[tokio::test]
    async fn a_lease_that_is_said_to_be_lost_ends_within_the_kill_budget() {
        let script = Script { heartbeats: script([Reply::Lost]), ..Script::default() };
        let keeper = keeper(&script, Times::of_length(HOUR));
        let trusted_until = *keeper.deadline().borrow();
        let Some(Stop::LeaseLost { deadline }) = stop_of(&keeper, is_lost).await else { panic!("it is not lost") };
        assert!(deadline < trusted_until, "the rest of the lease is another's");
    }

    #[tokio::test]
    async fn a_cancel_is_passed_on_with_its_reason_and_the_lease_is_renewed_all_the_same() {
        let cancel = Renewed { is_cancelled: true, reason: Some("wrong branch".to_owned()), ..Renewed::default() };
        let script = Script { heartbeats: script([unknown(), Reply::Done(cancel)]), ..Script::default() };
        let keeper = keeper(&script, Times::of_length(HOUR));
        let trusted_until = *keeper.deadline().borrow();
        assert_eq!(stop_of(&keeper, Option::is_some).await, Some(Stop::Cancel));
        assert_eq!(keeper.reason().as_deref(), Some("wrong branch"));
        assert!(*keeper.deadline().borrow() > trusted_until);
    }

    #[tokio::test]
    async fn a_worker_that_ends_stops_the_work_and_a_lost_lease_weighs_more() {
        let script = Script { heartbeats: script([Reply::Lost]), ..Script::default() };
        let keeper = keeper(&script, Times::of_length(HOUR));
        let worker = watch::Sender::new(Some(Stop::Shutdown));
        let mut stop = keeper.stop();
        let is_shut_down = tokio::select! {
            stop = stop.wait_for(Option::is_some) => *stop.unwrap() == Some(Stop::Shutdown),
            never = keeper.obey(worker.subscribe()) => match never {},
        };
        assert!(is_shut_down);
        assert!(is_lost(&stop_of(&keeper, is_lost).await));
    }

    #[tokio::test]
    async fn a_lease_whose_grant_came_late_is_trusted_once_it_was_renewed() {
        let cancel = Renewed { is_cancelled: true, ..Renewed::default() };
        let renewed = Script { heartbeats: script([unknown(), Reply::Done(cancel)]), ..Script::default() };
        let times = Times::of_length(HOUR);
        let id = DeploymentId::generate();
        let keeper = Keeper::renewed(&renewed, Arc::new(SystemClock), id, times, HOUR).await.ok().unwrap();
        assert_eq!(*keeper.stop().borrow(), Some(Stop::Cancel), "it came meanwhile");
        let lost = Script { heartbeats: script([unknown(), Reply::Lost]), ..Script::default() };
        assert!(Keeper::renewed(&lost, Arc::new(SystemClock), id, times, HOUR).await.is_err());
    }

    #[tokio::test]
    async fn reports_are_told_once_and_in_order_whatever_the_answers() {
        let line = |text: &str| Report::Log { stream: Stream::Stdout, phase: None, lines: vec![text.to_owned()] };
        let phase = |message: Option<&str>| Report::Phase {
            name: "build".to_owned(),
            state: PhaseState::Started,
            message: message.map(str::to_owned),
        };
        let script = Script {
            reports: script([
                unknown(),
                Reply::Refused("one of them is too long".to_owned()),
                Reply::Done(1),
                Reply::Refused("that one".to_owned()),
                Reply::Done(2),
                Reply::Full,
                unknown(),
                Reply::Gap { last: 1 },
                Reply::Done(2),
            ]),
            ..Script::default()
        };
        let all = [line("a"), phase(Some("refused")), line("c"), phase(None)];
        let backlog = Backlog::journalled((), 0, (1..).zip(all.clone()).collect());
        backlog.close();
        keeper(&script, Times::of_length(HOUR)).tell(&backlog).await.unwrap();
        let wanted = [
            (1, all.to_vec()),
            (1, all.to_vec()),
            (1, vec![line("a")]),
            (2, vec![phase(Some("refused"))]),
            (2, vec![phase(None)]),
            (3, vec![line("c")]),
            (3, vec![phase(None)]),
            (3, vec![phase(None)]),
            (2, vec![phase(None)]),
        ];
        assert_eq!(*script.told.lock().unwrap(), wanted);
    }

    #[tokio::test]
    async fn after_a_lost_lease_only_the_end_is_told_for_the_record() {
        let script = Script { reports: script([Reply::Lost]), ends: script([Reply::Lost]), ..Script::default() };
        let progress = Report::Progress { progress: Some(3), message: None };
        let backlog = Backlog::journalled((), 0, vec![(1, progress)]);
        backlog.close();
        assert_eq!(keeper(&script, Times::of_length(HOUR)).finish(&backlog, failed()).await, Err(Lost));
        assert_eq!(*script.ended.lock().unwrap(), [failed()]);
    }

    #[tokio::test]
    async fn an_end_is_told_until_it_is_known_and_without_its_text_where_that_is_refused() {
        let refused = Reply::Refused("too long".to_owned());
        let ends = script([unknown(), Reply::Full, refused, unknown(), Reply::Done(())]);
        let script = Script { ends, ..Script::default() };
        let keeper = keeper(&script, Times::of_length(HOUR));
        assert_eq!(keeper.tell_end(failed(), Until::Answered).await, Ok(()));
        let bare = failed().bare();
        assert_eq!(*script.ended.lock().unwrap(), [failed(), failed(), failed(), bare.clone(), bare]);
    }

    #[tokio::test]
    async fn an_end_that_cannot_wait_is_given_up_when_the_lease_is_over() {
        let over = Times { lease: Duration::ZERO, ..Times::of_length(HOUR) };
        let script = Script { ends: script([unknown()]), ..Script::default() };
        let keeper = keeper(&script, over);
        assert_eq!(keeper.tell_end(failed(), Until::LeaseOver).await, Err(Lost));
        let twice = Reply::Refused("never".to_owned());
        script.ends.lock().unwrap().extend([twice.clone(), twice]);
        assert_eq!(keeper.tell_end(failed(), Until::Answered).await, Err(Lost), "refused without its text, too");
    }
}
