//! The slow poll against the wake-ups, topic by topic: two servers that hear nothing of each other, and whoever waits at one
//! is told of what the other commits by the slow poll.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{Answer, TestServer, gated_config, postgres, send};

/// Far below every window that is waited with, and far above the slow poll on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// Two servers that hear nothing of each other for as long as the client lives: it holds the lock that each takes before it
/// listens.
async fn deaf_pair() -> (TestServer, TestServer, tokio_postgres::Client) {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let config = gated_config("[limits]\nfallback_poll = \"1s\"\n[projects.api]\nrun_by = \"agents\"");
    let start = || TestServer::start_on(&cluster.url(&database), &config);
    let (one, other) = (start(), start());
    let (holder, admin) = (cluster.client(&database).await, cluster.client(&database).await);
    let here = "locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let listening = format!("SELECT pid FROM pg_locks WHERE {here} AND mode = 'ShareLock' AND granted");
    while admin.query(&listening, &[]).await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let held = holder.batch_execute("SELECT pg_advisory_lock(hashtextextended('singletrack.singletrack.served', 0))");
    let cut = async {
        // Whoever wants the lock next is before them when they come back.
        let waiting = format!("SELECT count(*) FROM pg_locks WHERE {here} AND NOT granted");
        while admin.query_one(&waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        admin.batch_execute(&format!("SELECT pg_terminate_backend(pid) FROM ({listening}) AS them")).await.unwrap();
    };
    tokio::join!(async { held.await.unwrap() }, cut);
    (one, other, holder)
}

async fn taken(server: &TestServer) -> (String, Value) {
    let taken = server.submit(json!({ "executor": "client", "claim": true })).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    (taken.id(), taken.body["lease"]["secret"].clone())
}

async fn under_lease(server: &TestServer, id: &str, secret: &Value, verb: &str, body: Option<Value>) -> Answer {
    let path = format!("/v1/projects/web/deployments/{id}/{verb}");
    let request = server.request(Method::POST, &path).header("Singletrack-Lease", secret.as_str().unwrap());
    send(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

/// What is waited for at one server, and what is done meanwhile at the other.
async fn told(server: &TestServer, waits: impl Future<Output = Answer>, done: impl Future<Output = ()>) -> Answer {
    let done = async {
        server.parked(1).await;
        done.await;
    };
    let both = async { tokio::join!(waits, done).0 };
    timeout(SOON, both).await.expect("the slow poll tells it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hints_the_slow_poll_tells_of_every_topic() {
    let (one, other, _deafness) = deaf_pair().await;

    // A cancel, to a parked heartbeat.
    let (id, secret) = taken(&one).await;
    let beat = under_lease(&one, &id, &secret, "heartbeat?maxWaitSeconds=60", None);
    let cancelled = async { assert_eq!(other.cancel(&id, json!({})).await.status, 202) };
    let beat = told(&one, beat, cancelled).await;
    assert_eq!(beat.body["cancelRequested"], true, "{}", beat.text);

    // An event that is more than output, and output, to whoever follows.
    for reports in [
        json!([{ "type": "phase", "name": "a", "state": "started" }]),
        json!([{ "type": "log", "stream": "stdout", "lines": ["x"] }]),
    ] {
        let last = one.deployment(&id, "/events?after=0").await.body["last"].clone();
        let path = format!("/events?after={last}&maxWaitSeconds=60");
        let first = if reports[0]["type"] == "phase" { 1 } else { 2 };
        let reported = async {
            let body = json!({ "first": first, "reports": reports });
            let answer = under_lease(&other, &id, &secret, "reports", Some(body)).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        };
        let events = told(&one, one.deployment(&id, &path), reported).await;
        assert_eq!(events.body["events"].as_array().map(Vec::len), Some(1), "{}", events.text);
    }

    // An end, to who waits for it; and with it a turn, to who is next in line.
    let ticket = one.ticket("next").await;
    let ended = async {
        let answer = under_lease(&other, &id, &secret, "finish", Some(json!({ "status": "CANCELLED" }))).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    let turn = one.deployment(&ticket, "/turn?maxWaitSeconds=60");
    let completed = one.deployment(&id, "/completion?maxWaitSeconds=60");
    let both = async {
        let (turn, completed) = tokio::join!(turn, completed);
        assert_eq!(turn.status, 200, "{}", turn.text);
        completed
    };
    let ended = async {
        one.parked(2).await;
        ended.await;
    };
    let completed = timeout(SOON, async { tokio::join!(both, ended).0 }).await.expect("the slow poll tells it");
    assert_eq!(completed.body["status"], "CANCELLED", "{}", completed.text);

    // Work, to an agent.
    let offer = json!({ "worker": "a", "claimId": "1", "projects": { "api": ["deploy"] } });
    let submitted = async {
        let made = other.post("/v1/projects/api/deployments", json!({})).await;
        assert_eq!(made.status, 202, "{}", made.text);
    };
    let claimed = told(&one, one.post("/v1/claims?maxWaitSeconds=60", offer), submitted).await;
    assert_eq!(claimed.status, 200, "{}", claimed.text);
}
