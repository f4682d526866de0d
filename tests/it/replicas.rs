//! Several servers on one PostgreSQL database: what one commits the others tell, whoever dies.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::harness::{SINGLETRACK, TestServer, gated_config, postgres};

/// The slow poll is too slow to be what a test sees.
const NO_SLOW_POLL: &str = "[limits]\nfallback_poll = \"40s\"";

/// The URL of a fresh database of the tests' cluster.
async fn database() -> String {
    postgres::shared().store().await
}

async fn pair(store: &str, more: &str) -> (TestServer, TestServer) {
    let config = gated_config(more);
    (TestServer::start_on(store, &config), TestServer::start_on(store, &config))
}

/// Submits as a client that does the work itself.
async fn claimed(server: &TestServer) -> (String, String) {
    let answer = server.submit(json!({ "executor": "client", "claim": true, "leaseSeconds": 600 })).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    (answer.id(), answer.body["lease"]["secret"].as_str().unwrap().to_owned())
}

async fn finish(server: &TestServer, id: &str, secret: &str) {
    let path = format!("/v1/projects/web/deployments/{id}/finish");
    let request = server.request(reqwest::Method::POST, &path).header("Singletrack-Lease", secret);
    let answer = crate::harness::send(request.json(&json!({ "status": "SUCCEEDED" }))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// Waits for `id` at `server` while `act` is done, and fails where only the slow poll would have told.
async fn told_at_once(server: &TestServer, id: &str, act: impl Future<Output = ()>) -> Value {
    let other = server.post("/v1/projects/other/deployments", json!({ "executor": "client", "claim": true })).await;
    let unrelated = format!("/v1/projects/other/deployments/{}/completion?maxWaitSeconds=20", other.id());
    let waits = async {
        let done = async {
            server.parked(2).await;
            act.await;
        };
        let (answer, ()) = tokio::join!(server.deployment(id, "/completion?maxWaitSeconds=60"), done);
        answer
    };
    tokio::select! {
        answer = waits => {
            assert_eq!(answer.status, 200, "{}", answer.text);
            answer.body
        }
        unrelated = server.get(&unrelated) => panic!("no wake-up came: {}", unrelated.text),
    }
}

#[tokio::test]
async fn a_poll_that_is_parked_at_one_server_is_answered_when_another_commits() {
    let (one, other) = pair(&database().await, NO_SLOW_POLL).await;
    let (id, secret) = claimed(&one).await;
    let done = told_at_once(&other, &id, finish(&one, &id, &secret)).await;
    assert_eq!(done["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_place_in_line_at_one_server_gets_the_slot_that_another_frees() {
    let (one, other) = pair(&database().await, NO_SLOW_POLL).await;
    let (id, secret) = claimed(&one).await;
    let ticket = other.ticket("next").await;
    let frees = async {
        other.parked(1).await;
        finish(&one, &id, &secret).await;
    };
    let (answer, ()) = tokio::join!(other.deployment(&ticket, "/turn?maxWaitSeconds=60"), frees);
    assert_eq!(answer.status, 200, "{}", answer.text);
    // The slot was kept, whichever server is asked again.
    let again = json!({ "onConflict": "wait", "pipeline": "quick" });
    let submitted = one.submit_keyed("next", again).await;
    assert_eq!((submitted.status, submitted.id()), (202, ticket.clone()), "{}", submitted.text);
    assert_eq!(other.finished(&ticket).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn who_is_cut_off_from_the_wake_ups_looks_again_when_they_are_back() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let (one, other) = pair(&cluster.url(&database), NO_SLOW_POLL).await;
    let admin = cluster.client(&database).await;
    let (id, secret) = claimed(&one).await;
    let cut_and_finish = async {
        // Those that hear and tell, of both servers: whatever is told now is lost.
        let cut = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() \
            AND (query LIKE 'LISTEN %' OR query LIKE 'SELECT pg_notify%')";
        assert!(!admin.query(cut, &[]).await.unwrap().is_empty());
        finish(&one, &id, &secret).await;
    };
    let done = told_at_once(&other, &id, cut_and_finish).await;
    assert_eq!(done["status"], "SUCCEEDED");
}

#[tokio::test]
async fn events_that_one_server_records_stream_from_another() {
    let (one, other) = pair(&database().await, NO_SLOW_POLL).await;
    // Either of them may run it.
    one.open_gate();
    let id = other.accepted(json!({})).await;
    one.event(&id, |event| event["lines"][0] == "at the gate").await;
    other.open_gate();
    for server in [&one, &other] {
        assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
        let page = server.deployment(&id, "/events").await;
        let seqs: Vec<u64> =
            page.body["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
        assert_eq!(page.body["final"], true);
    }
}

#[tokio::test]
async fn a_server_that_starts_settles_what_it_ran_itself_and_leaves_alone_what_others_run() {
    let store = database().await;
    let mut one = TestServer::start_on(&store, &gated_config(""));
    one.close_gate();
    let id = one.at_the_gate().await;
    // A newcomer and one that comes again both look for leftovers at their start; neither finds any of its own.
    let mut other = TestServer::start_on(&store, &gated_config(""));
    other.terminate();
    other.boot();
    let beside = other.post("/v1/projects/other/deployments", json!({ "executor": "client", "claim": true })).await;
    assert_eq!(beside.status, 202, "{}", beside.text);
    assert_eq!(other.deployment(&id, "").await.body["status"], "RUNNING");
    one.kill();
    one.boot();
    let ended = other.finished(&id).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("FAILED"), &json!("WORKER_LOST")));
    one.open_gate();
}

#[tokio::test]
async fn two_servers_of_one_store_never_share_a_work_directory() {
    let store = database().await;
    let one = TestServer::start_on(&store, "");
    let second: Output = one.command().args(["--listen", "127.0.0.1:0"]).output().unwrap();
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(69), "{told}");
    assert!(told.contains("give each server a --work-dir of its own"), "{told}");
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_refused_with_what_to_do() {
    let cluster = postgres::shared();
    let missing = cluster.url("no_such_database").replace("@/", ":hunter2@/");
    for (store, code, says) in [
        (missing.as_str(), 69, "no_such_database"),
        ("postgres://127.0.0.1:1/x?user=u", 69, "refused"),
        ("postgres://h/d?sslmode=perhaps", 78, "sslmode"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        // One that refuses connections may come up yet, and is waited for.
        fs::write(directory.path().join("singletrack.toml"), "[postgres]\nstart_timeout = \"1s\"\n").unwrap();
        let mut serve = Command::new(SINGLETRACK);
        serve.args(["serve", "--listen", "127.0.0.1:0", "--store", store]).current_dir(directory.path());
        let done = serve.output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(code), "{store}: {told}");
        assert!(told.contains(says) && !told.contains("hunter2") && !told.contains("panicked"), "{store}: {told}");
    }
}
