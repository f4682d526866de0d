//! Several servers whose clocks differ by hours, and one that stands still: nothing is decided by the time of day, and each
//! end comes once and in time.

use std::{
    fs,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Answer, Place, TestServer, gated_config, postgres, send};

const LEASE: Duration = Duration::from_secs(2);
const LOCK_DELAY: Duration = Duration::from_secs(1);
/// What I6 allows beyond both: a tick of the reaper, and a look.
const REAPED_WITHIN: Duration = Duration::from_secs(1);
/// For a machine that does something else, too.
const SLACK: Duration = Duration::from_secs(1);

const LIMITS: &str = "[limits]\nlease = \"2s\"\nheartbeat = \"300ms\"\nkill_budget = \"500ms\"\nlock_delay = \"1s\"\n";

/// By a clock that is so many hours off. Only the time of day is: what counts from the start of the machine is real.
fn off_by(hours: i32) -> Place {
    let libraries = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let library = libraries.map(|path| path.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    let preload =
        format!("LD_PRELOAD={}", library.expect("libfaketime is missing: run scripts/prerequisites").display());
    Place::by(&["env", &preload, &format!("FAKETIME={hours:+}h"), "FAKETIME_DONT_FAKE_MONOTONIC=1"])
}

/// An hour ahead, an hour behind, and right.
async fn servers() -> [TestServer; 3] {
    let cluster = postgres::shared();
    let store = cluster.url(&cluster.database().await);
    [off_by(1), off_by(-1), Place::default()].map(|place| TestServer::start_at(place, &store, &gated_config(LIMITS)))
}

async fn under_lease(server: &TestServer, id: &str, secret: &str, verb: &str, body: Value) -> Answer {
    let path = format!("/v1/projects/web/deployments/{id}/{verb}");
    send(server.request(Method::POST, &path).header("Singletrack-Lease", secret).json(&body)).await
}

async fn claimed(server: &TestServer) -> (String, String) {
    let answer = server.submit(json!({ "executor": "client", "claim": true })).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    (answer.id(), answer.body["lease"]["secret"].as_str().unwrap().to_owned())
}

/// How long after `since` a deployment that nobody attends to was ended; it must have been by its silence.
async fn reaped(server: &TestServer, id: &str, since: Instant) -> Duration {
    let ended = server.finished(id).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST", "{ended}");
    since.elapsed()
}

/// All of its events: one end, and it is last.
async fn ended_once(server: &TestServer, id: &str) {
    let page = server.deployment(id, "/events").await.body;
    let events = page["events"].as_array().unwrap();
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    let ends: Vec<usize> = (0..events.len()).filter(|at| events[*at]["type"] == "complete").collect();
    assert_eq!(ends, [events.len() - 1], "{page:#}");
}

#[tokio::test]
async fn clocks_that_differ_by_hours_change_nothing() {
    let servers = servers().await;
    let [ahead, behind, right] = &servers;

    // A lease that is renewed at each of them in turn lasts for longer than any of them would let it lapse.
    let (id, secret) = claimed(ahead).await;
    let began = Instant::now();
    let mut beats = 0;
    while began.elapsed() < LEASE + LOCK_DELAY + REAPED_WITHIN + SLACK {
        let server = &servers[beats % 3];
        let beaten = under_lease(server, &id, &secret, "heartbeat?maxWaitSeconds=1", Value::Null).await;
        assert_eq!(beaten.status, 200, "{}", beaten.text);
        beats += 1;
    }
    let beaten = under_lease(behind, &id, &secret, "reports", json!({ "first": 1, "reports": [] })).await;
    assert_eq!(beaten.status, 200, "{}", beaten.text);

    // Silence is noticed in time, by whomever, and told once.
    let last = Instant::now();
    under_lease(right, &id, &secret, "heartbeat", Value::Null).await;
    let ticket = behind.ticket("next").await;
    let took = reaped(ahead, &id, last).await;
    assert!(took >= LEASE + LOCK_DELAY, "it was ended early, after {took:?}");
    assert!(took <= LEASE + LOCK_DELAY + REAPED_WITHIN + SLACK, "it was ended late, after {took:?}");
    ended_once(behind, &id).await;
    assert_eq!(under_lease(right, &id, &secret, "heartbeat", Value::Null).await.refusal(), (409, "LEASE_LOST"));

    // Who waited has the slot now, and its pipeline runs to its end wherever a worker takes it.
    let turn = right.deployment(&ticket, "/turn?maxWaitSeconds=30").await;
    assert_eq!(turn.status, 200, "{}", turn.text);
    let again = ahead.submit_keyed("next", json!({ "onConflict": "wait", "pipeline": "quick" })).await;
    assert_eq!((again.status, again.id()), (202, ticket.clone()), "{}", again.text);
    assert_eq!(right.finished(&ticket).await["status"], "SUCCEEDED");
    for server in &servers {
        let id = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
        assert_eq!(behind.finished(&id).await["status"], "SUCCEEDED");
    }

    // Only what is displayed is off, and by as much as was meant.
    let shown = [made_at(ahead).await, made_at(behind).await, made_at(right).await];
    let off = |shown: Timestamp| shown.duration_since(Timestamp::now()).as_secs();
    let minutes = shown.map(|shown| (off(shown) + 30).div_euclid(60));
    assert!(
        (59..=60).contains(&minutes[0]) && (-61..=-60).contains(&minutes[1]) && minutes[2].abs() <= 1,
        "{minutes:?}"
    );
}

/// When a deployment was made, as this server told it.
async fn made_at(server: &TestServer) -> Timestamp {
    let (id, secret) = claimed(server).await;
    let done = under_lease(server, &id, &secret, "finish", json!({ "status": "SUCCEEDED" })).await;
    assert_eq!(done.status, 200, "{}", done.text);
    done.body["createdAt"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_server_that_stands_still_harms_nothing() {
    let cluster = postgres::shared();
    let store = cluster.url(&cluster.database().await);
    let servers = [(); 3].map(|()| TestServer::start_on(&store, &gated_config(LIMITS)));
    let [still, one, other] = &servers;

    // It has seen the lease, and would be the first to end it.
    let (id, secret) = claimed(still).await;
    still.deployment(&id, "").await;
    still.signal(Signal::STOP);
    let last = Instant::now();
    assert_eq!(under_lease(one, &id, &secret, "heartbeat", Value::Null).await.status, 200);
    let took = reaped(other, &id, last).await;
    assert!(took >= LEASE + LOCK_DELAY && took <= LEASE + LOCK_DELAY + REAPED_WITHIN + SLACK, "{took:?}");

    // Another lease begins while it still believes in the first one, and is renewed past all that it remembers.
    let (next, its_secret) = claimed(one).await;
    still.signal(Signal::CONT);
    let began = Instant::now();
    while began.elapsed() < LEASE + LOCK_DELAY + REAPED_WITHIN {
        let beaten = under_lease(other, &next, &its_secret, "heartbeat?maxWaitSeconds=1", Value::Null).await;
        assert_eq!(beaten.status, 200, "{}", beaten.text);
    }
    assert_eq!(under_lease(still, &id, &secret, "heartbeat", Value::Null).await.refusal(), (409, "LEASE_LOST"));
    let done = under_lease(still, &next, &its_secret, "finish", json!({ "status": "SUCCEEDED" })).await;
    assert_eq!(done.status, 200, "{}", done.text);
    for id in [&id, &next] {
        ended_once(still, id).await;
    }
}
