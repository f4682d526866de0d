//! A CI job that repeats its step, against a real server: what is over is deployed again, what runs is found again.

use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::harness::{SINGLETRACK, TestServer};

/// A step of one and the same attempt of a job in Jenkins.
fn step(server: &TestServer, args: &[&str]) -> Command {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", &server.base).envs([
        ("JENKINS_URL", "https://jenkins.example/"),
        ("JOB_NAME", "web"),
        ("BUILD_NUMBER", "12"),
    ]);
    command.args(["deploy", "--project", "web"]).args(args).stdin(Stdio::null());
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[tokio::test]
async fn a_retry_deploys_once_the_cause_of_the_failure_is_removed() {
    let pipeline = |run: &str| format!("[[projects.web.pipelines.deploy.phases]]\nname = \"only\"\nrun = \"{run}\"\n");
    let mut server = TestServer::start(&pipeline("exit 3"));
    assert_eq!(code(&step(&server, &[]).output().unwrap()), 1);
    assert_eq!(code(&step(&server, &[]).output().unwrap()), 1, "it was tried, and failed again");
    assert_eq!(server.deployments().await.len(), 2);
    server.terminate();
    server.configure(&pipeline("true"));
    server.boot();
    assert_eq!(code(&step(&server, &[]).output().unwrap()), 0);
    assert_eq!(server.deployments().await.len(), 3);
}

#[tokio::test]
async fn a_retry_deploys_once_the_slot_is_free() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    assert_eq!(code(&step(&server, &["--pipeline", "quick", "--timeout", "1s"]).output().unwrap()), 121);
    server.open_gate();
    server.finished(&holder).await;
    assert_eq!(code(&step(&server, &["--pipeline", "quick", "--timeout", "1s"]).output().unwrap()), 0);
}

#[tokio::test]
async fn the_same_request_after_another_one_deploys() {
    let server = TestServer::gated();
    for pipeline in ["quick", "broken", "quick"] {
        step(&server, &["--pipeline", pipeline]).output().unwrap();
    }
    let ran: Vec<_> = server.deployments().await.iter().map(|ran| ran["pipeline"].clone()).collect();
    assert_eq!(ran, ["quick", "broken", "quick"]);
}

#[tokio::test]
async fn a_retry_beside_what_still_runs_follows_it() {
    let server = TestServer::gated();
    let mut first = step(&server, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let id = loop {
        if let Some(running) = server.deployments().await.first() {
            break running["id"].as_str().unwrap().to_owned();
        }
    };
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    let second = step(&server, &["--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Both watch the same deployment.
    server.parked(2).await;
    server.open_gate();
    let second = second.wait_with_output().unwrap();
    assert_eq!(code(&second), 0);
    assert!(String::from_utf8_lossy(&second.stdout).contains(&id), "{second:?}");
    assert!(first.wait().unwrap().success());
    assert_eq!(server.deployments().await.len(), 1);
}

#[tokio::test]
async fn what_a_system_says_in_odd_characters_refuses_no_deployment() {
    let server = TestServer::gated();
    let mut command = step(&server, &["--pipeline", "quick"]);
    command.env_remove("JENKINS_URL").envs([
        ("GITLAB_CI", "true"),
        ("CI_JOB_ID", "77"),
        ("CI_COMMIT_TITLE", "fix \u{1b}[31mred\u{1b}[0m\u{85}x"),
        ("CI_COMMIT_REF_NAME", "main\u{7}"),
        ("CI_PIPELINE_IID", "99999999999999999"),
        ("CI_JOB_URL", "not a page"),
        ("GITLAB_USER_LOGIN", &"a".repeat(5000)),
    ]);
    let output = command.output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    let ran = server.deployments().await.remove(0);
    assert_eq!(ran["message"], "fix red\u{fffd}x");
    assert_eq!(ran["order"], json!(null));
}

#[tokio::test]
async fn a_variable_that_is_set_to_nothing_is_not_set() {
    let server = TestServer::gated();
    let mut command = step(&server, &["--pipeline", "quick"]);
    command.envs([("SINGLETRACK_ORDER", ""), ("SINGLETRACK_TOKEN", ""), ("SINGLETRACK_PROJECT", "")]);
    let output = command.output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    // `run` reads its arguments by a way of its own.
    let mut run = Command::new(SINGLETRACK);
    run.env_clear().envs([("SINGLETRACK_URL", server.base.as_str()), ("SINGLETRACK_ORDER", "")]);
    let output = run.args(["run", "--project", "web", "--", "/bin/true"]).output().unwrap();
    assert_eq!(code(&output), 0, "{output:?}");
    let mut wrong = step(&server, &["--order", "x"]);
    let output = wrong.output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("it is a whole number"), "{output:?}");
}
