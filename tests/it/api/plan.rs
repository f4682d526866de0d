//! `?dryRun=true`: the plan, and nothing else.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{SINGLETRACK, TestServer};

#[tokio::test]
async fn a_plan_needs_no_key_whatever_is_wished_and_stores_nothing() {
    let server = TestServer::gated();
    for on_conflict in ["refuse", "wait", "queue"] {
        let body = json!({ "pipeline": "quick", "onConflict": on_conflict });
        let answer = server.post("/v1/projects/web/deployments?dryRun=true", body).await;
        assert_eq!(answer.status, 200, "{on_conflict}: {}", answer.text);
        assert_eq!(answer.body["dryRun"], true);
    }
    let listed = server.get("/v1/projects/web/deployments").await.body;
    assert_eq!(listed["deployments"], json!([]));
}

/// What `deploy --dry-run` says, and the code with which it ends.
fn planned(server: &TestServer, project: &str, args: &[&str]) -> (i32, Value) {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("USER", "alice").env("SINGLETRACK_URL", &server.base);
    let output = command.args(["deploy", "--project", project, "--dry-run", "--json"]).args(args).output().unwrap();
    let told = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no plan: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), told)
}

/// The same as text.
fn in_words(server: &TestServer, project: &str, args: &[&str]) -> String {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("USER", "alice").env("SINGLETRACK_URL", &server.base);
    let output = command.args(["deploy", "--project", project, "--dry-run"]).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The same deploy, not dry: the code with which it ends.
fn deployed(server: &TestServer, project: &str, args: &[&str]) -> i32 {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("USER", "alice").env("SINGLETRACK_URL", &server.base);
    command.args(["deploy", "--project", project]).args(args).output().unwrap().status.code().unwrap()
}

const STRICT: &str = r#"
[projects.paused]
paused = true
[[projects.paused.pipelines.deploy.phases]]
name = "only"
run = "true"
[projects.strict]
run_by = "agents"
without_agent = "refuse"
[projects.agents]
run_by = "agents"
"#;

#[tokio::test]
async fn a_dry_run_is_refused_as_the_deploy_itself_is_and_ends_with_its_code() {
    let server = TestServer::gated_with(&format!("{STRICT}\n[projects.web]\nline_limit = 1"));
    let first = server.accepted(json!({ "pipeline": "quick", "order": 12 })).await;
    server.finished(&first).await;
    let digest = "ab".repeat(32);
    let cases: [(&str, &[&str], i32, &str); 3] = [
        ("paused", &["--on-conflict", "fail"], 121, "PROJECT_PAUSED"),
        ("web", &["--order", "11"], 122, "OUTDATED"),
        ("strict", &[], 121, "NO_AGENT"),
    ];
    for (project, args, code, error) in cases {
        let (ended, plan) = planned(&server, project, args);
        assert_eq!((ended, &plan["outcome"], &plan["exitCode"]), (code, &json!("refused"), &json!(code)), "{plan}");
        assert_eq!(plan["refusal"]["errorCode"], error, "{plan}");
        let words = in_words(&server, project, args);
        assert!(words.contains("would not run") && words.contains(&format!("itself: {code}")), "{words}");
        assert_eq!(deployed(&server, project, args), code, "{project} {args:?}");
    }
    let missing = json!({ "artifact": { "sha256": digest } });
    let plan = server.post("/v1/projects/web/deployments?dryRun=true", missing.clone()).await.body;
    let real = server.post("/v1/projects/web/deployments", missing.clone()).await;
    assert_eq!(plan["refusal"]["errorCode"], "ARTIFACT_MISSING");
    assert_eq!(plan["refusal"]["message"], real.body["detail"]);
    let follows = server.post("/v1/projects/web/deployments?dryRun=true&artifactFollows=true", missing).await.body;
    assert_eq!(follows["outcome"], "starts", "{follows}");

    server.at_the_gate().await;
    let (ended, plan) = planned(&server, "web", &["--on-conflict", "fail"]);
    assert_eq!((ended, &plan["outcome"], &plan["queuePosition"]), (121, &json!("blocked"), &json!(1)), "{plan}");
    let (ended, plan) = planned(&server, "web", &[]);
    assert_eq!((ended, &plan["outcome"], &plan["exitCode"]), (0, &json!("waits"), &json!(null)), "{plan}");
    server.accepted(json!({ "onConflict": "queue" })).await;
    let (ended, plan) = planned(&server, "web", &[]);
    assert_eq!((ended, &plan["refusal"]["errorCode"]), (121, &json!("LINE_FULL")), "{plan}");
    assert_eq!(deployed(&server, "web", &[]), 121);
}

#[tokio::test]
async fn a_dry_run_says_whom_it_would_cancel_and_supersede_and_cancels_nobody() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let waiting = server.accepted(json!({ "onConflict": "queue", "actor": "bob" })).await;
    let before = server.project().await;
    let (ended, plan) = planned(&server, "web", &["--cancel-in-progress-deployment"]);
    assert_eq!((ended, &plan["outcome"], &plan["queuePosition"]), (0, &json!("waits"), &json!(1)), "{plan}");
    assert_eq!((&plan["cancels"]["id"], &plan["supersedes"][0]["id"]), (&json!(holder), &json!(waiting)), "{plan}");
    let words = in_words(&server, "web", &["--cancel-in-progress-deployment"]);
    assert!(words.contains("it would cancel") && words.contains("it would supersede web#2, bob's deploy"), "{words}");
    let (_, plan) = planned(&server, "web", &[]);
    assert_eq!((&plan["cancels"], &plan["supersedes"]), (&json!(null), &json!([])), "{plan}");
    let untouched = |mut project: Value| {
        // Its worker gives signs of life meanwhile.
        project["holder"].as_object_mut().unwrap().remove("lastHeartbeatAt");
        (project["revision"].take(), project["holder"].take())
    };
    assert_eq!(untouched(before), untouched(server.project().await));
}

#[tokio::test]
async fn a_dry_run_knows_the_rules_of_the_line_and_of_preemption() {
    let server = TestServer::gated_with("[projects.web]\nline = \"latest\"\npreempt = \"never\"");
    server.at_the_gate().await;
    let waiting = server.accepted(json!({ "onConflict": "queue" })).await;
    let (ended, plan) = planned(&server, "web", &["--cancel-in-progress-deployment"]);
    assert_eq!(
        (ended, &plan["queuePosition"], &plan["supersedes"][0]["id"]),
        (0, &json!(1), &json!(waiting)),
        "{plan}"
    );
    assert_eq!((&plan["cancels"], &plan["cancelRefusal"]["errorCode"]), (&json!(null), &json!("PREEMPTION_REFUSED")));
    let words = in_words(&server, "web", &["--cancel-in-progress-deployment"]);
    assert!(words.contains("it would cancel nobody: the project's policy lets the running"), "{words}");
    let refused = server.post("/v1/projects/web/deployments?cancelInProgress=true", json!({})).await;
    assert_eq!(refused.refusal(), (400, "INVALID_PARAMETER"));
}

#[tokio::test]
async fn a_dry_run_says_that_no_agent_is_there() {
    let server = TestServer::gated_with(STRICT);
    let (ended, plan) = planned(&server, "agents", &[]);
    assert_eq!((ended, &plan["outcome"]), (0, &json!("starts")), "{plan}");
    assert_eq!(plan["waitsForAgent"], "no agent for agents is connected (none was ever seen)");
    let words = in_words(&server, "agents", &[]);
    assert!(words.contains("no agent for agents is connected (none was ever seen): it would wait for one"), "{words}");
}

#[tokio::test]
async fn a_dry_run_with_a_key_that_was_used_tells_what_that_made() {
    let server = TestServer::gated();
    let made = deployed(&server, "web", &["--pipeline", "broken", "--idempotency-key", "once"]);
    assert_eq!(made, 1);
    let (ended, plan) = planned(&server, "web", &["--pipeline", "broken", "--idempotency-key", "once"]);
    assert_eq!(
        (ended, &plan["outcome"], &plan["replays"]["status"]),
        (1, &json!("replayed"), &json!("FAILED")),
        "{plan}"
    );
    let (ended, plan) = planned(&server, "web", &["--idempotency-key", "once"]);
    assert_eq!((ended, &plan["refusal"]["errorCode"]), (2, &json!("KEY_REUSED")), "{plan}");
}
