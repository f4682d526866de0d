//! Every statement finds its rows by an index, in tables that are large enough for that to matter: by the plans that the
//! database tells of what it really ran.

use std::{collections::BTreeSet, time::Duration};

use singletrack::{
    model::{
        Event, LineLoad, Load, Report, Revision, Slot, Status, Stream,
        admission::{Admission, OnConflict, Submission},
    },
    store::ListQuery,
};

use crate::{
    harness::postgres::{Cluster, UNSAFE},
    store_trial::{Trial, id, name, spec},
};

/// Tells the plan of each statement, those of triggers included.
const TELL_PLANS: &[&str] = &[
    "session_preload_libraries=auto_explain",
    "auto_explain.log_min_duration=0",
    "auto_explain.log_nested_statements=on",
];

/// 4,000 projects with 8 deployments each that have ended long ago.
const FILL: &str = r#"
SET search_path TO singletrack;
SET auto_explain.log_min_duration = -1;
INSERT INTO projects (name, revision, waiting_count, preempted_count, recent_runs)
    SELECT 'p' || n, 1000, 0, 0, '[[],[]]' FROM generate_series(1, 4000) AS n;
INSERT INTO deployments (id, project, ticket, revision, state, executor, pulse, progress, event_count, report_count,
        created_at, ended_at, cause, cause_message, log_total_bytes, log_head_end_seq, log_trimmed_at_bytes, spec, outputs)
    SELECT gen_random_uuid(), p.number, t, t, 'cancelled', 'server', 0, 0, 2, 0, 0, 0, 'CANCELLED', '', 0, 0, 0,
        '{"pipeline":"deploy"}', '{}' FROM projects AS p, generate_series(1, 8) AS t;
INSERT INTO events (deployment, seq, at, type, body)
    SELECT number, 1, 0, 'status', '{"type":"status","status":"PENDING"}' FROM deployments;
INSERT INTO events (deployment, seq, at, type, body)
    SELECT number, 2, 0, 'complete', '{"type":"complete"}' FROM deployments;
INSERT INTO idempotency_keys (project, key, fingerprint, deployment)
    SELECT project, 'key-' || number, decode(repeat('00', 32), 'hex'), number FROM deployments;
ANALYZE projects, deployments, events, idempotency_keys;
"#;

/// Does everything that a store can do, once.
async fn everything(trial: &Trial) {
    for number in 1..=12 {
        trial.submit("web", number, OnConflict::Queue).await;
    }
    trial.submit("web", 13, OnConflict::Wait).await;
    trial.submit("web", 14, OnConflict::Refuse).await;
    let keyed = Submission {
        id: id(15),
        project: name("api"),
        spec: spec(),
        key: Some(("once".parse().unwrap(), [7; 32])),
        on_conflict: OnConflict::Refuse,
        refusal: None,
        claim: None,
    };
    for _ in 0..2 {
        let submitted = trial.queue.submit(keyed.clone()).await.unwrap().admission;
        assert!(matches!(submitted, Admission::Accepted(_) | Admission::Replayed(_)));
    }
    trial.queue.attend(name("web"), id(13), Duration::from_secs(5)).await.unwrap();
    let secret = trial.claim("web", 1).await;
    trial.queue.heartbeat(name("web"), id(1), secret).await.unwrap();
    // So much output that its middle is cut.
    let line = "x".repeat(60_000);
    for first in 0..60 {
        let report = || Report::Log { stream: Stream::Stdout, phase: None, lines: vec![line.clone()] };
        let reports = (0..4).map(|_| report()).collect();
        trial.queue.report(name("web"), id(1), secret, Some(first * 4 + 1), reports).await.unwrap();
    }
    trial.finish("web", 1, secret).await;
    trial.queue.cancel(name("web"), id(4), None, None).await.unwrap();
    trial.queue.cancel(name("web"), id(2), None, Some(id(6))).await.unwrap();
    trial.queue.release(name("web"), "for the plans".to_owned(), None).await.unwrap();
    let whole = Load {
        deployments: vec![id(7), id(8)],
        line: LineLoad::All,
        held_by: Some("agent".to_owned()),
        ..Load::default()
    };
    let nothing = |slot: &mut Slot| assert!(slot.holder().is_some());
    trial.decide("web", whole, nothing).await.unwrap();

    let store = &trial.store;
    for status in [None, Some(Status::Pending), Some(Status::Running), Some(Status::Succeeded), Some(Status::Failed)] {
        let query = ListQuery { status, before: Some(Revision(50)), limit: 20 };
        store.list(name("p7"), query).await.unwrap();
    }
    assert!(store.project(name("web"), 10).await.unwrap().is_some());
    assert_eq!(store.projects(Some(name("p5")), 20).await.unwrap().len(), 20);
    let events: Vec<Event> = store.events(id(1), 3, 100).await.unwrap();
    assert!(!events.is_empty());
    assert!(!store.watched().await.unwrap().is_empty());
    assert!(!store.claimable(10).await.unwrap().is_empty());
    assert_eq!(store.marks((1..=12).map(id).collect()).await.unwrap().len(), 12);
    store.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_uses_an_index() {
    let cluster = Cluster::start(&[UNSAFE, TELL_PLANS].concat());
    let database = cluster.database().await;
    cluster.client(&database).await.batch_execute(FILL).await.unwrap();
    let trial = Trial::postgres_at(&cluster.url(&database)).await;
    let before = cluster.log().len();
    everything(&trial).await;
    // What the database said last is in its log once this is.
    cluster.client(&database).await.batch_execute("DO $$ BEGIN RAISE LOG 'that was all'; END $$").await.unwrap();
    let log = loop {
        let log = cluster.log();
        if log[before..].contains("that was all") {
            break log[before..].to_owned();
        }
        tokio::task::yield_now().await;
    };
    let (mut statement, mut statements, mut scans) = ("", BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        if let Some((_, text)) = line.split_once("Query Text: ") {
            statement = text;
            statements.insert(text);
        }
        // As large as the number of versions, and one row.
        let is_small = line.contains("on migrations") || line.contains("on secrets");
        if line.contains("Seq Scan") && !is_small {
            scans.insert((statement, line.trim()));
        }
    }
    assert!(statements.len() >= 25, "only {} statements were told: {statements:#?}", statements.len());
    assert!(scans.is_empty(), "whole tables are read: {scans:#?}");
}
