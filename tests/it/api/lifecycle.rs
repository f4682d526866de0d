//! Servers that die, stop, are stopped and start again.

use std::{fs, process::Stdio};

use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::harness::{TestServer, gated_config, processes};

/// A pipeline that tells its process id and then waits at the gate, and one that tells whether that process still runs.
const WITNESSED: &str = r#"
[[projects.web.pipelines.witnessed.phases]]
name = "witnessed"
run = '''
echo $$ > "$TEST_DIR/pid"
echo at the gate
flock --shared "$TEST_DIR/gate" true
echo past the gate >> "$TEST_DIR/witness"
'''
rollback = 'echo rolled back >> "$TEST_DIR/witness"'

[[projects.web.pipelines.witness.phases]]
name = "witness"
run = '''
if kill -0 "$(cat "$TEST_DIR/pid")"; then echo overlap; else echo alone; fi >> "$TEST_DIR/witness"
'''
"#;

/// Submits `witnessed`, and tells its id and its process when it is at the gate.
async fn witnessed(server: &TestServer) -> (String, Pid) {
    let id = server.accepted(json!({ "pipeline": "witnessed" })).await;
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    let pid = fs::read_to_string(server.path("pid")).unwrap();
    (id, Pid::from_raw(pid.trim().parse().unwrap()).unwrap())
}

fn witness(server: &TestServer) -> String {
    fs::read_to_string(server.path("witness")).unwrap_or_default()
}

#[tokio::test]
async fn a_killed_server_loses_nothing_and_leaves_neither_a_child_nor_a_locked_project() {
    let mut server = TestServer::gated_with(WITNESSED);
    let done = server.accepted(json!({ "pipeline": "quick" })).await;
    let done = server.finished(&done).await;
    let (holder, pid) = witnessed(&server).await;
    let next = server.submit_keyed("next", json!({ "pipeline": "witness", "onConflict": "queue" })).await.id();
    let ticket = server.ticket("ticket").await;
    let told = server.deployment(&holder, "/events?maxWaitSeconds=0").await.body["events"].as_array().unwrap().clone();
    server.kill();
    assert!(processes::gone(pid), "its command outlived it");
    server.boot();
    let lost = server.finished(&holder).await;
    assert_eq!((&lost["status"], &lost["error"]["code"]), (&json!("FAILED"), &json!("WORKER_LOST")), "{lost}");
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED", "the line moves on");
    let turn = server.deployment(&ticket, "/turn?maxWaitSeconds=60").await;
    assert_eq!((turn.status, &turn.body["status"]), (200, &json!("PENDING")));
    assert_eq!(witness(&server), "alone\n", "what was lost is neither finished nor rolled back behind our back");
    // Everything that was acknowledged is there, as it was told.
    let done_id = done["id"].as_str().unwrap();
    assert_eq!(server.deployment(done_id, "").await.body, done);
    let events =
        server.deployment(&holder, "/events?maxWaitSeconds=0").await.body["events"].as_array().unwrap().clone();
    assert_eq!(events[..told.len()], told);
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>());
    let replayed = server.submit_keyed("next", json!({ "pipeline": "witness", "onConflict": "queue" })).await;
    assert_eq!((replayed.status, replayed.id()), (202, next));
    assert_eq!(server.deployments().await.len(), 4);
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_lets_what_runs_finish() {
    let mut server = TestServer::gated_with(WITNESSED);
    let (holder, _) = witnessed(&server).await;
    let next = server.accepted(json!({ "pipeline": "witness", "onConflict": "queue" })).await;
    let stream = server.stream(&holder, None).await;
    server.signal(Signal::TERM);
    // The streams' end says that it has begun to stop.
    stream.rest().await;
    server.open_gate();
    assert_eq!(server.exited().code(), Some(0));
    assert_eq!(witness(&server), "past the gate\n", "nothing new was started");
    server.boot();
    assert_eq!(server.finished(&holder).await["status"], "SUCCEEDED");
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
    assert_eq!(witness(&server), "past the gate\nalone\n");
}

#[tokio::test]
async fn past_its_grace_it_stops_what_runs_and_takes_it_back() {
    let mut server = TestServer::gated_with(&format!("shutdown_grace = \"1s\"\n{WITNESSED}"));
    let (holder, pid) = witnessed(&server).await;
    let next = server.accepted(json!({ "pipeline": "witness", "onConflict": "queue" })).await;
    assert_eq!(server.terminate().code(), Some(0));
    assert!(!processes::runs(pid));
    assert_eq!(witness(&server), "rolled back\n");
    server.boot();
    let stopped = server.finished(&holder).await;
    assert_eq!((&stopped["status"], &stopped["error"]["code"]), (&json!("FAILED"), &json!("WORKER_LOST")), "{stopped}");
    assert!(stopped["error"]["message"].as_str().unwrap().contains("shut down"), "{stopped}");
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
    assert_eq!(witness(&server), "rolled back\nalone\n");
}

#[tokio::test]
async fn a_second_server_on_the_same_store_is_refused() {
    let server = TestServer::gated();
    let pid = server.pid().as_raw_nonzero();
    let second = server.command().args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).output().unwrap();
    assert_eq!(second.status.code(), Some(69));
    assert_eq!(second.stdout, b"", "it never said that it listens");
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(told.contains(&format!("in use by another singletrack server (pid {pid})")), "{told}");
    assert!(told.contains("--store"), "it says what to do: {told}");
    assert_eq!(server.get("/readyz").await.status, 200, "the first goes on");
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_server_that_stands_still_past_its_lease_runs_nothing_and_overlaps_nothing() {
    let limits = "[limits]\nlease = \"2s\"\nheartbeat = \"300ms\"\nkill_budget = \"500ms\"\nlock_delay = \"1s\"\n";
    let server = TestServer::gated_with(&format!("{limits}{WITNESSED}"));
    let (holder, pid) = witnessed(&server).await;
    let next = server.accepted(json!({ "pipeline": "witness", "onConflict": "queue" })).await;
    server.signal(Signal::STOP);
    // Nobody but the shim can end it now.
    assert!(processes::gone(pid), "it outlived its lease");
    server.signal(Signal::CONT);
    let lost = server.finished(&holder).await;
    assert_eq!((&lost["status"], &lost["error"]["code"]), (&json!("FAILED"), &json!("WORKER_LOST")), "{lost}");
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
    assert_eq!(witness(&server), "alone\n");
}

#[tokio::test]
async fn what_no_worker_takes_any_more_does_not_hold_the_slot() {
    let mut server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let orphan = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let next = server.accepted(json!({ "pipeline": "broken", "onConflict": "queue" })).await;
    server.configure(&gated_config("[limits]\nunclaimed = \"1s\"").replace("pipelines.quick", "pipelines.renamed"));
    server.kill();
    server.boot();
    assert_eq!(server.finished(&holder).await["error"]["code"], "WORKER_LOST");
    let ended = server.finished(&orphan).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("FAILED"), &json!("UNCLAIMED")), "{ended}");
    assert_eq!(ended["startedAt"], json!(null));
    assert_eq!(server.finished(&next).await["error"]["code"], "PHASE_FAILED", "the line moves on");
    let refused = server.submit(json!({ "pipeline": "quick" })).await;
    assert_eq!(refused.refusal(), (400, "UNKNOWN_PIPELINE"), "{}", refused.text);
}
