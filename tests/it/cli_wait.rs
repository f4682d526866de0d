//! Those who look on: `wait`, `logs --follow --exit-code` and `cancel --wait`. They end with the deployment's code, and
//! nothing that ends them changes anything for the deployment.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{
    SINGLETRACK, TestServer,
    client::{Client, Ended},
};

/// A command that looks on, under way.
fn onlooker(server: &TestServer, args: &[&str]) -> Client {
    Client::start(&[("SINGLETRACK_URL", &*server.base), ("SINGLETRACK_PROJECT", "web")], args)
}

fn ended(server: &TestServer, args: &[&str]) -> Ended {
    onlooker(server, args).ended()
}

/// Pipelines with a phase at the gate that is not interrupted: with another phase after it, and as the last one.
const GUARDED: &str = r#"
[[projects.web.pipelines.guarded.phases]]
name = "migrate"
protected = true
run = 'echo "at the gate"; flock --shared "$TEST_DIR/gate" true'
[[projects.web.pipelines.guarded.phases]]
name = "next"
run = "true"

[[projects.web.pipelines.last.phases]]
name = "switch"
protected = true
run = 'echo "at the gate"; flock --shared "$TEST_DIR/gate" true'
"#;

#[tokio::test]
async fn wait_is_quiet_until_the_end_and_ends_with_the_deployments_code() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let waiting = onlooker(&server, &["wait", &id]);
    server.parked(1).await;
    server.open_gate();
    let end = waiting.ended();
    assert_eq!((end.code, end.stdout.as_str()), (Some(0), ""), "{}", end.stderr);
    assert_eq!(end.stderr.lines().count(), 1, "only the end is told: {}", end.stderr);
    assert!(end.stderr.starts_with("web#1 succeeded"), "{}", end.stderr);
    assert_eq!(ended(&server, &["wait", &id, "--json"]).json()["status"], "SUCCEEDED", "what is over is told at once");

    let broken = server.accepted(json!({ "pipeline": "broken" })).await;
    let end = ended(&server, &["wait", &broken, "--json"]);
    assert_eq!((end.code, &end.json()["error"]["code"]), (Some(1), &json!("PHASE_FAILED")), "{}", end.stderr);
    assert!(end.stderr.contains("failed in phase only"), "{}", end.stderr);

    server.close_gate();
    let id = server.at_the_gate().await;
    let waiting = onlooker(&server, &["wait", &id]);
    server.parked(1).await;
    server.cancel(&id, json!({ "reason": "enough" })).await;
    let end = waiting.ended();
    assert_eq!(end.code, Some(122), "{}", end.stderr);
    assert!(end.stderr.contains("was cancelled") && end.stderr.contains("enough"), "{}", end.stderr);
}

#[tokio::test]
async fn whatever_ends_a_wait_the_deployment_goes_on() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let waiting = onlooker(&server, &["wait", &id]);
    server.parked(1).await;
    waiting.interrupt();
    let end = waiting.ended();
    assert_eq!(end.code, Some(130), "{}", end.stderr);
    assert!(end.stderr.contains("the deployment goes on"), "{}", end.stderr);
    assert!(end.stderr.contains(&format!("singletrack wait --project web {id}")), "{}", end.stderr);

    let end = ended(&server, &["wait", &id, "--timeout", "1s", "--json"]);
    assert_eq!((end.code, &end.json()["exitCode"]), (Some(124), &json!(124)), "{}", end.stderr);
    assert!(end.stderr.contains("the --timeout passed") && end.stderr.contains("goes on"), "{}", end.stderr);

    let holder = server.project().await["holder"].clone();
    assert_eq!((&holder["id"], &holder["cancelRequestedAt"]), (&json!(id), &Value::Null), "nobody asked it to stop");
    server.open_gate();
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn wait_shows_what_happens_where_it_is_asked_to() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let mut waiting = onlooker(&server, &["wait", &id, "--progress"]);
    waiting.hears("at the gate");
    server.open_gate();
    let end = waiting.ended();
    assert_eq!(end.code, Some(0), "{}", end.stderr);
    assert!(end.stderr.contains("==> gate succeeded"), "{}", end.stderr);
}

#[tokio::test]
async fn a_wait_rides_through_a_restart_of_the_server() {
    let mut server = TestServer::gated();
    let id = server.at_the_gate().await;
    let waiting = onlooker(&server, &["wait", &id, "--json"]);
    server.parked(1).await;
    server.kill();
    server.boot();
    let end = waiting.ended();
    assert_eq!((end.code, &end.json()["error"]["code"]), (Some(1), &json!("WORKER_LOST")), "{}", end.stderr);
}

#[test]
fn what_is_not_there_is_not_waited_for() {
    let server = TestServer::gated();
    let end = ended(&server, &["wait", crate::fake::OURS]);
    assert_eq!(end.code, Some(2), "{}", end.stderr);
}

#[tokio::test]
async fn logs_that_follow_end_with_the_deployments_code_where_they_are_asked_to() {
    let server = TestServer::gated();
    let id = server.accepted(json!({ "pipeline": "broken" })).await;
    for (flags, code) in [(&["--follow"][..], 0), (&["--follow", "--exit-code"], 1)] {
        let end = ended(&server, &[&["logs", &id], flags].concat());
        assert_eq!((end.code, end.stdout.as_str()), (Some(code), "it is broken\n"), "{flags:?}: {}", end.stderr);
    }
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(ended(&server, &["logs", &id, "--follow", "--exit-code"]).code, Some(0));
    assert_eq!(ended(&server, &["logs", &id, "--exit-code"]).code, Some(2), "the code is that of an end");
}

#[tokio::test]
async fn a_cancel_that_waits_ends_with_0_once_the_deployment_is_cancelled() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let end = ended(&server, &["cancel", &id, "--wait", "--json"]);
    assert_eq!((end.code, &end.json()["status"]), (Some(0), &json!("CANCELLED")), "{}", end.stderr);
    let again = ended(&server, &["cancel", &id, "--wait"]);
    assert_eq!(again.code, Some(0), "what is cancelled already needs no wait: {}", again.stderr);
    assert!(again.stdout.contains("is cancelled"), "{}", again.stdout);
}

#[tokio::test]
async fn a_cancel_that_comes_too_late_says_so_and_ends_with_1() {
    let server = TestServer::gated();
    for (pipeline, says) in [("quick", "it succeeded before it could stop"), ("broken", "it failed")] {
        let id = server.accepted(json!({ "pipeline": pipeline })).await;
        let was = server.finished(&id).await;
        let end = ended(&server, &["cancel", &id, "--wait", "--json"]);
        assert_eq!((end.code, &end.json()["status"]), (Some(1), &was["status"]), "{}", end.stderr);
        assert!(end.stderr.contains("was not cancelled") && end.stderr.contains(says), "{}", end.stderr);
    }
}

#[tokio::test]
async fn a_cancel_that_waits_tells_that_the_deployment_succeeded_in_spite_of_it() {
    let server = TestServer::gated_with(GUARDED);
    let id = server.accepted(json!({ "pipeline": "last" })).await;
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    let waiting = onlooker(&server, &["cancel", &id, "--wait"]);
    server.event(&id, |event| event["type"] == "cancel").await;
    server.open_gate();
    let end = waiting.ended();
    assert_eq!(end.code, Some(1), "{}", end.stderr);
    assert!(end.stderr.contains("it succeeded before it could stop"), "{}", end.stderr);
}

#[tokio::test]
async fn whatever_ends_the_wait_of_a_cancel_the_cancel_stays_asked_for() {
    let server = TestServer::gated_with(GUARDED);
    let id = server.accepted(json!({ "pipeline": "guarded" })).await;
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    let mut waiting = onlooker(&server, &["cancel", &id, "--wait"]);
    waiting.hears("waiting until it is final");
    server.event(&id, |event| event["type"] == "cancel").await;
    waiting.interrupt();
    let end = waiting.ended();
    assert_eq!(end.code, Some(130), "{}", end.stderr);
    assert!(end.stderr.contains("stays asked to stop"), "{}", end.stderr);
    let end = ended(&server, &["cancel", &id, "--wait", "--timeout", "1s"]);
    assert_eq!(end.code, Some(124), "{}", end.stderr);
    server.open_gate();
    assert_eq!(server.finished(&id).await["status"], "CANCELLED");
}

#[tokio::test]
async fn a_status_that_is_watched_tells_each_change_and_ends_with_the_deployment() {
    let server = TestServer::gated();
    let id = server.accepted(json!({ "actor": "alice" })).await;
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    let next = server.accepted(json!({ "onConflict": "queue" })).await;
    let watched = |which: &str| {
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().env("SINGLETRACK_URL", &server.base).env("SINGLETRACK_PROJECT", "web");
        let child = command.args(["status", "--watch", which]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        (BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap), child)
    };
    let ((mut first, mut first_child), (mut second, mut second_child)) = (watched("1"), watched(&next));
    assert_eq!(first.next().unwrap(), "web#1 RUNNING, phase gate, 0 %");
    assert!(second.next().unwrap().starts_with("web#2 PENDING, number 1 in line"));
    server.open_gate();
    assert_eq!(first.last().unwrap(), "web#1 SUCCEEDED");
    let rest: Vec<_> = second.collect();
    assert_eq!(rest.last().unwrap(), "web#2 SUCCEEDED");
    assert!(first_child.wait().unwrap().success() && second_child.wait().unwrap().success());
}
