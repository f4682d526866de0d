//! Finished output is compressed, what is old goes, and what says what is live stays: on each engine with a disk.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use singletrack::{
    clock::{BootInstant, Clock},
    config::RetentionRules,
    health::Pulse,
    model::{
        Caller, Event, EventBody, IdempotencyKey, Report, Status, Stream, Verdict,
        admission::{OnConflict, Submission},
    },
    store::{ListQuery, StoreError},
    upkeep::{Caretaker, LeakedSecret, Pace, PrunePlan, RulesOf, TASK, redact},
};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{TestServer, gated_config},
    store_trial::{HandClock, Trial, id, kept_on_disk, name, spec},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

kept_on_disk! {
    finished_output_is_compressed_and_reads_as_before,
    output_of_what_is_not_final_stays_in_rows,
    compression_goes_on_after_a_stop_in_its_middle,
    what_is_old_goes_and_what_says_what_is_live_stays,
    output_goes_before_its_deployment,
    a_project_keeps_by_its_own_rules,
    nothing_goes_without_rules,
    the_schema_lets_nothing_else_be_removed,
    numbers_of_removed_deployments_are_never_given_again,
    readers_page_on_through_what_goes,
    readers_at_work_meet_each_row_once_while_retention_removes,
    a_key_protects_for_as_long_as_its_deployment_is_kept,
    a_clock_that_leaps_ahead_removes_nothing_at_once,
    a_dry_run_says_what_a_look_removes,
    a_leaked_secret_is_taken_out_of_everything,
}

pub struct Care {
    caretaker: Caretaker,
    pulse: Pulse,
    shutdown: CancellationToken,
}

impl Care {
    pub fn of(trial: &Trial, rules: RetentionRules) -> Care {
        Care::by(trial, trial.clock.clone(), Arc::new(move |_| rules))
    }

    pub fn by(trial: &Trial, clock: Arc<dyn Clock>, rules: RulesOf) -> Care {
        let caretaker = Caretaker::new(trial.store.clone(), clock, rules, Arc::new(|| Duration::from_millis(1)));
        Care { caretaker, pulse: Pulse::new(TASK), shutdown: CancellationToken::new() }
    }

    /// Looks twice: what one look has seen, the next one takes care of.
    pub async fn look(&mut self) {
        for _ in 0..2 {
            // Of several servers, one looks in each interval.
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.caretaker.look(Pace::Alone, &self.pulse, &self.shutdown).await.unwrap();
        }
    }
}

pub const NOTHING: RetentionRules = RetentionRules { output: None, deployments: None, keep: 1 };

fn keeping(output: Option<u32>, deployments: Option<u32>, keep: u32) -> RetentionRules {
    RetentionRules { output: output.map(|days| DAY * days), deployments: deployments.map(|days| DAY * days), keep }
}

/// A deployment from its submit to its end, with so many lines of output.
pub async fn deployed(trial: &Trial, project: &str, number: u64, lines: u64, verdict: Verdict) {
    trial.submit(project, number, OnConflict::Refuse).await;
    run(trial, project, number, lines, verdict).await;
}

async fn run(trial: &Trial, project: &str, number: u64, lines: u64, verdict: Verdict) {
    let secret = trial.claim(project, number).await;
    let mut reports = Vec::new();
    for line in 0..lines {
        let text =
            format!("line {line} of {number}: compiling crate number {line} in the usual way \u{1f682} \"quoted\"");
        reports.push(Report::Log { stream: Stream::Stdout, phase: Some("build".to_owned()), lines: vec![text; 3] });
        if line % 7 == 0 {
            reports.push(Report::Progress { progress: Some((line * 90 / lines) as u8), message: None });
        }
    }
    for some in reports.chunks(50) {
        trial.queue.report(name(project), id(number), secret, None, some.to_vec()).await.unwrap();
    }
    trial.queue.finish(name(project), id(number), secret, verdict).await.unwrap();
}

pub fn succeeded() -> Verdict {
    Verdict::Succeeded { outputs: BTreeMap::default() }
}

pub fn failed() -> Verdict {
    let cause = singletrack::model::FailureCause::PhaseFailed;
    Verdict::Failed { cause, message: "no".to_owned(), phase: None }
}

async fn rows_of_output(trial: &Trial, number: u64) -> usize {
    let upkeep = trial.store.upkeep().unwrap();
    let mut count = 0;
    for arrival in upkeep.arrivals(0, 1000).await.unwrap() {
        let events = upkeep.unpacked(arrival.row).await.unwrap();
        let of = format!("of {number}:");
        count += events.iter().filter(|event| event.body.contains(&of)).count();
    }
    count
}

/// Every page of a deployment's events, forwards and backwards, of these sizes.
async fn pages(trial: &Trial, number: u64, count: u64) -> Vec<Vec<Event>> {
    let mut pages = Vec::new();
    for limit in [1, 2, 5, 40, 10_000] {
        for place in 0..=count + 1 {
            pages.push(trial.store.events(id(number), place, limit).await.unwrap());
            pages.push(trial.store.events_before(id(number), place, limit).await.unwrap());
        }
    }
    pages
}

async fn exists(trial: &Trial, project: &str, number: u64) -> bool {
    trial.store.deployment(name(project), id(number)).await.unwrap().is_some()
}

async fn kept(trial: &Trial, project: &str, numbers: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    let mut kept = Vec::new();
    for number in numbers {
        if exists(trial, project, number).await {
            kept.push(number);
        }
    }
    kept
}

async fn has_output(trial: &Trial, number: u64) -> bool {
    trial.events(number).await.iter().any(|event| event.body.is_log())
}

async fn finished_output_is_compressed_and_reads_as_before(trial: Trial) {
    deployed(&trial, "web", 1, 60, succeeded()).await;
    deployed(&trial, "api", 2, 3000, failed()).await;
    deployed(&trial, "web", 3, 0, succeeded()).await;
    let count = trial.deployment("web", 1).await.event_count;
    let before = (pages(&trial, 1, count).await, trial.events(2).await, trial.events(3).await);
    assert!(rows_of_output(&trial, 1).await > 0);
    Care::of(&trial, NOTHING).look().await;
    assert_eq!((rows_of_output(&trial, 1).await, rows_of_output(&trial, 2).await), (0, 0), "all of it is in blocks");
    assert!(before == (pages(&trial, 1, count).await, trial.events(2).await, trial.events(3).await));
    // More than one block.
    let middle = before.1.len() as u64 / 2;
    let page = trial.store.events(id(2), middle, 10).await.unwrap();
    assert_eq!(page, before.1[middle as usize..middle as usize + 10]);
    let upkeep = trial.store.upkeep().unwrap();
    let mut packed = 0;
    for (project, _) in upkeep.history().project_rows().await.unwrap() {
        let outputs = upkeep.history().aged_outputs(project, singletrack::model::Revision(0), 10).await.unwrap();
        packed += outputs.iter().map(|output| output.output_bytes).sum::<u64>();
    }
    let raw: u64 =
        trial.deployment("api", 2).await.logs.total_bytes + trial.deployment("web", 1).await.logs.total_bytes;
    assert!(packed > 0 && packed * 5 < raw, "{packed} of {raw} bytes");
}

async fn output_of_what_is_not_final_stays_in_rows(trial: Trial) {
    trial.submit("web", 1, OnConflict::Refuse).await;
    let secret = trial.claim("web", 1).await;
    let lines = vec!["line 1 of 1: still running".to_owned()];
    let log = Report::Log { stream: Stream::Stdout, phase: None, lines };
    trial.queue.report(name("web"), id(1), secret, None, vec![log]).await.unwrap();
    deployed(&trial, "api", 2, 10, succeeded()).await;
    let mut care = Care::of(&trial, NOTHING);
    care.look().await;
    assert_eq!((rows_of_output(&trial, 1).await, rows_of_output(&trial, 2).await), (1, 0));
    trial.finish("web", 1, secret).await;
    let told = trial.events(1).await;
    care.look().await;
    assert_eq!(rows_of_output(&trial, 1).await, 0, "it was come back to");
    assert_eq!(trial.events(1).await, told);
    // So does a server that has just started.
    deployed(&trial, "web", 3, 10, succeeded()).await;
    Care::of(&trial, NOTHING).look().await;
    assert_eq!(rows_of_output(&trial, 3).await, 0);
}

async fn compression_goes_on_after_a_stop_in_its_middle(trial: Trial) {
    deployed(&trial, "web", 1, 3000, succeeded()).await;
    let before = trial.events(1).await;
    // The first block alone, as a server leaves it that is killed between two of them.
    let upkeep = trial.store.upkeep().unwrap();
    let row = upkeep.arrivals(0, 1).await.unwrap()[0].row;
    let first = upkeep.unpacked(row).await.unwrap();
    let block = singletrack::store::blocks::Block::of(&first).unwrap().unwrap();
    assert!(upkeep.pack(row, block.clone()).await.unwrap());
    assert!(trial.events(1).await == before, "half in blocks, half in rows");
    // The same once more, as where an answer was lost: it is noticed.
    assert!(!upkeep.pack(row, block).await.unwrap());
    assert!(!upkeep.finish_packing(row).await.unwrap());
    assert!(trial.events(1).await == before);
    Care::of(&trial, NOTHING).look().await;
    assert_eq!(rows_of_output(&trial, 1).await, 0);
    assert!(trial.events(1).await == before);
}

/// Another project, so that there is something by which ages can begin.
async fn begun(trial: &Trial) {
    deployed(trial, "first", 900, 0, succeeded()).await;
}

/// Ten deployments of `web`, one a day.
async fn history(trial: &Trial, verdicts: impl Fn(u64) -> Verdict) {
    for number in 1..=10 {
        deployed(trial, "web", number, 5, verdicts(number)).await;
        trial.clock.advance(DAY);
    }
}

async fn what_is_old_goes_and_what_says_what_is_live_stays(trial: Trial) {
    begun(&trial).await;
    let mut care = Care::of(&trial, keeping(None, Some(30), 2));
    care.look().await;
    // The last success is the fourth, the one before it the second.
    history(&trial, |number| if number == 2 || number == 4 { succeeded() } else { failed() }).await;
    trial.submit("web", 11, OnConflict::Refuse).await;
    trial.clock.advance(DAY * 25);
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=11).await, [2, 4, 7, 8, 9, 10, 11], "1, 3, 5 and 6 are old");
    trial.clock.advance(DAY * 365);
    care.look().await;
    // The two newest are 10 and 11; 11 is not final.
    assert_eq!(kept(&trial, "web", 1..=11).await, [2, 4, 10, 11]);
    assert_eq!(trial.deployment("web", 11).await.status(), Status::Pending);
    assert!(trial.events(1).await.is_empty() && trial.events(9).await.is_empty());
    assert_eq!(trial.store.numbered(name("web"), 9).await.unwrap(), None);
    let project = trial.store.project(name("web"), 9).await.unwrap().unwrap();
    assert_eq!(project.last_outcome.unwrap().id, id(10));
    // Life goes on.
    let secret = trial.claim("web", 11).await;
    trial.finish("web", 11, secret).await;
    deployed(&trial, "web", 12, 1, succeeded()).await;
    trial.clock.advance(DAY * 365);
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=12).await, [11, 12], "the last two successes, which are the newest, too");
}

async fn output_goes_before_its_deployment(trial: Trial) {
    begun(&trial).await;
    let mut care = Care::of(&trial, keeping(Some(3), Some(365), 2));
    care.look().await;
    history(&trial, |_| failed()).await;
    let told = trial.events(1).await;
    care.look().await;
    for number in 1..=10 {
        assert_eq!(has_output(&trial, number).await, number >= 9, "{number}");
    }
    let left = trial.events(1).await;
    let others: Vec<_> = told.into_iter().filter(|event| !event.body.is_log()).collect();
    assert_eq!(left, others, "what is no output is there");
    assert_eq!(kept(&trial, "web", 1..=10).await.len(), 10);
    trial.clock.advance(DAY * 100);
    care.look().await;
    for number in 1..=10 {
        assert_eq!(has_output(&trial, number).await, number >= 9, "the two newest keep theirs: {number}");
    }
}

async fn a_project_keeps_by_its_own_rules(trial: Trial) {
    let rules: RulesOf = Arc::new(|project| match project.as_str() {
        "web" => keeping(None, Some(10), 1),
        _ => keeping(None, Some(1000), 1),
    });
    begun(&trial).await;
    let mut care = Care::by(&trial, trial.clock.clone(), rules);
    care.look().await;
    for number in 1..=3 {
        deployed(&trial, "web", number, 1, failed()).await;
        deployed(&trial, "api", 10 + number, 1, failed()).await;
    }
    trial.clock.advance(DAY * 100);
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=3).await, [3]);
    assert_eq!(kept(&trial, "api", 11..=13).await, [11, 12, 13]);
}

async fn nothing_goes_without_rules(trial: Trial) {
    begun(&trial).await;
    let mut care = Care::of(&trial, RetentionRules::default());
    care.look().await;
    history(&trial, |_| failed()).await;
    trial.clock.advance(DAY * 3650);
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=10).await.len(), 10);
    assert!(has_output(&trial, 1).await);
}

async fn the_schema_lets_nothing_else_be_removed(trial: Trial) {
    deployed(&trial, "web", 1, 5, succeeded()).await;
    trial.submit("web", 2, OnConflict::Refuse).await;
    let upkeep = trial.store.upkeep().unwrap();
    let rows: Vec<_> = upkeep.arrivals(0, 9).await.unwrap().iter().map(|arrival| arrival.row).collect();
    for row in rows {
        let refused = upkeep.remove(vec![row]).await;
        assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("only old final")), "{refused:?}");
        upkeep.remove_output(row).await.unwrap();
    }
    assert_eq!(kept(&trial, "web", 1..=2).await, [1, 2], "one is live, the other waits");
    assert!(!trial.events(2).await.is_empty());
}

async fn numbers_of_removed_deployments_are_never_given_again(trial: Trial) {
    begun(&trial).await;
    let mut care = Care::of(&trial, keeping(None, Some(10), 1));
    care.look().await;
    history(&trial, |_| failed()).await;
    trial.clock.advance(DAY * 100);
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=10).await, [10]);
    trial.submit("web", 11, OnConflict::Refuse).await;
    assert_eq!(trial.deployment("web", 11).await.number, 11);
    let secret = trial.claim("web", 11).await;
    trial.finish("web", 11, secret).await;
    assert_eq!(trial.store.numbered(name("web"), 11).await.unwrap(), Some(id(11)));
}

async fn readers_page_on_through_what_goes(trial: Trial) {
    begun(&trial).await;
    let mut care = Care::of(&trial, keeping(Some(1), Some(10), 2));
    care.look().await;
    history(&trial, |_| failed()).await;
    let list = |before| {
        let query = ListQuery { status: None, before, limit: 3 };
        trial.store.list(name("web"), query)
    };
    let first = list(None).await.unwrap();
    assert_eq!(first.iter().map(|it| it.number).collect::<Vec<_>>(), [10, 9, 8]);
    trial.clock.advance(DAY * 100);
    care.look().await;
    // The cursor names a deployment that is gone.
    let next = list(Some(first[2].ticket)).await.unwrap();
    assert!(next.is_empty(), "{next:?}");
    assert_eq!(list(Some(first[0].ticket)).await.unwrap().iter().map(|it| it.number).collect::<Vec<_>>(), [9]);
    // A deployment that is kept, whose output goes while somebody reads it.
    let all = trial.events(9).await;
    let read = all.iter().find(|event| event.body.is_log()).unwrap().seq;
    for number in 11..=13 {
        deployed(&trial, "web", number, 1, succeeded()).await;
    }
    Care::of(&trial, keeping(Some(1), None, 1)).look().await;
    let rest: Vec<_> = all.into_iter().filter(|event| event.seq > read && !event.body.is_log()).collect();
    assert_eq!(trial.store.events(id(9), read, 100).await.unwrap(), rest);
}

async fn readers_at_work_meet_each_row_once_while_retention_removes(trial: Trial) {
    begun(&trial).await;
    let mut care = Care::of(&trial, keeping(Some(1), Some(10), 5));
    care.look().await;
    for number in 1..=60 {
        let lines = if number == 50 { 4000 } else { 3 };
        deployed(&trial, "web", number, lines, failed()).await;
        trial.clock.advance(DAY / 3);
    }
    Care::of(&trial, NOTHING).look().await;
    let told = trial.events(50).await;
    // The output of all but the newest goes; 1 to 30 or so go as a whole; 50 stays, without its output.
    let upkeep = trial.store.upkeep().unwrap();
    let row_of_50 = upkeep.arrivals(0, 1000).await.unwrap()[50].row;
    let (done, is_done) = tokio::sync::watch::channel(false);
    let removal = async {
        // In steps, each of which lets the readers read on.
        while upkeep.remove_output(row_of_50).await.unwrap() {
            tokio::task::yield_now().await;
        }
        care.look().await;
        done.send(true).unwrap();
    };
    let events = async {
        let mut passes = 0;
        loop {
            let is_last = *is_done.borrow();
            let (mut after, mut met) = (0, Vec::new());
            loop {
                let page = trial.store.events(id(50), after, 97).await.unwrap();
                let Some(last) = page.last() else { break };
                after = last.seq;
                met.extend(page);
            }
            assert!(met.windows(2).all(|pair| pair[0].seq < pair[1].seq), "no row comes twice");
            assert!(
                met.iter().all(|event| told[event.seq as usize - 1] == *event),
                "no row comes with another's content"
            );
            let others = |events: &[Event]| events.iter().filter(|event| !event.body.is_log()).count();
            assert_eq!(others(&met), others(&told), "only output goes");
            passes += 1;
            if is_last {
                assert!(!met.iter().any(|event| event.body.is_log()));
                return passes;
            }
        }
    };
    let lists = async {
        loop {
            let is_last = *is_done.borrow();
            let (mut before, mut met) = (None, Vec::new());
            loop {
                let query = ListQuery { status: None, before, limit: 7 };
                let page = trial.store.list(name("web"), query).await.unwrap();
                let Some(last) = page.last() else { break };
                before = Some(last.ticket);
                met.extend(page.iter().map(|it| it.number));
            }
            assert!(met.windows(2).all(|pair| pair[0] > pair[1]), "none comes twice: {met:?}");
            assert_eq!(met[..25], (36..=60).rev().collect::<Vec<_>>(), "those that stay are always there");
            if is_last {
                assert!(met.len() < 40, "{met:?}");
                return;
            }
        }
    };
    let ((), passes, ()) = tokio::join!(removal, events, lists);
    assert!(passes > 1);
}

async fn a_key_protects_for_as_long_as_its_deployment_is_kept(trial: Trial) {
    begun(&trial).await;
    let mut care = Care::of(&trial, keeping(None, Some(1), 1));
    care.look().await;
    let wish = |number| {
        let key: IdempotencyKey = "build-1".parse().unwrap();
        Submission {
            id: id(number),
            project: name("web"),
            spec: spec(),
            key: Some((key, [7; 32])),
            on_conflict: OnConflict::Refuse,
            refusal: None,
            sealed: None,
            claim: None,
        }
    };
    trial.queue.submit(&Caller::server(), wish(1)).await.unwrap();
    run(&trial, "web", 1, 1, failed()).await;
    deployed(&trial, "web", 2, 1, failed()).await;
    trial.clock.advance(DAY * 6);
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=2).await, [1, 2], "for seven days, whatever the rules say");
    trial.queue.submit(&Caller::server(), wish(3)).await.unwrap();
    assert!(!exists(&trial, "web", 3).await, "the key stands for the first");
    trial.clock.advance(DAY * 2);
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=2).await, [2]);
    trial.queue.submit(&Caller::server(), wish(3)).await.unwrap();
    assert!(exists(&trial, "web", 3).await, "the key is free again");
}

/// The hand clock, of which only the time of day was set.
struct Leapt(Arc<HandClock>, Duration);

impl Clock for Leapt {
    fn wall(&self) -> jiff::Timestamp {
        self.0.wall() + self.1
    }

    fn boot(&self) -> BootInstant {
        self.0.boot()
    }
}

async fn a_clock_that_leaps_ahead_removes_nothing_at_once(trial: Trial) {
    let rules = keeping(Some(20), Some(20), 1);
    begun(&trial).await;
    Care::of(&trial, rules).look().await;
    history(&trial, |_| failed()).await;
    let leapt = Arc::new(Leapt(trial.clock.clone(), DAY * 730));
    let mut care = Care::by(&trial, leapt, Arc::new(move |_| rules));
    care.look().await;
    trial.clock.advance(Duration::from_secs(3600));
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=10).await.len(), 10, "an hour counts as a day at most");
    assert!(has_output(&trial, 1).await);
    trial.clock.advance(Duration::from_secs(25 * 3600));
    care.look().await;
    let left = kept(&trial, "web", 1..=10).await.len();
    assert!((2..10).contains(&left), "it follows, a day in each hour: {left}");
    // The clock is right again.
    let mut care = Care::of(&trial, rules);
    care.look().await;
    assert_eq!(kept(&trial, "web", 1..=10).await.len(), left);
}

async fn a_dry_run_says_what_a_look_removes(trial: Trial) {
    let rules: RulesOf = Arc::new(|_| keeping(Some(3), Some(8), 1));
    begun(&trial).await;
    let mut care = Care::by(&trial, trial.clock.clone(), rules.clone());
    care.look().await;
    history(&trial, |_| failed()).await;
    Care::of(&trial, NOTHING).look().await;
    trial.clock.advance(DAY);
    let plan = PrunePlan::of(trial.store.upkeep().unwrap().history(), &rules, trial.clock.wall()).await.unwrap();
    let [web] = plan.0.iter().filter(|it| it.loses()).collect::<Vec<_>>()[..] else { panic!("{plan:?}") };
    assert!(web.bytes > 0);
    assert_eq!(kept(&trial, "web", 1..=10).await.len(), 10, "nothing went");
    care.look().await;
    let left = kept(&trial, "web", 1..=10).await;
    assert_eq!(10 - left.len() as u64, web.deployments);
    let mut without = 0;
    for number in left {
        without += u64::from(!has_output(&trial, number).await);
    }
    assert_eq!(without, web.outputs);
    let plan = PrunePlan::of(trial.store.upkeep().unwrap().history(), &rules, trial.clock.wall()).await.unwrap();
    assert!(!plan.0.iter().any(|project| project.loses()), "{plan:?}");
}

const SECRET: &str = "hunter2-hunter2";

/// Two deployments with a secret in all of their texts.
async fn leak(trial: &Trial) {
    for number in [1, 2] {
        let spec = singletrack::model::Spec {
            message: Some(format!("with {SECRET}")),
            inputs: BTreeMap::from([("key".to_owned(), SECRET.to_owned()), ("other".to_owned(), "kept".to_owned())]),
            ..spec()
        };
        trial.submit_spec("web", number, OnConflict::Refuse, spec).await;
        let secret = trial.claim("web", number).await;
        let log =
            |line: String| Report::Log { stream: Stream::Stdout, phase: None, lines: vec![line, "kept".to_owned()] };
        let reports = vec![
            log(format!("export KEY={SECRET};{SECRET}")),
            Report::Progress { progress: Some(1), message: Some(format!("at {SECRET}")) },
            Report::Output { name: "url".to_owned(), value: format!("http://{SECRET}@host") },
            log(format!("bye {SECRET}")),
        ];
        trial.queue.report(name("web"), id(number), secret, None, reports).await.unwrap();
        let cause = singletrack::model::FailureCause::PhaseFailed;
        let verdict = Verdict::Failed { cause, message: format!("no {SECRET}"), phase: None };
        trial.queue.finish(name("web"), id(number), secret, verdict).await.unwrap();
    }
}

async fn told_of(trial: &Trial, number: u64) -> String {
    format!("{:?} {:?}", trial.deployment("web", number).await, trial.events(number).await)
}

async fn a_leaked_secret_is_taken_out_of_everything(trial: Trial) {
    leak(&trial).await;
    let room = trial.store.redact().unwrap();
    // What is in rows, and once more what came into blocks.
    let before = told_of(&trial, 1).await;
    assert_eq!(before.matches(SECRET).count(), 10, "{before}");
    let count = redact(room, id(1), LeakedSecret::value(&format!("{SECRET}\n")).unwrap()).await.unwrap();
    assert!(count.is_record_changed && count.is_scrubbed && count.damaged_blocks == 0, "{count:?}");
    let after = told_of(&trial, 1).await;
    assert_eq!((after.matches(SECRET).count(), after.matches("[redacted]").count()), (0, 10), "{after}");
    assert_eq!(after, before.replace(SECRET, "[redacted]"));
    Care::of(&trial, NOTHING).look().await;
    assert_eq!(told_of(&trial, 1).await, after);
    let count = redact(room, id(2), LeakedSecret::pattern("hunter[0-9]-[a-z]+2").unwrap()).await.unwrap();
    assert!(count.events >= 4, "{count:?}");
    assert!(!told_of(&trial, 2).await.contains(SECRET));
    // Nothing more is found.
    let again = redact(room, id(2), LeakedSecret::value(SECRET).unwrap()).await.unwrap();
    assert_eq!((again.events, again.is_record_changed), (0, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn redact_takes_the_secret_from_standard_input_and_shows_it_nowhere() {
    let server = TestServer::start(&gated_config(""));
    let id = server.accepted(json!({ "pipeline": "quick", "message": format!("with {SECRET}") })).await;
    server.finished(&id).await;
    let redact = |stdin: &str, more: &[&str]| {
        std::fs::write(server.path("secret"), stdin).unwrap();
        let stdin = std::fs::File::open(server.path("secret")).unwrap();
        let mut command = server.tool(&["redact", "--project", "web", "1", "--server", &server.base]);
        let done = command.args(more).stdin(stdin).output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(!told.contains(SECRET), "{told}");
        (done.status.code(), told)
    };
    let from_stdin = ["--value-from-stdin", "--reason", "the key was printed"];
    for (stdin, more) in [("", &from_stdin[..]), ("abc", &from_stdin[..]), (SECRET, &["--reason", "none is given"][..])]
    {
        let (code, told) = redact(stdin, more);
        assert_ne!(code, Some(0), "{told}");
    }
    let (code, told) = redact(SECRET, &["--value-from-stdin", "--reason", &format!("it was {SECRET}")][..]);
    // The reason of the command line is refused before it is recorded.
    assert_ne!(code, Some(0), "{told}");
    let (code, told) = redact(&format!("{SECRET}\n"), &from_stdin);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("the record itself"), "{told}");
    let deployment = server.deployment(&id, "").await;
    assert_eq!(
        deployment.body["message"].as_str().or(deployment.body["source"]["message"].as_str()),
        Some("with [redacted]"),
        "{}",
        deployment.text
    );
    let audit = server.get("/v1/audit?action=redact").await;
    assert!(audit.text.contains("the key was printed") && !audit.text.contains(SECRET), "{}", audit.text);
    assert!(!server.log().contains(SECRET), "{}", server.log());
    let missing = server
        .post(
            &format!("/v1/projects/web/deployments/{}/redact", uuid::Uuid::nil()),
            json!({ "reason": "r", "value": SECRET }),
        )
        .await;
    assert_eq!(missing.status, 404, "{}", missing.text);
}

#[tokio::test]
async fn of_a_redacted_secret_nothing_is_left_in_the_files() {
    let trial = Trial::sqlite();
    leak(&trial).await;
    let path = trial.path();
    let holds = || {
        let directory = std::fs::read_dir(path.parent().unwrap()).unwrap();
        let files = directory.map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.map(|file| file.windows(SECRET.len()).filter(|bytes| *bytes == SECRET.as_bytes()).count()).sum::<usize>()
    };
    assert!(holds() > 0);
    // One before its output is compressed, the other after that.
    let room = trial.store.redact().unwrap();
    redact(room, id(1), LeakedSecret::value(SECRET).unwrap()).await.unwrap();
    Care::of(&trial, NOTHING).look().await;
    redact(room, id(2), LeakedSecret::value(SECRET).unwrap()).await.unwrap();
    assert_eq!(holds(), 0);
    assert!(!told_of(&trial, 2).await.contains(SECRET));
    // The log goes on after it was overwritten.
    deployed(&trial, "web", 3, 5, succeeded()).await;
    let trial = trial.reopened();
    assert_eq!(trial.deployment("web", 3).await.status(), Status::Succeeded);
}

#[tokio::test]
async fn a_damaged_block_says_so_and_harms_nothing_else() {
    let trial = Trial::sqlite();
    deployed(&trial, "web", 1, 20, succeeded()).await;
    deployed(&trial, "web", 2, 20, succeeded()).await;
    let (first, second) = (trial.events(1).await, trial.events(2).await);
    Care::of(&trial, NOTHING).look().await;
    let trial = trial.reopened_after(|path| {
        let db = rusqlite::Connection::open(path).unwrap();
        let damaged = "INSERT INTO permits VALUES ('redact'); UPDATE output_blocks SET body = zeroblob(40) \
            WHERE deployment = 1; DELETE FROM permits";
        db.execute_batch(damaged).unwrap();
    });
    let read = trial.events(1).await;
    let others: Vec<_> = first.iter().filter(|event| !event.body.is_log()).collect();
    let left: Vec<_> = read.iter().filter(|event| !event.body.is_log()).collect();
    assert_eq!(left, others);
    let damaged: Vec<_> = read.iter().filter(|event| event.body.is_log()).collect();
    let [Event { body: EventBody::Log { lines, .. }, .. }] = damaged.as_slice() else { panic!("{damaged:?}") };
    assert!(lines[0].contains("damaged"), "{lines:?}");
    assert_eq!(trial.store.unreadable_count(), 1);
    assert_eq!(trial.events(2).await, second);
}
