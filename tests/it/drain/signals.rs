//! The first stop signal, the second and the third.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::time::sleep;

use super::drain;
use crate::harness::{TestServer, gated_config, processes};

/// Longer than two signals may be apart that are taken for one.
const PAST_THE_ECHO: Duration = Duration::from_millis(1500);

/// A pipeline at the gate that may be taken back, and one that does not stop when it is told to.
const PIPELINES: &str = r#"
[[projects.web.pipelines.undone.phases]]
name = "undone"
run = '''
echo "at the gate"
flock --shared "$TEST_DIR/gate" true
'''
rollback = 'echo rolled back >> "$TEST_DIR/witness"'

[[projects.web.pipelines.stubborn.phases]]
name = "stubborn"
run = '''
trap '' TERM
echo $$ > "$TEST_DIR/pid"
echo "at the gate"
flock --shared "$TEST_DIR/gate" true
'''
"#;

async fn at_the_gate(limits: &str, pipeline: &str) -> (TestServer, String) {
    let more = format!("shutdown_grace = \"10m\"\n[limits]\n{limits}{PIPELINES}");
    let server = TestServer::start(&gated_config(&more));
    server.close_gate();
    let id = server.accepted(json!({ "pipeline": pipeline })).await;
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    (server, id)
}

#[tokio::test]
async fn a_second_signal_stops_the_pipelines_in_good_order() {
    let (mut server, id) = at_the_gate("", "undone").await;
    drain(&server).await;
    sleep(PAST_THE_ECHO).await;
    assert_eq!(server.deployment(&id, "").await.body["status"], "RUNNING", "the first one lets it run");
    server.signal(Signal::TERM);
    assert_eq!(server.exited().code(), Some(0));
    assert_eq!(fs::read_to_string(server.path("witness")).unwrap(), "rolled back\n");
    server.boot();
    let stopped = server.finished(&id).await;
    assert_eq!((&stopped["status"], &stopped["error"]["code"]), (&json!("FAILED"), &json!("WORKER_LOST")), "{stopped}");
    assert!(stopped["error"]["message"].as_str().unwrap().contains("shut down"), "{stopped}");
}

#[tokio::test]
async fn the_same_signal_by_two_ways_is_one() {
    let (mut server, id) = at_the_gate("", "undone").await;
    // A terminal's Ctrl-C reaches the whole group, and whoever started the server passes on a SIGTERM of its own.
    server.signal(Signal::INT);
    drain(&server).await;
    server.open_gate();
    assert_eq!(server.exited().code(), Some(0));
    server.boot();
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_third_signal_ends_the_server_and_its_commands_at_once() {
    let (mut server, id) = at_the_gate("cancel_grace = \"10m\"\nkill_budget = \"1s\"\n", "stubborn").await;
    let pid = fs::read_to_string(server.path("pid")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    drain(&server).await;
    sleep(PAST_THE_ECHO).await;
    server.signal(Signal::TERM);
    sleep(PAST_THE_ECHO).await;
    assert!(processes::runs(pid), "it has its grace");
    assert_eq!(server.get("/readyz").await.body["status"], "draining", "everybody is served meanwhile");
    server.signal(Signal::TERM);
    assert_eq!(server.exited().code(), Some(130));
    assert!(processes::gone(pid), "the shim ends it");
    server.boot();
    assert_eq!(server.finished(&id).await["error"]["code"], "WORKER_LOST");
}
