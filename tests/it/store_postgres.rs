//! What is PostgreSQL's own: broken connections, a database that starts anew, and the limits of who may write.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sha2::Digest as _;
use singletrack::{
    clock::SystemClock,
    config::LiveConfig,
    health::Pulse,
    model::{
        Caller, Deployment, LeaseHolder, ProjectName, Spec, Status, Verdict,
        admission::{Admission, OnConflict, Submission},
    },
    queue::{Queue, WorkerError},
    store::{ListQuery, Offers, StoreError, postgres::PostgresStore},
    watch::{Notifier, Waited, Watch, fallback_task},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::postgres::{self, Cluster},
    store_trial::{Trial, deaf, id, name},
};

/// How many callers there are at once, at each of two servers.
const CALLER_COUNT: u64 = 8;
/// How often somebody cuts all connections.
const CUT_COUNT: usize = 40;
/// How often the database starts anew.
const RESTART_COUNT: usize = 6;

/// One of the servers of this database.
async fn server(url: &str) -> Queue {
    let store = PostgresStore::open(
        &url.parse().unwrap(),
        6,
        deaf(),
        Arc::new(|_| {}),
        &singletrack::health::Health::default(),
    )
    .await
    .unwrap();
    Queue::new(Arc::new(store), Arc::new(SystemClock), LiveConfig::default())
}

/// What a caller was told, and what it does not know.
#[derive(Default)]
struct Report {
    told: Vec<Deployment>,
    /// Which were said not to have happened.
    denied: Vec<u64>,
    unknown_count: u64,
}

/// Submits, claims and finishes, one after the other, until `over`.
async fn call(queue: Queue, caller: u64, over: Arc<AtomicBool>, steps: Arc<AtomicU64>) -> Report {
    let project: ProjectName = name(&format!("p{}", caller % 4));
    let mut report = Report::default();
    for number in (0..).map(|turn| caller * 1_000_000 + turn) {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let wish = Submission {
            id: id(number),
            project: project.clone(),
            spec: Spec { pipeline: "deploy".to_owned(), ..Spec::default() },
            key: None,
            on_conflict: OnConflict::Refuse,
            refusal: None,
            sealed: None,
            claim: None,
        };
        match queue.submit(&Caller::server(), wish).await {
            Ok(submitted) => match (submitted.admission, submitted.own) {
                (Admission::Accepted(_), Some(own)) => report.told.push(own.deployment),
                (Admission::Conflict { .. }, _) => {}
                (other, _) => panic!("{other:?}"),
            },
            Err(StoreError::Unavailable(_)) => report.denied.push(number),
            Err(StoreError::Unknown(_)) => report.unknown_count += 1,
            Err(other) => panic!("{other:?}"),
        }
        // Whoever holds the slot is helped on, also one whose submit nobody could tell of.
        if let Ok(Some(state)) = queue.store().project(project.clone(), 0).await
            && let Some(holder) = state.holder
        {
            let claimed =
                queue.claim(project.clone(), holder.id, LeaseHolder::worker(format!("caller-{caller}"))).await;
            report.told.extend(claimed.ok().flatten().map(|claimed| claimed.deployment));
            // Whoever claimed it: what it runs under is read again.
            let Ok(Some(claimed)) = queue.store().deployment(project.clone(), holder.id).await else { continue };
            let Some(secret) = queue.lease_secret(&claimed.deployment) else { continue };
            let secret = secret.hash();
            let verdict = Verdict::Succeeded { outputs: Default::default() };
            match queue.finish(project.clone(), holder.id, secret, verdict).await {
                Ok(ended) => report.told.push(ended),
                Err(WorkerError::LeaseLost | WorkerError::Store(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        steps.fetch_add(1, Ordering::Relaxed);
    }
    report
}

/// Runs callers at two servers while `harm` does its worst, and holds what they were told against what is there.
async fn told_is_kept(url: &str, harm: impl AsyncFnOnce(Arc<AtomicU64>)) {
    let servers = [server(url).await, server(url).await];
    let (over, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..2 * CALLER_COUNT {
        let queue = servers[usize::try_from(caller % 2).unwrap()].clone();
        callers.spawn(call(queue, caller, over.clone(), steps.clone()));
    }
    harm(steps).await;
    over.store(true, Ordering::Relaxed);
    let reports = callers.join_all().await;

    // Looked at by somebody who had no part in it.
    let store = server(url).await.store().clone();
    let mut kept: HashMap<_, Deployment> = HashMap::new();
    for project in 0..4 {
        let query = ListQuery { status: None, before: None, limit: usize::MAX };
        let all = store.list(name(&format!("p{project}")), query).await.unwrap();
        assert!(all.iter().filter(|it| it.holds_slot()).count() <= 1, "I1");
        for deployment in all {
            let events = store.events(deployment.id, 0, usize::MAX).await.unwrap();
            let seqs: Vec<u64> = events.iter().map(|event| event.seq).collect();
            assert_eq!(seqs, (1..=deployment.event_count).collect::<Vec<_>>(), "I5");
            kept.insert(deployment.id, deployment);
        }
    }
    let told_count: usize = reports.iter().map(|report| report.told.len()).sum();
    assert!(told_count > 100, "only {told_count} answers");
    for report in &reports {
        for told in &report.told {
            let now = kept.get(&told.id).unwrap_or_else(|| panic!("I3: {told:?} is gone"));
            assert!(now.revision >= told.revision && now.event_count >= told.event_count, "I3: {told:?}, now {now:?}");
            assert!(!told.is_final() || now == told, "I2: {told:?}, now {now:?}");
            assert!(told.status() != Status::Failed);
        }
        for denied in &report.denied {
            assert!(!kept.contains_key(&id(*denied)), "{denied} was said not to have happened");
        }
    }
}

/// Waits until the callers got on.
async fn got_on(steps: &AtomicU64, by: u64) {
    let wanted = steps.load(Ordering::Relaxed) + by;
    while steps.load(Ordering::Relaxed) < wanted {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_is_kept_while_connections_are_cut() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let admin = cluster.client(&database).await;
    told_is_kept(&cluster.url(&database), async |steps| {
        for _ in 0..CUT_COUNT {
            got_on(&steps, 3).await;
            let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
            admin.query(cut, &[]).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_is_kept_when_the_database_starts_anew() {
    // Safe against its own crash, since its writes go to the operating system in order.
    let mut cluster = Cluster::start(&["synchronous_commit=on"]);
    let database = cluster.database().await;
    let url = cluster.url(&database);
    told_is_kept(&url, async |steps| {
        for _ in 0..RESTART_COUNT {
            got_on(&steps, 40).await;
            cluster.restart("QUIT");
        }
        got_on(&steps, 40).await;
    })
    .await;
}

#[tokio::test]
async fn servers_that_start_together_on_an_empty_database_make_one_schema() {
    let cluster = postgres::shared();
    let url = cluster.url(&cluster.empty_database().await);
    let (one, other) = tokio::join!(server(&url), server(&url));
    assert_eq!(one.store().pepper().as_bytes(), other.store().pepper().as_bytes(), "they share their secret");
    let wish = Spec { pipeline: "deploy".to_owned(), ..Spec::default() };
    for (number, queue, spec) in [(1, &one, wish.clone()), (2, &other, wish)] {
        let submission = Submission {
            id: id(number),
            project: name("web"),
            spec,
            key: None,
            on_conflict: OnConflict::Queue,
            refusal: None,
            sealed: None,
            claim: None,
        };
        assert_eq!(
            queue.submit(&Caller::server(), submission).await.unwrap().admission,
            Admission::Accepted(id(number))
        );
    }
    assert_eq!(one.store().project(name("web"), 9).await.unwrap().unwrap().line[0].id, id(2));
}

/// The schema as version 1 made it.
const FIRST_SCHEMA: &str = include_str!("../../src/store/postgres/migrations/0001_projects_deployments_events.sql");

/// Tables with their columns, indices and triggers, of whatever the schema consists.
async fn described(admin: &tokio_postgres::Client) -> Vec<String> {
    let parts = "SELECT format('%s.%s %s %s', table_name, column_name, data_type, column_default) \
            FROM information_schema.columns WHERE table_schema = 'singletrack' \
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'singletrack' \
        UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid \
            WHERE c.relnamespace = 'singletrack'::regnamespace AND NOT t.tgisinternal ORDER BY 1";
    admin.query(parts, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date_by_servers_that_start_together() {
    let cluster = postgres::shared();
    let (old, new) = (cluster.empty_database().await, cluster.database().await);
    let admin = cluster.client(&old).await;
    let checksum = sha2::Sha256::digest(FIRST_SCHEMA).to_vec();
    admin
        .batch_execute(&format!(
            "CREATE SCHEMA singletrack; SET search_path TO singletrack; \
             CREATE TABLE migrations (version integer PRIMARY KEY, checksum bytea NOT NULL, \
                applied_at timestamptz NOT NULL DEFAULT now()); {FIRST_SCHEMA}; \
             INSERT INTO projects (name, revision, waiting_count, preempted_count, recent_runs) \
                VALUES ('web', 1, 0, 0, '[[],[]]'); \
             INSERT INTO deployments (id, project, ticket, revision, state, executor, pulse, progress, event_count, \
                report_count, created_at, log_total_bytes, log_head_end_seq, log_trimmed_at_bytes, spec, outputs) \
                VALUES ('00000000-0000-7000-8000-000000000001', 1, 1, 1, 'ready', 'server', 0, 0, 1, 0, 0, 0, 0, 0, \
                '{{\"pipeline\":\"deploy\"}}', '{{}}'); \
             INSERT INTO events (deployment, seq, at, type, body) VALUES (1, 1, 0, 'status', '{{}}')"
        ))
        .await
        .unwrap();
    admin.execute("INSERT INTO migrations (version, checksum) VALUES (1, $1)", &[&checksum]).await.unwrap();
    let url = cluster.url(&old);
    let (one, other) = tokio::join!(server(&url), server(&url));
    // What there was is there, and what is new works.
    let offers: Offers = [(name("web"), vec!["deploy".to_owned()])].into();
    let waiting = one.store().claimable(Arc::new(offers.clone()), 9).await.unwrap();
    let [waiting] = waiting.try_into().expect("one deployment");
    let claimed = other
        .claim_any(&Caller::server(), &LeaseHolder::worker("agent"), &offers)
        .await
        .unwrap()
        .expect("there is work");
    assert_eq!(claimed.deployment.id, waiting.id);
    assert_eq!(one.store().held(LeaseHolder::worker("agent")).await.unwrap().expect("it runs").id, waiting.id);
    assert_eq!(described(&admin).await, described(&cluster.client(&new).await).await);
}

#[tokio::test]
async fn who_does_not_know_the_schema_writes_nothing() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let trial = Trial::postgres_at(&cluster.url(&database)).await;
    trial.submit("web", 1, OnConflict::Refuse).await;
    // A newer version of the program brings the tables up to date, as in a rolling upgrade.
    let admin = cluster.client(&database).await;
    admin.batch_execute("INSERT INTO singletrack.migrations (version, checksum) VALUES (99, '')").await.unwrap();
    let claimed = trial.queue.claim(name("web"), id(1), LeaseHolder::worker("worker")).await;
    assert!(matches!(claimed, Err(WorkerError::Store(StoreError::Unusable(why))) if why.contains("newer")));
    assert!(matches!(trial.store.ready().await, Err(StoreError::Unusable(_))));
    assert_eq!(trial.deployment("web", 1).await.status(), Status::Pending);
    let url = cluster.url(&database).parse().unwrap();
    let opened = PostgresStore::open(&url, 2, deaf(), Arc::new(|_| {}), &singletrack::health::Health::default()).await;
    assert!(matches!(opened, Err(StoreError::Unusable(why)) if why.contains("version 99")));
}

#[tokio::test]
async fn who_waits_is_told_by_the_slow_poll_when_every_wake_up_is_lost() {
    let cluster = postgres::shared();
    let url = cluster.url(&cluster.database().await);
    // Neither of them listens to what the other tells.
    let (one, other) = (server(&url).await, server(&url).await);
    let (notifier, shutdown) = (Arc::new(Notifier::default()), CancellationToken::new());
    let watch = Watch::new(other.store().clone(), notifier.clone(), shutdown.clone(), shutdown.clone());
    let period = Duration::from_secs(1);
    let pulse = Pulse::new(fallback_task(period));
    let polling = tokio::spawn(watch.clone().fallback(period, pulse, shutdown.clone()));
    for number in 1..=3 {
        let wish = Submission {
            id: id(number),
            project: name("web"),
            spec: Spec { pipeline: "deploy".to_owned(), ..Spec::default() },
            key: None,
            on_conflict: OnConflict::Refuse,
            refusal: None,
            sealed: None,
            claim: None,
        };
        one.submit(&Caller::server(), wish).await.unwrap();
        let waits = {
            let watch = watch.clone();
            tokio::spawn(async move { watch.completion(&name("web"), id(number), Duration::from_secs(60)).await })
        };
        while notifier.awaited().is_empty() {
            tokio::task::yield_now().await;
        }
        one.cancel(&Caller::server(), name("web"), id(number), None, None).await.unwrap();
        // Generous for a busy machine, and far from the end of the window.
        let told = tokio::time::timeout(period * 10, waits).await.expect("the slow poll tells it").unwrap().unwrap();
        assert!(matches!(told, Waited::Reached(placed) if placed.deployment.status() == Status::Cancelled));
    }
    shutdown.cancel();
    polling.await.unwrap();
}

#[tokio::test]
async fn a_server_that_lacks_a_right_is_not_ready_and_says_which() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let admin = cluster.client(&database).await;
    let role = format!("limited_{database}");
    admin
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA singletrack TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA singletrack TO {role}; \
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA singletrack TO {role}"
        ))
        .await
        .unwrap();
    let url = cluster.url(&database);
    let (_, rest) = url.split_once('@').unwrap();
    let trial = Trial::postgres_at(&format!("postgres://{role}@{rest}")).await;
    assert_eq!(trial.store.ready().await, Ok(()));
    admin.batch_execute(&format!("REVOKE INSERT ON singletrack.events FROM {role}")).await.unwrap();
    let told = loop {
        // An answer holds for a moment.
        if let Err(told) = trial.store.ready().await {
            break told;
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(&told, StoreError::Unusable(why) if why.contains("lacks rights: INSERT on events")), "{told:?}");
}

#[tokio::test]
async fn a_server_whose_commits_hang_is_not_ready_and_takes_one_connection_to_find_out() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let trial = Trial::postgres_at(&cluster.url(&database)).await;
    let admin = cluster.client(&database).await;
    admin.batch_execute("BEGIN; SELECT * FROM singletrack.chores FOR UPDATE").await.unwrap();
    for _ in 0..2 {
        let told = trial.store.ready().await;
        assert!(matches!(&told, Err(StoreError::Unavailable(why)) if why.contains("not committed within")), "{told:?}");
    }
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting: i64 = admin.query_one(waiting, &[]).await.unwrap().get(0);
    assert_eq!(waiting, 1, "one trial at a time");
    admin.batch_execute("ROLLBACK").await.unwrap();
    while trial.store.ready().await.is_err() {
        tokio::task::yield_now().await;
    }
}
