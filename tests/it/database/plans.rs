//! Every statement finds its rows by an index, in tables that are large enough for that to matter: by the plans that the
//! database tells of what it really ran.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};
use singletrack::{
    clock::Clock as _,
    model::{
        Caller, Digest, Event, LeaseHolder, LineLoad, Load, Report, Revision, Slot, Status, Stream,
        admission::{Admission, OnConflict, Submission},
    },
    store::{
        AgentCall, AuditQuery, ListQuery, NewAuditLine,
        artifacts::{UploadStart, Writing},
    },
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
    // Whoever has not switched it off compiles whatever he runs.
    "jit_above_cost=0",
];

/// 4,000 projects with 8 deployments each that have ended long ago.
const FILL: &str = r#"
SET search_path TO singletrack;
SET auto_explain.log_min_duration = -1;
SET jit = off;
INSERT INTO projects (name, revision, waiting_count, preempted_count, recent_runs, deployment_count)
    SELECT 'p' || n, 1000, 0, 0, '[[],[]]', 8 FROM generate_series(1, 4000) AS n;
INSERT INTO deployments (id, project, ticket, revision, state, executor, pulse, progress, event_count, report_count,
        created_at, ended_at, cause, cause_message, log_total_bytes, log_head_end_seq, log_trimmed_at_bytes, spec, outputs, short_number)
    SELECT gen_random_uuid(), p.number, t, t, 'cancelled', 'server', 0, 0, 2, 0, 0, 0, 'CANCELLED', '', 0, 0, 0,
        '{"pipeline":"deploy"}', '{}', t FROM projects AS p, generate_series(1, 8) AS t;
INSERT INTO events (deployment, seq, at, type, body)
    SELECT number, 1, 0, 'status', '{"type":"status","status":"PENDING"}' FROM deployments;
INSERT INTO events (deployment, seq, at, type, body)
    SELECT number, 2, 0, 'complete', '{"type":"complete"}' FROM deployments;
INSERT INTO idempotency_keys (project, key, fingerprint, deployment)
    SELECT project, 'key-' || number, decode(repeat('00', 32), 'hex'), number FROM deployments;
INSERT INTO agent_calls (project, worker, call, pipelines, came_at, due_at)
    SELECT 'p' || n, 'agent', gen_random_uuid(), '["deploy"]', now(), now() FROM generate_series(1, 4000) AS n;
INSERT INTO audit (at, project, action, deployment, detail) SELECT created_at, 'p' || project, 'submit', id, '' FROM deployments;
INSERT INTO artifacts (sha256, is_whole, bytes, wanted_at)
    SELECT encode(sha256(n::text::bytea), 'hex'), true, 1, now() FROM generate_series(1, 4000) AS n;
INSERT INTO artifact_pieces (artifact, start, content) SELECT number, 0, '.' FROM artifacts;
ANALYZE agent_calls, audit, artifacts, artifact_pieces, projects, deployments, events, idempotency_keys;
"#;

/// Does everything that a store can do, once.
async fn everything(trial: &Trial) {
    for number in 1..=12 {
        trial.submit("web", number, OnConflict::Queue).await;
    }
    trial.submit("web", 13, OnConflict::Wait).await;
    assert_eq!(trial.store.numbered(name("web"), 13).await.unwrap(), Some(id(13)));
    trial.submit("web", 14, OnConflict::Refuse).await;
    let keyed = Submission {
        id: id(15),
        project: name("api"),
        spec: spec(),
        key: Some(("once".parse().unwrap(), [7; 32])),
        on_conflict: OnConflict::Refuse,
        refusal: None,
        sealed: None,
        claim: None,
    };
    for _ in 0..2 {
        let submitted = trial.queue.submit(&Caller::server(), keyed.clone()).await.unwrap().admission;
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
    trial.queue.cancel(&Caller::server(), name("web"), id(4), None, None).await.unwrap();
    trial.queue.cancel(&Caller::server(), name("web"), id(2), None, Some(id(6))).await.unwrap();
    trial.queue.release(&Caller::server(), name("web"), "for the plans".to_owned(), None).await.unwrap();
    let whole = Load { deployments: vec![id(7), id(8)], line: LineLoad::All, ..Load::default() };
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
    assert!(!store.course(id(1), 0, 100).await.unwrap().is_empty());
    assert_eq!(store.events_before(id(1), 3, 100).await.unwrap().len(), 2);
    assert!(!store.watched().await.unwrap().is_empty());
    assert!(store.figures(trial.clock.now()).await.unwrap().size_bytes > 0);
    let projects = (1..100).map(|number| format!("p{number}")).chain(["web".to_owned(), "api".to_owned()]);
    let offers = projects.map(|project| (name(&project), vec![spec().pipeline])).collect();
    assert!(!store.claimable(Arc::new(offers), 10).await.unwrap().is_empty());
    assert_eq!(store.marks((1..=12).map(id).collect()).await.unwrap().len(), 12);
    store.ready().await.unwrap();
    let line = NewAuditLine {
        at: trial.clock.wall(),
        project: None,
        action: "refused",
        caller: None,
        address: None,
        request: None,
        deployment: None,
        detail: String::new(),
        count: 1,
    };
    store.audit().append(vec![line]).await.unwrap();
    for (project, deployment) in [(None, None), (Some(name("p7")), None), (None, Some(id(1)))] {
        let query = AuditQuery { project, deployment, limit: 20, ..AuditQuery::default() };
        assert!(!store.audit().audit_page(query).await.unwrap().lines.is_empty());
    }
    agents_and_artifacts(trial).await;
}

async fn agents_and_artifacts(trial: &Trial) {
    let (store, now) = (&trial.store, trial.clock.now());
    let call = |id: u128| AgentCall {
        id: uuid::Uuid::from_u128(id),
        worker: "builder".to_owned(),
        offers: [(name("api"), vec!["deploy".to_owned()]), (name("p3"), vec!["deploy".to_owned()])].into(),
        window: Duration::from_secs(30),
    };
    for number in 1..=2 {
        store.agent_came(call(number), now).await.unwrap();
    }
    store.agent_left(call(1), now);
    assert_eq!(store.agents(name("p3"), now).await.unwrap().len(), 2);
    let claimed = trial
        .queue
        .claim_any(&Caller::server(), &LeaseHolder::worker("builder"), &call(1).offers)
        .await
        .unwrap()
        .expect("there is work");
    assert_eq!(store.held(LeaseHolder::worker("builder")).await.unwrap().expect("it runs").id, claimed.deployment.id);

    let (artifacts, bytes) = (store.artifacts().expect("it is shared"), vec![7; 100_000]);
    let digest = Digest::of(Sha256::new_with_prefix(&bytes));
    assert_eq!(artifacts.want(digest.clone()).await.unwrap(), None);
    assert_eq!(artifacts.offset(digest.clone()).await.unwrap(), 0);
    let begun = artifacts.begin(digest.clone(), uuid::Uuid::from_u128(9), None).await.unwrap();
    let UploadStart::Go(writing) = begun else { panic!("{begun:?}") };
    assert!(artifacts.hold(writing).await.unwrap() && artifacts.add(writing, bytes.clone()).await.unwrap());
    let writing = Writing { length: bytes.len() as u64, ..writing };
    assert!(artifacts.read_unfinished(writing, 10, 10).await.unwrap().is_some());
    assert!(artifacts.finish(writing).await.unwrap());
    assert_eq!(artifacts.read(digest, 99_990, 1000).await.unwrap(), Some(vec![7; 10]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_uses_an_index() {
    let cluster = Cluster::start(&[UNSAFE, TELL_PLANS].concat());
    let database = cluster.database().await;
    cluster.client(&database).await.batch_execute(FILL).await.unwrap();
    let trial = Trial::postgres_at(&cluster.url(&database)).await;
    // The control: what is compiled is told.
    cluster.client("postgres").await.batch_execute("SELECT count(*) FROM pg_class").await.unwrap();
    while !cluster.log().contains("JIT:") {
        tokio::task::yield_now().await;
    }
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
    let mut compiled = BTreeSet::new();
    for line in log.lines() {
        if let Some((_, text)) = line.split_once("Query Text: ") {
            statement = text;
            statements.insert(text);
        }
        // What a session asks before it is set up reads no table of these.
        let is_work =
            ["deployments", "events", "agent_calls", "artifacts"].iter().any(|table| statement.contains(table));
        if is_work && line.trim() == "JIT:" {
            compiled.insert(statement);
        }
        // As large as the number of versions, and one row. A sequence is one row, too.
        let small = ["on migrations", "on secrets", "on lineage", "on pg_database", "on revision_floor", "_number_seq"];
        let is_small = small.iter().any(|it| line.contains(it));
        // Who has been gone for longest, of all that ask for work, when a newcomer does.
        let walks_all = line.contains("on agent_calls") && statement.contains("OFFSET");
        // What is asked for a scrape of the metrics, every few seconds at most.
        let rarely =
            ["FROM projects WHERE pause IS", "count(DISTINCT worker) FROM agent_calls", "pg_total_relation_size"];
        let is_rare = rarely.iter().any(|it| statement.contains(it));
        if line.contains("Seq Scan") && !is_small && !walks_all && !is_rare {
            scans.insert((statement, line.trim()));
        }
    }
    assert!(statements.len() >= 25, "only {} statements were told: {statements:#?}", statements.len());
    assert!(compiled.is_empty(), "short statements are compiled, which takes longer than they do: {compiled:#?}");
    assert!(scans.is_empty(), "whole tables are read: {scans:#?}");
}
