//! The transition table, for people to review: each state under each command.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use jiff::Timestamp;
use singletrack::model::{
    Changes, Command, Deployment, Event, EventBody, FailureCause, Hold, Lapse, LeaseHolder, Loaded, Mention,
    PhaseState, Place, Policy, Project, Refusal, Report, Revision, SecretHash, Slot, State, Status, Step, Stream,
    Verdict, Vital,
    lifecycle::{EVENTS_LIMIT, Entry, Moment},
};

use crate::store_trial::{id, name, spec};

const SECRET: SecretHash = SecretHash([1; 32]);
const STALE: SecretHash = SecretHash([2; 32]);

#[test]
fn the_transition_table_is_as_reviewed() {
    let mut table = String::new();
    for (title, deployment) in states() {
        writeln!(table, "{title}").unwrap();
        let mut refused: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (command, make) in COMMANDS {
            match told(&deployment, make(&deployment)) {
                Ok(step) => writeln!(table, "    {command:<24} -> {step}").unwrap(),
                Err(refusal) => refused.entry(format!("{refusal:?}")).or_default().push(command),
            }
        }
        for (refusal, commands) in refused {
            writeln!(table, "    refused, {refusal}: {}", commands.join("; ")).unwrap();
        }
        writeln!(table).unwrap();
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_deployment_with_a_million_events_says_so_once_keeps_its_record_and_tells_its_end() {
    let mut running = made(
        Entry::Ready,
        vec![Command::Claim { secret: SECRET, ttl: Duration::from_secs(60), holder: LeaseHolder::worker("w") }],
    );
    running.event_count = EVENTS_LIMIT - 1;
    let lines = |step: &Step| {
        let logs = step.events().iter().filter_map(|event| match &event.body {
            EventBody::Log { lines, .. } => Some(lines.join("")),
            _ => None,
        });
        logs.collect::<Vec<_>>()
    };
    let log = |line: &str| Report::Log { stream: Stream::Stdout, phase: None, lines: vec![line.to_owned()] };
    let reports = vec![log("the last one"), log("not kept"), log("not kept either")];
    let step = running.step(Command::Report { secret: SECRET, first: None, reports }, moment(&running)).unwrap();
    let kept = lines(&step);
    assert_eq!((kept.len(), &*kept[0]), (2, "the last one"));
    assert!(kept[1].contains("1,000,000 events"), "{kept:?}");

    let running = step.deployment().clone();
    let reports = vec![
        Report::Progress { progress: Some(40), message: Some("far".to_owned()) },
        Report::Phase { name: "p".to_owned(), state: PhaseState::Started, message: None },
        Report::Output { name: "url".to_owned(), value: "x".to_owned() },
        log("not kept"),
    ];
    let step = running.step(Command::Report { secret: SECRET, first: None, reports }, moment(&running)).unwrap();
    assert_eq!(step.events(), []);
    let running = step.deployment().clone();
    assert_eq!((running.progress, running.phase.as_deref(), &*running.outputs["url"]), (40, Some("p"), "x"));
    assert_eq!(running.report_count, 7, "each report is recorded, and none is asked for again");

    let finish = Command::Finish { secret: SECRET, verdict: Verdict::Succeeded { outputs: BTreeMap::new() } };
    let step = running.step(finish, moment(&running)).unwrap();
    assert!(matches!(step.events().last().unwrap().body, EventBody::Complete), "{:?}", step.events());
}

/// A deployment in every state there is, made as production makes them.
fn states() -> Vec<(&'static str, Deployment)> {
    let waiting = |place| {
        made(
            Entry::Waiting { place, position: 1, blocker: Some(other(9)), rank: None, overtaker: None, hold: None },
            vec![],
        )
    };
    let ticket = || waiting(Place::Ticket { window: Duration::from_secs(30) });
    let with = |commands| made(Entry::Ready, commands);
    let claim = || Command::Claim { secret: SECRET, ttl: Duration::from_secs(60), holder: LeaseHolder::worker("w") };
    let cancel = |superseded_by| Command::Cancel { reason: None, superseded_by, by: None };
    let finish = |verdict| Command::Finish { secret: SECRET, verdict };
    let reserved = then(ticket(), Command::Promote);
    vec![
        ("WAITING, with a ticket", ticket()),
        ("WAITING, queued", waiting(Place::Queued)),
        ("RESERVED", reserved),
        ("READY", with(vec![])),
        ("RUNNING", with(vec![claim()])),
        ("RUNNING, asked to stop", with(vec![claim(), cancel(None)])),
        ("RUNNING, asked to stop for a successor", with(vec![claim(), cancel(Some(other(9)))])),
        ("SUCCEEDED", with(vec![claim(), finish(Verdict::Succeeded { outputs: BTreeMap::new() })])),
        ("FAILED", with(vec![claim(), finish(failed())])),
        ("CANCELLED", with(vec![cancel(None)])),
    ]
}

type Make = fn(&Deployment) -> Command;

const COMMANDS: &[(&str, Make)] = &[
    ("promote", |_| Command::Promote),
    ("put ahead", |_| Command::PutAhead { rank: 5, position: 1, blocker: Some(other(9)) }),
    ("overtaken", |_| Command::Overtaken { position: 2, blocker: Some(other(9)), by: other(8) }),
    ("attend", |_| Command::Attend { window: Duration::from_secs(5) }),
    ("take up", |_| Command::TakeUp),
    ("take back", |_| Command::TakeBack { position: 1, hold: paused() }),
    ("claim", |_| Command::Claim { secret: SECRET, ttl: Duration::from_secs(60), holder: LeaseHolder::worker("w") }),
    ("postpone", |_| Command::Postpone { why: "no free place".to_owned() }),
    ("heartbeat", |_| Command::Heartbeat { secret: SECRET }),
    ("heartbeat, stale lease", |_| Command::Heartbeat { secret: STALE }),
    ("report a phase", |_| report(Report::Phase { name: "p".to_owned(), state: PhaseState::Started, message: None })),
    ("report progress", |_| report(Report::Progress { progress: Some(40), message: None })),
    ("report output", |_| report(Report::Output { name: "url".to_owned(), value: "x".to_owned() })),
    ("report a log", |_| report(Report::Log { stream: Stream::Stdout, phase: None, lines: vec!["x".to_owned()] })),
    ("report, stale lease", |_| Command::Report { secret: STALE, first: None, reports: vec![] }),
    ("cancel", |_| Command::Cancel { reason: None, superseded_by: None, by: None }),
    ("cancel for a successor", |_| Command::Cancel { reason: None, superseded_by: Some(other(9)), by: None }),
    ("finish: succeeded", |_| Command::Finish {
        secret: SECRET,
        verdict: Verdict::Succeeded { outputs: BTreeMap::new() },
    }),
    ("finish: failed", |_| Command::Finish { secret: SECRET, verdict: failed() }),
    ("finish: stopped", |_| Command::Finish { secret: SECRET, verdict: Verdict::Stopped }),
    ("finish, stale lease", |_| Command::Finish { secret: STALE, verdict: Verdict::Stopped }),
    ("lapse: silence", |it| Command::Lapse { seen: it.vital(), cause: Lapse::Silence }),
    ("lapse: silence, but heard since", |it| Command::Lapse { seen: earlier(it), cause: Lapse::Silence }),
    ("lapse: deadline", |it| Command::Lapse { seen: it.vital(), cause: Lapse::Deadline }),
    ("lapse: deadline, heard since", |it| Command::Lapse { seen: earlier(it), cause: Lapse::Deadline }),
    ("lapse: worker gone", |it| Command::Lapse { seen: it.vital(), cause: Lapse::WorkerGone }),
    ("lapse: worker gone, heard since", |it| Command::Lapse { seen: earlier(it), cause: Lapse::WorkerGone }),
    ("release", |_| Command::Release { reason: "stuck".to_owned(), by: None }),
];

fn paused() -> Hold {
    let policy = Policy { paused: true, ..Policy::default() };
    Hold::of(&policy, None, Timestamp::UNIX_EPOCH).expect("it holds")
}

fn report(report: Report) -> Command {
    Command::Report { secret: SECRET, first: None, reports: vec![report] }
}

fn failed() -> Verdict {
    Verdict::Failed { cause: FailureCause::PhaseFailed, message: "exit 1".to_owned(), phase: Some("p".to_owned()) }
}

/// Another deployment of the project.
fn other(number: u64) -> Mention {
    Mention::unnamed(name("web"), id(number))
}

fn earlier(deployment: &Deployment) -> Vital {
    Vital { pulse: deployment.pulse.wrapping_sub(1), ..deployment.vital() }
}

/// A deployment that entered so and went through these commands.
fn made(entry: Entry, commands: Vec<Command>) -> Deployment {
    let project = Project::new(name("web"));
    let loaded = Loaded { project, holder: None, line: vec![], deployments: vec![], keyed: None, held: None };
    let mut slot = Slot::of(loaded, Timestamp::UNIX_EPOCH, &Policy::default());
    let entered = slot.admit(id(1), name("web"), spec(), entry).clone();
    let Changes { .. } = slot.into_changes();
    commands.into_iter().fold(entered, then)
}

fn then(deployment: Deployment, command: Command) -> Deployment {
    deployment.step(command, moment(&deployment)).expect("it leads to the state").deployment().clone()
}

fn moment(deployment: &Deployment) -> Moment {
    Moment { now: Timestamp::UNIX_EPOCH, revision: Revision(deployment.revision.0 + 1) }
}

/// What becomes of it, on one line.
fn told(before: &Deployment, command: Command) -> Result<String, Refusal> {
    let step = before.step(command, moment(before))?;
    let after = step.deployment();
    let mut line = state(after);
    if after.revision != before.revision {
        line += ", next revision";
    }
    if after.rank() != before.rank() {
        line += ", put ahead";
    }
    if after.pulse != before.pulse {
        line += ", alive";
    }
    if after.cancel != before.cancel && !after.is_final() {
        line += ", asked to stop";
    }
    let events: Vec<_> = step.events().iter().map(event).collect();
    if !events.is_empty() {
        write!(line, "  [{}]", events.join(", ")).unwrap();
    }
    assert_eq!(step.is_state_change(), after.revision != before.revision || after.cancel != before.cancel);
    Ok(line)
}

fn state(deployment: &Deployment) -> String {
    match &deployment.state {
        State::Waiting(Place::Ticket { .. }) => "waiting, with a ticket".to_owned(),
        State::Waiting(Place::Queued) => "waiting, queued".to_owned(),
        State::Reserved => "RESERVED".to_owned(),
        State::Ready => "READY".to_owned(),
        State::Running(_) => "RUNNING".to_owned(),
        State::Finished { outcome, .. } => match outcome.error_code() {
            None => "SUCCEEDED".to_owned(),
            Some(code) => format!("{}/{code}", deployment.status().as_str()),
        },
    }
}

fn event(event: &Event) -> String {
    match &event.body {
        EventBody::Queue { position, will_be_superseded_by: Some(_), .. } => format!("queue {position}, overtaken"),
        EventBody::Queue { position, hold: Some(_), .. } => format!("queue {position}, held"),
        EventBody::Queue { position, .. } => format!("queue {position}"),
        EventBody::Status { status } => format!("status {}", Status::as_str(*status)),
        EventBody::Phase { .. } => "phase".to_owned(),
        EventBody::Progress { progress, .. } => format!("progress {progress}"),
        EventBody::Output { .. } => "output".to_owned(),
        EventBody::Log { .. } => "log".to_owned(),
        EventBody::Cancel { .. } => "cancel".to_owned(),
        EventBody::Gap { .. } => "gap".to_owned(),
        EventBody::Complete => "complete".to_owned(),
    }
}
