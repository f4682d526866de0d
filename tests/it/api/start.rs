//! What those who wait are told of their own start.

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, SINGLETRACK, TestServer, gated_config, send};

/// A server on whose project `web` past runs took so long: of `deploy`, which stands at the gate, and of `quick`.
async fn with_history(more: &str, deploy_ms: &[u64], quick_ms: &[u64]) -> TestServer {
    let mut server = TestServer::start(&gated_config(more));
    server.close_gate();
    let first = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&first).await;
    server.terminate();
    let runs = deploy_ms.iter().map(|ms| (0, *ms)).chain(quick_ms.iter().map(|ms| (1, *ms)));
    let text = json!([["deploy", "quick"], runs.collect::<Vec<_>>()]).to_string();
    let store = rusqlite::Connection::open(server.path("test.db")).unwrap();
    store.execute("UPDATE projects SET recent_runs = ?1", [text]).unwrap();
    drop(store);
    server.boot();
    server
}

fn p50(waiting: &Value) -> u64 {
    let start = &waiting["expectedStart"];
    assert!(start["p90Seconds"].as_u64() >= start["p50Seconds"].as_u64(), "{waiting}");
    start["p50Seconds"].as_u64().unwrap_or_else(|| panic!("no start is told: {waiting}"))
}

/// What a command says on standard output and standard error.
fn says(server: &TestServer, args: &[&str]) -> String {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", &server.base).env("SINGLETRACK_PROJECT", "web");
    let output = command.args(args).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn planned(server: &TestServer, body: Value) -> Answer {
    send(server.request(Method::POST, "/v1/projects/web/deployments?dryRun=true").json(&body)).await
}

#[tokio::test]
async fn each_one_in_line_is_told_its_own_start_wherever_its_place_is_told() {
    let server = with_history("", &[1_000_000; 3], &[50_000; 3]).await;
    server.at_the_gate().await;
    let queued = async |pipeline| server.submit(json!({ "pipeline": pipeline, "onConflict": "queue" })).await;
    let told = [queued("quick").await, queued("deploy").await, queued("quick").await];
    let view = server.project().await;
    let line = view["line"].as_array().unwrap();
    let starts: Vec<_> = line.iter().map(p50).collect();
    assert_eq!(starts[0], view["eta"]["p50Seconds"], "whoever is next waits for the holder alone");
    // Of one answer, so that no time has passed in between.
    assert_eq!((starts[1] - starts[0], starts[2] - starts[1]), (50, 1000), "{line:?}");
    // In the others it may have.
    let is_near = |start: u64, other: u64| start <= other && start + 300 > other;
    let accepted: Vec<_> = told.iter().map(|told| p50(&told.body)).collect();
    assert!(starts.iter().zip(&accepted).all(|(start, accepted)| is_near(*start, *accepted)), "{accepted:?}");
    let own = server.deployment(line[2]["id"].as_str().unwrap(), "").await.body;
    assert!(is_near(p50(&own), starts[2]), "{own}");
    let wish = json!({ "pipeline": "quick", "onConflict": "wait" });
    let plan = planned(&server, wish.clone()).await.body;
    let conflict = server.submit_keyed("mine", wish).await.body;
    assert!(is_near(p50(&conflict), plan["expectedWait"]["p50Seconds"].as_u64().unwrap()), "{plan} {conflict}");
    assert!(p50(&conflict) > starts[2], "{conflict}");
    let still = server.deployment(conflict["ticket"].as_str().unwrap(), "/turn?maxWaitSeconds=0").await.body;
    assert_eq!(still["expectedStart"], still["deployment"]["expectedStart"]);
    assert!(is_near(p50(&still), p50(&conflict)), "{still}");
    let poll = server.deployment(line[1]["id"].as_str().unwrap(), "/completion?maxWaitSeconds=0").await.body;
    assert!(is_near(p50(&poll["deployment"]), starts[1]), "{poll}");

    let why = says(&server, &["why"]);
    assert_eq!(why.matches("; expected to start in about ").count(), 4, "{why}");
    let status = says(&server, &["status", line[1]["id"].as_str().unwrap()]);
    assert!(status.contains("starts      expected to start in about 1"), "{status}");
    let dry = says(&server, &["deploy", "--pipeline", "quick", "--dry-run"]);
    assert!(dry.contains("number 5 in line, expected to start in about 3"), "{dry}");
    let short = says(&server, &["deploy", "--pipeline", "quick", "--timeout", "1s"]);
    assert!(short.contains("you are number 5 in line, expected to start in about 3"), "{short}");
    server.open_gate();
}

#[tokio::test]
async fn a_start_that_nobody_can_tell_is_null_and_the_words_say_why() {
    let server = with_history("", &[], &[50_000; 3]).await;
    let holder = server.at_the_gate().await;
    server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let view = server.project().await;
    for waiting in view["line"].as_array().unwrap() {
        assert_eq!(waiting.get("expectedStart"), Some(&Value::Null), "{waiting}");
        let why = waiting["startUnknown"].as_str().unwrap();
        assert!(why.contains("pipeline deploy has not succeeded yet"), "{why}");
    }
    let plan = planned(&server, json!({ "pipeline": "quick", "onConflict": "queue" })).await.body;
    assert_eq!(plan["expectedWait"], Value::Null);
    assert!(plan["startUnknown"].as_str().unwrap().contains("pipeline deploy has not succeeded yet"), "{plan}");
    let unknown = "the start is not known: pipeline deploy has not succeeded yet";
    for args in [&["why"][..], &["deploy", "--pipeline", "quick", "--timeout", "1s"], &["deploy", "--dry-run"]] {
        let told = says(&server, args);
        assert!(told.contains(unknown), "{args:?}: {told}");
    }
    let first = server.project().await["line"][0]["id"].as_str().unwrap().to_owned();
    server.open_gate();
    server.finished(&holder).await;
    let ended = server.finished(&first).await;
    assert!(ended.get("expectedStart").is_none() && ended.get("startUnknown").is_none(), "{ended}");
}

#[tokio::test]
async fn those_who_end_before_their_turn_are_not_waited_for() {
    let server = with_history("", &[1_000_000; 3], &[50_000; 3]).await;
    server.accepted(json!({ "order": 10 })).await;
    let queued = async |pipeline: &str, order: Option<u64>| {
        server.accepted(json!({ "pipeline": pipeline, "order": order, "onConflict": "queue" })).await
    };
    queued("quick", Some(20)).await;
    // Superseded by the one before it, and by nobody after it.
    queued("deploy", Some(15)).await;
    queued("quick", None).await;
    let view = server.project().await;
    let line = view["line"].as_array().unwrap();
    assert_eq!(line[1]["expectedStart"], Value::Null);
    assert_eq!(line[1]["willBeSupersededBy"], line[0]["id"]);
    assert!(line[1]["startUnknown"].as_str().unwrap().contains("newer deployment"), "{view}");
    assert_eq!(p50(&line[2]) - p50(&line[0]), 50, "{view}");
    server.open_gate();
}

#[tokio::test]
async fn one_who_is_put_before_others_starts_before_them() {
    let server = with_history("[projects.web]\nline = \"latest\"\n", &[1_000_000; 3], &[50_000; 3]).await;
    server.at_the_gate().await;
    let wish = json!({ "pipeline": "deploy", "onConflict": "queue" });
    let older = server.submit(wish.clone()).await.body;
    let newer = server.submit(wish).await.body;
    assert!(p50(&newer) <= p50(&older), "{newer} {older}");
    let older = server.deployment(older["id"].as_str().unwrap(), "").await.body;
    assert_eq!((&older["expectedStart"], &older["willBeSupersededBy"]), (&Value::Null, &newer["id"]));
    server.open_gate();
}

#[tokio::test]
async fn behind_a_holder_that_outlasts_its_usual_time_the_start_may_come_any_moment_and_is_never_0() {
    let server = with_history("", &[1; 3], &[50_000; 3]).await;
    server.at_the_gate().await;
    server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let view = server.project().await;
    assert_eq!(view["eta"], json!({ "p50Seconds": 0, "p90Seconds": 0 }));
    assert_eq!(p50(&view["line"][0]), 1);
    assert!(p50(&view["line"][1]) >= 50, "{view}");
    let why = says(&server, &["why"]);
    assert!(why.contains("longer than usual already") && why.contains("; expected to start any moment"), "{why}");
    server.open_gate();
}

#[tokio::test]
async fn nobody_knows_how_long_the_holders_cancel_takes() {
    let config = "
[[projects.web.pipelines.stubborn.phases]]
name = \"only\"
run = '''
trap 'flock --shared \"$TEST_DIR/gate\" true' TERM
echo 'at the gate'
flock --shared \"$TEST_DIR/gate\" true
'''
";
    let server = with_history(config, &[1_000_000; 3], &[50_000; 3]).await;
    let holder = server.accepted(json!({ "pipeline": "stubborn" })).await;
    server.event(&holder, |event| event["lines"][0] == "at the gate").await;
    let waiting = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    assert_eq!(server.cancel(&holder, json!({})).await.status, 202);
    let told = server.deployment(&waiting, "").await.body;
    assert_eq!(told["expectedStart"], Value::Null);
    assert!(told["startUnknown"].as_str().unwrap().contains("how long the cancel"), "{told}");
    server.open_gate();
}

#[tokio::test]
async fn a_timeout_that_cannot_hold_the_expected_start_the_run_or_the_pipelines_own_is_told_at_the_submit() {
    let config = "
[projects.web.pipelines.long]
timeout = \"50m\"
[[projects.web.pipelines.long.phases]]
name = \"only\"
run = \"true\"
";
    let server = with_history(config, &[1_000_000; 3], &[50_000; 3]).await;
    let warned = |args: &[&str]| {
        let told = says(&server, &[&["deploy", "--timeout", "40s"], args].concat());
        assert!(told.matches("--timeout 40s is shorter: pass a longer one").count() <= 1, "{told}");
        told.lines().find(|line| line.contains("is shorter: pass a longer one")).unwrap_or_default().to_owned()
    };
    for more in [&[][..], &["--dry-run"]] {
        let run = warned(&[&["--pipeline", "quick"], more].concat());
        assert!(run.contains("a run takes about 50s, and --timeout 40s"), "{run}");
        let limit = warned(&[&["--pipeline", "long"], more].concat());
        assert!(
            limit.contains("the pipeline may run for up to 50m00s by its own timeout, and --timeout 40s"),
            "{limit}"
        );
        assert_eq!(warned(&[&["--pipeline", "broken"], more].concat()), "", "of this nothing is known");
    }
    server.at_the_gate().await;
    for more in [&["--dry-run"][..], &["--detach"]] {
        let start = warned(&[&["--pipeline", "broken"], more].concat());
        assert!(start.contains("the slot is expected to be free in about 16m"), "{start}");
    }
    server.open_gate();
}
