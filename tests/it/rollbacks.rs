//! A rollback is told apart from its phase, and one that failed from one that did what it should: in events, by the deployment
//! itself however it ended, and in words.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    agent::{TestAgent, by_agents},
    harness::{SINGLETRACK, TestServer, postgres, send},
};

/// Pipelines of `web` that have something to roll back: one of the two rollbacks fails, and `held` waits at a gate before.
const PIPELINES: &str = r#"
[[projects.web.pipelines.broken.phases]]
name = "copy"
run = "echo copied"
rollback = "echo taken back"
[[projects.web.pipelines.broken.phases]]
name = "migrate"
run = "echo migrated"
rollback = "exit 9"
[[projects.web.pipelines.broken.phases]]
name = "switch"
run = "exit 3"

[[projects.web.pipelines.held.phases]]
name = "copy"
run = "echo copied"
rollback = "echo taken back"
[[projects.web.pipelines.held.phases]]
name = "migrate"
run = "echo migrated"
rollback = "exit 9"
[[projects.web.pipelines.held.phases]]
name = "switch"
run = 'echo "at the gate"; flock --shared "$GATE_DIR/gate" true'
"#;

/// Others, of a server: rollbacks that succeed, none at all, and one that waits at the gate.
const OTHERS: &str = r#"
[[projects.web.pipelines.good.phases]]
name = "copy"
run = "echo copied"
rollback = "echo taken back"
[[projects.web.pipelines.good.phases]]
name = "switch"
run = "exit 3"

[[projects.web.pipelines.none.phases]]
name = "switch"
run = "exit 3"

[[projects.web.pipelines.slow.phases]]
name = "copy"
run = "echo copied"
rollback = "echo taken back"
[[projects.web.pipelines.slow.phases]]
name = "migrate"
run = "exit 3"
rollback = 'echo "at the gate"; flock --shared "$GATE_DIR/gate" true'

[[projects.web.pipelines.quick.phases]]
name = "only"
run = "true"
"#;

const WHY: &str = "the rollback of phase \"migrate\" exited with 9";
const REPAIR: &str = "the rollback of phase \"migrate\" exited with 9; repair by hand what the phase changed";
const UNKNOWN: &str = "the rollback of phase \"migrate\" was begun, and its end is not known";

/// The same pipelines, at the gate of a server or of an agent.
fn at_gate_of(variable: &str, pipelines: &str) -> String {
    pipelines.replace("GATE_DIR", variable)
}

fn server_on(store: &str) -> TestServer {
    let server = TestServer::start_on(store, &at_gate_of("TEST_DIR", &format!("{PIPELINES}{OTHERS}")));
    server.close_gate();
    server
}

fn server() -> TestServer {
    server_on("sqlite:test.db")
}

fn at_the_gate(event: &Value) -> bool {
    event["lines"].as_array().is_some_and(|lines| lines.contains(&json!("at the gate")))
}

/// A deployment that stands at the gate.
async fn held(server: &TestServer, pipeline: &str) -> String {
    let id = server.accepted(json!({ "pipeline": pipeline, "onConflict": "queue" })).await;
    server.event(&id, at_the_gate).await;
    id
}

/// What a deployment tells of its rollbacks, once it has ended with this code.
async fn told(server: &TestServer, id: &str, code: &str) -> Value {
    let ended = server.finished(id).await;
    assert_eq!(ended["error"]["code"], code, "{ended}");
    ended["error"]["rollback"].clone()
}

fn failed(message: &str) -> Value {
    json!({ "status": "rollbackFailed", "failed": [{ "phase": "migrate", "message": message }] })
}

/// Runs a command against a server, in a CI where `ci` says so.
fn run(server: &TestServer, args: &[&str], ci: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("USER", "alice").env("SINGLETRACK_URL", &server.base).env("SINGLETRACK_PROJECT", "web");
    said(command.envs(ci.iter().copied()).args(args).stdin(Stdio::null()).output().unwrap())
}

fn said(output: Output) -> (i32, String, String) {
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_failed_is_told_apart_in_events_and_in_words() {
    let server = server();
    let (code, _, told) = run(&server, &["deploy", "--pipeline", "broken"], &[]);
    assert_eq!(code, 1, "{told}");
    for line in ["migrate: rolling back", &format!("migrate: the rollback failed: {WHY}"), "copy rolled back"] {
        assert!(told.contains(line), "{line:?} is not in\n{told}");
    }
    assert!(!told.contains("migrate failed"), "the phase itself has succeeded:\n{told}");
    let page = server.deployment("1", "/events?maxWaitSeconds=0").await.body;
    let events = page["events"].as_array().unwrap().iter().filter(|event| event["type"] == "phase");
    let states: Vec<_> = events.map(|event| (event["name"].clone(), event["state"].clone())).collect();
    let wanted =
        [("migrate", "rollingBack"), ("migrate", "rollbackFailed"), ("copy", "rollingBack"), ("copy", "rolledBack")];
    let wanted: Vec<(Value, Value)> = wanted.map(|(name, state)| (json!(name), json!(state))).to_vec();
    assert_eq!(states[states.len() - 4..], wanted);
    let event = page["events"].as_array().unwrap().iter().find(|event| event["state"] == "rollbackFailed").unwrap();
    assert_eq!(event["message"], WHY);
    let error = server.deployment("1", "").await.body["error"].clone();
    assert_eq!((&error["phase"], &error["rollback"]), (&json!("switch"), &failed(WHY)));
    assert!(error["message"].as_str().unwrap().ends_with(WHY), "clients that know no more show this: {error}");
    let last = page["events"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["type"], &last["error"]), (&json!("complete"), &error));
}

#[tokio::test]
async fn a_deployment_tells_how_its_rollbacks_went() {
    let server = server();
    for (pipeline, wanted) in
        [("none", Value::Null), ("good", json!({ "status": "rolledBack", "failed": [] })), ("broken", failed(WHY))]
    {
        let id = server.accepted(json!({ "pipeline": pipeline })).await;
        assert_eq!(told(&server, &id, "PHASE_FAILED").await, wanted, "{pipeline}");
    }
    let quick = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&quick).await["error"], Value::Null);
    let waiting = held(&server, "held").await;
    let queued = server.accepted(json!({ "pipeline": "broken", "onConflict": "queue" })).await;
    server.cancel(&queued, json!({})).await;
    assert_eq!(told(&server, &queued, "CANCELLED").await, Value::Null, "it never ran");
    server.cancel(&waiting, json!({})).await;
    assert_eq!(told(&server, &waiting, "CANCELLED").await, failed(WHY));
}

#[tokio::test]
async fn it_is_told_by_what_failed_and_what_was_cancelled_whoever_ran_it_and_after_a_restart_on_either_store() {
    for store in ["sqlite:test.db".to_owned(), postgres::shared().store().await] {
        for by_agent in [false, true] {
            let mut server = if by_agent { TestServer::start_on(&store, &by_agents("")) } else { server_on(&store) };
            let pipelines = at_gate_of("AGENT_DIR", PIPELINES);
            let pipelines = pipelines.replace("pipelines.broken", "pipelines.undone");
            let agent = by_agent.then(|| TestAgent::start_with(&server, &pipelines, &[]));
            let broken = if by_agent { "undone" } else { "broken" };
            let broken = server.accepted(json!({ "pipeline": broken })).await;
            assert_eq!(told(&server, &broken, "PHASE_FAILED").await, failed(WHY), "{store}, by agent: {by_agent}");
            let cancelled = held(&server, "held").await;
            server.cancel(&cancelled, json!({ "reason": "changed my mind" })).await;
            assert_eq!(told(&server, &cancelled, "CANCELLED").await, failed(WHY), "{store}, by agent: {by_agent}");
            let before = [server.finished(&broken).await, server.finished(&cancelled).await];
            server.kill();
            server.boot();
            let after = [server.finished(&broken).await, server.finished(&cancelled).await];
            assert_eq!(before, after, "{store}, by agent: {by_agent}");
            drop(agent);
        }
    }
}

#[tokio::test]
async fn a_copied_store_tells_it_too() {
    let mut old = server();
    let broken = old.accepted(json!({ "pipeline": "broken" })).await;
    let good = old.accepted(json!({ "pipeline": "good", "onConflict": "queue" })).await;
    let before = [old.finished(&broken).await, old.finished(&good).await];
    assert_eq!(before[0]["error"]["rollback"], failed(WHY));
    old.kill();
    let cluster = postgres::shared();
    let store = cluster.url(&cluster.empty_database().await);
    let copied = old.tool(&["store", "copy", "--from", "sqlite:test.db", "--to", &store]).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let new = TestServer::start_on(&store, "");
    assert_eq!([new.finished(&broken).await, new.finished(&good).await], before);
}

#[tokio::test]
async fn a_rollback_whose_worker_is_killed_counts_as_failed() {
    let mut server = server();
    let id = held(&server, "slow").await;
    server.kill();
    server.boot();
    assert_eq!(told(&server, &id, "WORKER_LOST").await, failed(UNKNOWN));
    let (code, stdout, _) = run(&server, &["status", &id], &[]);
    let line = format!("rollback    {UNKNOWN}; repair by hand what the phase changed");
    assert!(code == 0 && stdout.lines().any(|told| told == line), "{stdout}");
}

#[tokio::test]
async fn a_rollback_under_way_is_told_when_its_agent_is_killed() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start_with(&server, &at_gate_of("AGENT_DIR", OTHERS).replace("quick", "fast"), &[]);
    let id = held(&server, "slow").await;
    agent.kill();
    // It tells what its former self had not told yet.
    agent.boot();
    assert_eq!(told(&server, &id, "WORKER_LOST").await, failed(UNKNOWN));
}

#[tokio::test]
async fn a_release_in_the_middle_of_a_rollback_tells_that_its_end_is_not_known() {
    let server = server();
    let id = held(&server, "slow").await;
    let args = ["release", "--even-if-alive", "--reason", "runner 7 is on fire"];
    let (code, _, stderr) = run(&server, &args, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(told(&server, &id, "RELEASED").await, failed(UNKNOWN));
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_told_what_to_repair_wherever_they_look() {
    let server = server();
    let summary = server.path("summary");
    let ci = [("GITHUB_ACTIONS", "true"), ("GITHUB_STEP_SUMMARY", summary.to_str().unwrap())];
    let variables = server.path("deploy.env");
    let args = ["deploy", "--pipeline", "broken", "--dotenv", variables.to_str().unwrap()];
    let (code, _, stderr) = run(&server, &args, &ci);
    assert_eq!(code, 1, "{stderr}");
    let annotation = format!("::error title=singletrack%3A ROLLBACK_FAILED::{REPAIR}");
    assert!(stderr.lines().any(|line| line == annotation), "{annotation}\nis not in\n{stderr}");
    let summary = fs::read_to_string(&summary).unwrap();
    assert!(summary.contains("repair by hand what the phase changed"), "{summary}");
    let variables = fs::read_to_string(&variables).unwrap();
    assert!(variables.lines().any(|line| line == "DEPLOYMENT_ROLLBACK=rollbackFailed"), "{variables}");

    let told = format!("error: {REPAIR}");
    for args in [&["wait", "1"][..], &["deploy", "--pipeline", "broken"], &["logs", "1", "--follow"]] {
        let (_, _, stderr) = run(&server, args, &[]);
        assert!(stderr.lines().any(|line| line == told), "{args:?}: {stderr}");
        assert!(stderr.contains("more: singletrack explain ROLLBACK_FAILED"), "{args:?}: {stderr}");
    }
    for args in [&["status", "1"][..], &["why"]] {
        let (_, stdout, _) = run(&server, args, &[]);
        assert!(stdout.contains(REPAIR), "{args:?}: {stdout}");
    }
    let (_, stdout, _) = run(&server, &["wait", "1", "--json"], &[]);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&json["reason"], &json["error"]["rollback"]), (&json!("PHASE_FAILED"), &failed(WHY)));

    let (code, _, stderr) = run(&server, &["deploy", "--pipeline", "good"], &[]);
    assert!(code == 1 && !stderr.contains("by hand"), "{stderr}");
    let (_, stdout, _) = run(&server, &["status"], &[]);
    assert!(stdout.lines().any(|line| line == "rollback    done"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cancels_and_who_is_superseded_is_told_what_to_repair() {
    let server = server();
    let id = held(&server, "held").await;
    let (code, stdout, stderr) = run(&server, &["cancel", &id, "--wait"], &[]);
    assert!(code == 0 && stdout.contains("is cancelled"), "{stdout}{stderr}");
    assert!(stderr.lines().any(|line| line == format!("error: {REPAIR}")), "{stderr}");

    // Even where it is no failure that a newer one took the place.
    let mut first = Command::new(SINGLETRACK);
    first.env_clear().env("SINGLETRACK_URL", &server.base);
    first.args(["deploy", "--project", "web", "--pipeline", "held", "--superseded-ok"]);
    let first = first.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = loop {
        let newest = server.deployments().await[0].clone();
        if newest["number"] == 2 {
            break newest["id"].as_str().unwrap().to_owned();
        }
    };
    server.event(&id, at_the_gate).await;
    let takeover = ["deploy", "--pipeline", "quick", "--cancel-in-progress-deployment"];
    let (code, _, stderr) = run(&server, &takeover, &[]);
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = said(first.wait_with_output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.lines().any(|line| line == format!("error: {REPAIR}")), "{stderr}");
    assert_eq!(told(&server, &id, "SUPERSEDED").await, failed(WHY));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_waiting_for_a_deployment_of_his_own_is_told_what_to_repair() {
    let server = server();
    let mut deploy = Command::new(SINGLETRACK);
    deploy.env_clear().env("SINGLETRACK_URL", &server.base);
    deploy.args(["deploy", "--project", "web", "--pipeline", "held"]);
    let deploy = deploy.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while server.deployments().await.is_empty() {}
    server.event("1", at_the_gate).await;
    kill_process(Pid::from_child(&deploy), Signal::TERM).unwrap();
    let (code, _, stderr) = said(deploy.wait_with_output().unwrap());
    assert_eq!(code, 130, "{stderr}");
    assert!(stderr.lines().any(|line| line == format!("error: {REPAIR}")), "{stderr}");
}

#[tokio::test]
async fn a_rollback_that_failed_while_the_server_was_shut_down_is_told_after_its_restart() {
    let pipelines = at_gate_of("TEST_DIR", PIPELINES);
    let mut server = TestServer::start(&format!("shutdown_grace = \"1s\"\n{pipelines}"));
    server.close_gate();
    let id = held(&server, "held").await;
    assert!(server.terminate().success());
    server.boot();
    assert_eq!(told(&server, &id, "WORKER_LOST").await, failed(WHY));
}

#[tokio::test]
async fn a_worker_tells_no_more_of_its_rollbacks_than_fits_and_nothing_that_moves_a_terminal() {
    let server = TestServer::start("");
    let held = server.submit(json!({ "executor": "client", "claim": true })).await;
    let secret = held.body["lease"]["secret"].as_str().unwrap().to_owned();
    let call = async |what: &str, body: Value| {
        let path = format!("/v1/projects/web/deployments/{}/{what}", held.id());
        send(server.request(Method::POST, &path).header("Singletrack-Lease", &secret).json(&body)).await
    };
    let hostile = "\u{1b}[2J\r\n::error::pwned\u{0}".repeat(300);
    let report = |number: usize| json!({ "type": "phase", "name": format!("{number}\u{202e}|`"), "state": "rollbackFailed", "message": hostile });
    let reports: Vec<_> = (0..200).map(report).collect();
    let answer = call("reports", json!({ "first": 1, "reports": reports })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let refused = json!({ "type": "phase", "name": "a\u{1b}b", "state": "rollbackFailed" });
    let answer = call("reports", json!({ "first": 201, "reports": [refused] })).await;
    assert_eq!(answer.refusal(), (400, "INVALID_BODY"));

    let error = json!({ "code": "PHASE_FAILED", "message": "no" });
    let mut early = error.clone();
    early["rollback"] = json!({ "status": "rolledBack", "failed": [] });
    let answer = call("finish", json!({ "status": "FAILED", "error": early })).await;
    assert_eq!(answer.refusal(), (400, "UNKNOWN_PARAMETER"), "its phases tell that, and nothing else does");
    let ended = call("finish", json!({ "status": "FAILED", "error": error })).await;
    assert_eq!(ended.status, 200, "{}", ended.text);
    let failed = ended.body["error"]["rollback"]["failed"].as_array().unwrap().clone();
    assert_eq!(failed.len(), 100);
    for failed in &failed {
        let message = failed["message"].as_str().unwrap();
        assert!(message.chars().count() <= 512 && !message.contains(['\u{1b}', '\u{0}']), "{message:?}");
    }

    let summary = server.path("summary");
    let ci = [("GITHUB_ACTIONS", "true"), ("GITHUB_STEP_SUMMARY", summary.to_str().unwrap())];
    for args in [&["wait", "1"][..], &["status", "1"], &["why"]] {
        let (_, stdout, stderr) = run(&server, args, &ci);
        for line in stdout.lines().chain(stderr.lines()) {
            assert!(!line.contains(['\u{1b}', '\r', '\u{202e}']), "{args:?}: {line:?}");
            let is_command = line.trim_start().starts_with("::") && !line.starts_with("::error title=singletrack%3A ");
            assert!(!is_command, "{args:?}: {line:?}");
        }
    }
}
