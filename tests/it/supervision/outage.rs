//! While the store takes no writes, nobody's signs of life can be recorded, so nobody's silence counts.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Worker, end_of, lost_worker};
use crate::harness::{Answer, TestServer, gated_config, postgres};

/// A place in line lives for 12 s without a poll, a lease for 9 s.
const LIMITS: &str = r#"
[limits]
lease = "8s"
heartbeat = "1s"
kill_budget = "500ms"
lock_delay = "1s"
attendance = "12s"
"#;
/// Longer than either.
const OUTAGE: Duration = Duration::from_secs(16);

/// What takes the writes away, and gives them back.
trait Outage {
    async fn begin(&mut self);
    async fn end(&mut self);
}

/// Nobody was silent: one waits in line, one holds a slot, and both tried all the time.
async fn nobody_is_reaped_for_an_outage(server: &TestServer, outage: &mut impl Outage) {
    let holder = Worker::start(server, "web", 8).await;
    let waiting = server.ticket("waiting").await;
    outage.begin().await;
    // Each by itself: a project's calls are answered one after the other, and nobody waits for the other's answer.
    let (beats, polls) = (
        refused_for(OUTAGE, || holder.heartbeat(server)),
        refused_for(OUTAGE, || async {
            let poll = format!("/v1/projects/web/deployments/{waiting}/turn?maxWaitSeconds=1");
            server.get(&poll).await
        }),
    );
    tokio::join!(beats, polls);
    outage.end().await;
    // The reaper looks several times before they come again.
    let lost = lost_worker(server, "other").await;
    assert_eq!(end_of(server, "other", &lost).await["error"]["code"], "WORKER_LOST", "it judges again");
    let beat = holder.heartbeat(server).await;
    assert_eq!(beat.status, 200, "{}", beat.text);
    let turn = server.get(&format!("/v1/projects/web/deployments/{waiting}/turn?maxWaitSeconds=0")).await;
    assert_eq!(turn.refusal(), (408, "STILL_WAITING"), "{}", turn.text);
    // Whoever falls silent from now on is judged as ever.
    assert_eq!(end_of(server, "web", &holder.id).await["error"]["code"], "WORKER_LOST");
    assert_eq!(end_of(server, "web", &waiting).await["error"]["code"], json!("ABANDONED"));
}

/// Calls again and again, for so long, and is told each time to come again.
async fn refused_for<Called: Future<Output = Answer>>(span: Duration, call: impl Fn() -> Called) {
    let began = Instant::now();
    while began.elapsed() < span {
        assert_eq!(call().await.refusal(), (503, "UNAVAILABLE"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Another program holds the file's write lock.
struct Locked(rusqlite::Connection);

impl Outage for Locked {
    async fn begin(&mut self) {
        self.0.busy_timeout(Duration::from_secs(30)).unwrap();
        self.0.execute_batch("BEGIN IMMEDIATE").unwrap();
    }

    async fn end(&mut self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

#[tokio::test]
async fn nobody_is_reaped_for_an_outage_of_writes_on_sqlite() {
    let server = TestServer::start(&gated_config(LIMITS));
    let other = rusqlite::Connection::open(server.path("test.db")).unwrap();
    nobody_is_reaped_for_an_outage(&server, &mut Locked(other)).await;
}

/// Somebody holds a lock on all projects' rows: they can be read, and nothing of them can be changed.
struct RowsLocked(tokio_postgres::Client);

impl Outage for RowsLocked {
    async fn begin(&mut self) {
        let lock = "BEGIN; SELECT 1 FROM singletrack.projects FOR UPDATE";
        self.0.batch_execute(lock).await.unwrap();
    }

    async fn end(&mut self) {
        self.0.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn nobody_is_reaped_for_an_outage_of_writes_on_postgres() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let server = TestServer::start_on(&cluster.url(&database), &gated_config(LIMITS));
    // It judges, too, and hears nothing of those who speak to the other one.
    let _second = TestServer::start_on(&cluster.url(&database), &gated_config(LIMITS));
    let admin = cluster.client(&database).await;
    nobody_is_reaped_for_an_outage(&server, &mut RowsLocked(admin)).await;
}
