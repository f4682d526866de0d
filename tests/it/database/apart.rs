//! Decisions on different projects that are made at once: nobody waits for another project, or pays for its trouble.

use std::time::Duration;

use singletrack::{
    model::{
        Caller, LeaseHolder, Outcome, State, Verdict,
        admission::{Admission, OnConflict, Submission},
    },
    store::StoreError,
};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::{
    harness::postgres,
    store_trial::{Trial, id, name, spec},
};

/// How many submit at once, each to another project.
const COUNT: u64 = 24;

/// A store, and somebody else who works on its database.
async fn trial() -> (Trial, Client) {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let other = cluster.client(&database).await;
    let trial = Trial::postgres_at(&cluster.url(&database)).await;
    other.batch_execute("SET search_path TO singletrack").await.unwrap();
    for number in 0..COUNT {
        assert!(matches!(trial.submit(&project(number), number, OnConflict::Refuse).await, Admission::Accepted(_)));
    }
    (trial, other)
}

fn project(number: u64) -> String {
    format!("p{number}")
}

/// One more of a project, behind what it runs.
fn wish(project_number: u64, number: u64) -> Submission {
    Submission {
        id: id(number),
        project: name(&project(project_number)),
        spec: spec(),
        key: None,
        on_conflict: OnConflict::Queue,
        refusal: None,
        sealed: None,
        claim: None,
    }
}

/// Has everyone in line behind what the project runs; answers by the project's number.
fn submit_all(trial: &Trial) -> JoinSet<(u64, Result<Admission, StoreError>)> {
    let mut submits = JoinSet::new();
    for number in 0..COUNT {
        let queue = trial.queue.clone();
        submits.spawn(async move {
            (
                number,
                queue
                    .submit(&Caller::server(), wish(number, COUNT + number))
                    .await
                    .map(|submitted| submitted.admission),
            )
        });
    }
    submits
}

/// Waits until so many of the store's connections wait for a lock of the other one's.
async fn waiting(other: &Client, count: i64) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    loop {
        // Within a transaction it would tell the same again.
        other.execute("SELECT pg_stat_clear_snapshot()", &[]).await.unwrap();
        let row = other.query_one(waiting, &[]).await.unwrap();
        if row.get::<_, i64>(0) >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Has all of these wait for the whole table, so that they go on together; answers by the project's number.
async fn together<T: 'static>(other: &Client, begin: impl FnOnce() -> JoinSet<(u64, T)>) -> Vec<T> {
    other.batch_execute("BEGIN; LOCK TABLE projects IN EXCLUSIVE MODE").await.unwrap();
    let tasks = begin();
    waiting(other, 1).await;
    other.batch_execute("COMMIT").await.unwrap();
    let mut answers = tasks.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[tokio::test]
async fn a_worker_that_asks_twice_at_once_has_one_and_ends_free_the_slots() {
    let (trial, other) = trial().await;
    for answer in submit_all(&trial).join_all().await {
        assert!(matches!(answer, (_, Ok(Admission::Accepted(_)))), "{answer:?}");
    }
    let before = trial.store.commits();
    // Every worker asks for two projects, by one call that came twice.
    let claim_all = || {
        let mut claims = JoinSet::new();
        for number in 0..COUNT {
            let (queue, worker) = (trial.queue.clone(), LeaseHolder::worker(format!("worker-{}", number / 2)));
            let offers = [(name(&project(number)), vec![spec().pipeline])].into();
            claims.spawn(async move {
                (
                    number,
                    queue
                        .claim_any(&Caller::server(), &worker, &offers)
                        .await
                        .unwrap()
                        .expect("there is work")
                        .deployment,
                )
            });
        }
        claims
    };
    let claimed = together(&other, claim_all).await;
    for pair in claimed.chunks(2) {
        assert_eq!(pair[0].id, pair[1].id, "a worker that asks twice has one");
    }
    let ended: Vec<_> = claimed.into_iter().step_by(2).collect();
    let between = trial.store.commits();
    assert_eq!(between.transaction_count - before.transaction_count, COUNT / 2);

    // Each end is two rows in their order: a slot must be free before the next one has it.
    let end_all = || {
        let mut ends = JoinSet::new();
        for deployment in ended.clone() {
            let queue = trial.queue.clone();
            let secret = deployment.lease().expect("it runs").secret;
            let verdict = Verdict::Succeeded { outputs: Default::default() };
            ends.spawn(async move { (0, queue.finish(deployment.project, deployment.id, secret, verdict).await) });
        }
        ends
    };
    for end in together(&other, end_all).await {
        assert!(end.is_ok(), "{end:?}");
    }
    let after = trial.store.commits();
    assert_eq!(after.transaction_count - between.transaction_count, COUNT / 2);
    for deployment in ended {
        let number = u64::from_be_bytes(deployment.id.as_bytes()[8..].try_into().unwrap());
        let ended = trial.deployment(deployment.project.as_str(), number).await;
        assert!(matches!(ended.state, State::Finished { outcome: Outcome::Succeeded, .. }), "{ended:?}");
        assert_eq!(trial.deployment(deployment.project.as_str(), COUNT + number).await.state, State::Ready);
        assert_eq!(trial.events(number).await.len() as u64, ended.event_count);
    }
}

#[tokio::test]
async fn a_project_that_is_locked_elsewhere_holds_nobody_up() {
    let (trial, other) = trial().await;
    other.batch_execute("BEGIN; SELECT 1 FROM projects WHERE name IN ('p0', 'p1') FOR UPDATE").await.unwrap();
    let mut submits = submit_all(&trial);
    for _ in 2..COUNT {
        let (number, answer) = submits.join_next().await.unwrap().unwrap();
        assert!(matches!(answer, Ok(Admission::Accepted(_))), "{answer:?}");
        assert!(number > 1, "p{number} is locked");
    }
    waiting(&other, 2).await;
    other.batch_execute("COMMIT").await.unwrap();
    for (_, answer) in submits.join_all().await {
        assert!(matches!(answer, Ok(Admission::Accepted(_))), "{answer:?}");
    }
}

#[tokio::test]
async fn a_transaction_that_takes_long_holds_nobody_up() {
    let (trial, other) = trial().await;
    other
        .batch_execute(
            "SELECT pg_advisory_lock(1); \
             CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END'; \
             CREATE TRIGGER slow BEFORE UPDATE ON projects FOR EACH ROW WHEN (NEW.name = 'p0') EXECUTE FUNCTION wait()",
        )
        .await
        .unwrap();
    let queue = trial.queue.clone();
    let slow = tokio::spawn(async move { queue.submit(&Caller::server(), wish(0, 2 * COUNT)).await });
    waiting(&other, 1).await;
    for number in 1..COUNT {
        let accepted = trial.submit(&project(number), COUNT + number, OnConflict::Queue).await;
        assert!(matches!(accepted, Admission::Accepted(_)), "{accepted:?}");
    }
    assert!(!slow.is_finished());
    other.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    assert!(matches!(slow.await.unwrap().unwrap().admission, Admission::Accepted(_)));
}

#[tokio::test]
async fn nobody_answers_for_anothers_trouble() {
    let (trial, other) = trial().await;
    // One cannot be read, one cannot be written.
    other
        .batch_execute(
            "UPDATE projects SET recent_runs = 'none', revision = revision + 1 WHERE name = 'p3'; \
             CREATE FUNCTION pg_temp.number_of(text) RETURNS bigint LANGUAGE sql AS \
                'SELECT number FROM singletrack.projects WHERE name = $1'; \
             DO $$ BEGIN EXECUTE format('CREATE TRIGGER troubled BEFORE INSERT ON deployments FOR EACH ROW \
                WHEN (NEW.project = %s) EXECUTE FUNCTION refuse(''trouble'')', pg_temp.number_of('p5')); END $$",
        )
        .await
        .unwrap();
    let before = trial.store.commits().transaction_count;
    for (number, answer) in together(&other, || submit_all(&trial)).await.into_iter().enumerate() {
        match number {
            3 => assert!(matches!(answer, Err(StoreError::Unusable(_))), "p{number}: {answer:?}"),
            5 => assert!(matches!(answer, Err(StoreError::Unavailable(_))), "p{number}: {answer:?}"),
            _ => assert!(matches!(answer, Ok(Admission::Accepted(_))), "p{number}: {answer:?}"),
        }
    }
    assert_eq!(trial.store.commits().transaction_count - before, COUNT - 2);
}
