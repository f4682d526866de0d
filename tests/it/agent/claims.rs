//! `POST /v1/claims`, and what tokens let agents do.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use super::by_agents;
use crate::harness::{Answer, SINGLETRACK, TestServer, send};

fn wish(worker: &str, claim: &str) -> Value {
    json!({ "worker": worker, "claimId": claim, "projects": { "web": ["deploy", "quick"] } })
}

async fn claim(server: &TestServer, wish: &Value, seconds: u64) -> Answer {
    server.post(&format!("/v1/claims?maxWaitSeconds={seconds}"), wish.clone()).await
}

#[tokio::test]
async fn without_work_a_claim_is_answered_at_the_end_of_its_window() {
    let server = TestServer::start(&by_agents(""));
    let answer = claim(&server, &wish("a", "1"), 0).await;
    assert_eq!(answer.refusal(), (408, "NOTHING_TO_DO"));
    assert_eq!(answer.body["retryable"], true);
    let began = Instant::now();
    assert_eq!(claim(&server, &wish("a", "2"), 1).await.status, 408);
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn bad_claims_are_refused_by_name() {
    let server = TestServer::start(&by_agents(""));
    let changed = |change: fn(&mut Value)| {
        let mut wish = wish("a", "1");
        change(&mut wish);
        wish
    };
    let cases: Vec<(Value, u16, &str)> = vec![
        (changed(|w| w["worker"] = json!("")), 400, "worker is"),
        (changed(|w| w["worker"] = json!("two words")), 400, "worker is"),
        (changed(|w| w["worker"] = json!("x".repeat(101))), 400, "worker is"),
        (changed(|w| w["claimId"] = json!("\u{1f}")), 400, "claimId is"),
        (changed(|w| w["claimId"] = json!("x".repeat(65))), 400, "claimId is"),
        (changed(|w| w["projects"] = json!({})), 400, "1 to 100 projects"),
        (changed(|w| w["projects"] = json!({ "web": [] })), 400, "1 to 100 pipelines"),
        (changed(|w| w["projects"] = json!({ "web": ["a b"] })), 400, "not a valid pipeline name"),
        (changed(|w| w["projects"] = json!({ "../web": ["a"] })), 400, "not valid"),
        (changed(|w| w["capacity"] = json!(-1)), 400, "not valid"),
        (changed(|w| w["shell"] = json!("sh")), 400, "shell"),
        (changed(|w| w["projects"] = json!({ "here": ["deploy"] })), 404, "project 'here'"),
        (changed(|w| w["projects"] = json!({ "nowhere": ["deploy"] })), 404, "project 'nowhere'"),
    ];
    for (body, status, says) in cases {
        let answer = claim(&server, &body, 0).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert!(answer.text.contains(says), "{body}: {}", answer.text);
    }
    for window in ["61", "-1", "x", "1.5"] {
        let answer = server.post(&format!("/v1/claims?maxWaitSeconds={window}"), wish("a", "1")).await;
        assert_eq!(answer.refusal(), (400, "INVALID_PARAMETER"), "{window}");
    }
    assert_eq!(server.get("/v1/claims").await.status, 405);
}

#[tokio::test]
async fn of_two_agents_that_race_for_one_deployment_one_gets_it() {
    let server = TestServer::start(&by_agents(""));
    let (one, two) = (wish("one", "1"), wish("two", "2"));
    let racing = async { tokio::join!(claim(&server, &one, 2), claim(&server, &two, 2)) };
    let submitting = async {
        // They are parked by then, and if not it is as good a race.
        while server.project().await["agents"].as_array().unwrap().len() < 2 {}
        server.accepted(json!({ "inputs": { "color": "red" } })).await
    };
    let ((one, two), id) = tokio::join!(racing, submitting);
    let (won, lost) = if one.status == 200 { (one, two) } else { (two, one) };
    assert_eq!(lost.refusal(), (408, "NOTHING_TO_DO"), "{}", lost.text);
    assert_eq!(won.body["deployment"]["id"], id);
    assert_eq!(won.body["deployment"]["status"], "RUNNING");
    assert_eq!(won.body["inputs"], json!({ "color": "red" }));
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_answered_again_the_same() {
    let mut server = TestServer::start(&by_agents(""));
    let id = server.accepted(json!({})).await;
    let first = claim(&server, &wish("a", "1"), 5).await;
    assert_eq!(first.body["deployment"]["id"], id, "{}", first.text);
    let again = claim(&server, &wish("a", "1"), 0).await;
    assert_eq!(again.body["lease"], first.body["lease"]);
    assert_eq!(claim(&server, &wish("a", "2"), 0).await.status, 408);
    assert_eq!(claim(&server, &wish("b", "1"), 0).await.status, 408);
    // Not even a restart in between changes that.
    server.kill();
    server.boot();
    let again = claim(&server, &wish("a", "1"), 0).await;
    assert_eq!(again.body["lease"], first.body["lease"]);
    let secret = first.body["lease"]["secret"].as_str().unwrap();
    let path = format!("/v1/projects/web/deployments/{id}/finish");
    let request = server.request(Method::POST, &path).header("Singletrack-Lease", secret);
    let ended = send(request.json(&json!({ "status": "SUCCEEDED" }))).await;
    assert_eq!(ended.body["status"], "SUCCEEDED", "{}", ended.text);
    assert_eq!(claim(&server, &wish("a", "1"), 0).await.status, 408);
}

#[tokio::test]
async fn only_pipelines_that_an_agent_offers_can_be_submitted_once_one_is_known() {
    let server = TestServer::start(&by_agents(""));
    // Nobody knows yet what there is.
    server.accepted(json!({ "pipeline": "whatever" })).await;
    claim(&server, &json!({ "worker": "a", "claimId": "1", "projects": { "api": ["quick", "deploy"] } }), 0).await;
    let answer = server.post("/v1/projects/api/deployments", json!({ "pipeline": "other" })).await;
    assert_eq!(answer.refusal(), (400, "UNKNOWN_PIPELINE"));
    assert!(answer.text.contains("there are: deploy, quick"), "{}", answer.text);
}

#[tokio::test]
async fn a_strict_project_refuses_what_no_agent_could_run() {
    let server = TestServer::start(&by_agents(""));
    let path = "/v1/projects/strict/deployments";
    let answer = server.post(path, json!({})).await;
    assert_eq!(answer.refusal(), (409, "NO_AGENT"), "{}", answer.text);
    assert!(answer.body.get("deploymentId").is_none());
    assert!(answer.text.contains("none was ever seen"), "{}", answer.text);
    let offer = json!({ "worker": "a", "claimId": "1", "projects": { "strict": ["deploy"] }, "capacity": 0 });
    let parked = claim(&server, &offer, 10);
    let submit = async {
        let keyed = || server.request(Method::POST, path).header("Idempotency-Key", "one").json(&json!({}));
        while server.get("/v1/projects/strict").await.body["agents"] == json!([]) {}
        let accepted = send(keyed()).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        accepted
    };
    // The poll is given up with the agent.
    tokio::select! {
        _ = parked => panic!("it has no capacity"),
        accepted = submit => {
            // What was accepted is found again, whether an agent is there or not.
            let request = server.request(Method::POST, path).header("Idempotency-Key", "one").json(&json!({}));
            assert_eq!(send(request).await.id(), accepted.id());
        }
    }
}

#[tokio::test]
async fn who_asks_is_shown_as_connected_and_then_as_last_seen() {
    let server = TestServer::start(&by_agents(""));
    let wish = json!({ "worker": "a", "claimId": "1", "projects": { "web": ["deploy"] }, "capacity": 0 });
    let watching = async {
        loop {
            let view = server.project().await;
            if view["agents"][0]["connected"] == true {
                assert_eq!(view["agents"][0]["worker"], "a");
                assert_eq!(view["pipelines"], json!(["deploy"]));
                break;
            }
        }
    };
    tokio::select! {
        answer = claim(&server, &wish, 30) => panic!("{}", answer.text),
        () = watching => {}
    }
    // Its connection was cut, which the server notices by itself.
    while server.project().await["agents"][0]["connected"] == true {}
    assert!(server.project().await["agents"][0]["lastSeenAt"].is_string());
}

#[tokio::test]
async fn a_token_for_some_projects_sees_and_claims_no_others() {
    // The SHA-256 of "narrow" and of "wide".
    let tokens = r#"
[[tokens]]
name = "narrow"
sha256 = "NARROW"
projects = ["api", "ghost"]
[[tokens]]
name = "wide"
sha256 = "WIDE"
"#;
    let hash = |text: &str| {
        use sha2::{Digest as _, Sha256};
        data_encoding::HEXLOWER.encode(&Sha256::digest(text))
    };
    let tokens = tokens.replace("NARROW", &hash("narrow")).replace("WIDE", &hash("wide"));
    let server = TestServer::start(&by_agents(&tokens));
    let with = |token: &str, method: Method, path: &str| server.request(method, path).bearer_auth(token);
    let submitted = send(with("wide", Method::POST, "/v1/projects/web/deployments").json(&json!({}))).await;
    let id = submitted.id();
    let below = format!("/v1/projects/web/deployments/{id}");
    for (method, path) in [
        (Method::GET, "/v1/projects/web".to_owned()),
        (Method::GET, "/v1/projects/%77eb".to_owned()),
        (Method::GET, below.clone()),
        (Method::GET, format!("{below}/completion?maxWaitSeconds=0")),
        (Method::GET, format!("{below}/events")),
        (Method::POST, format!("{below}/cancel")),
        (Method::POST, "/v1/projects/web/deployments".to_owned()),
    ] {
        let hidden = send(with("narrow", method.clone(), &path)).await;
        let absent = send(with("narrow", method, &path.replace("web", "nope").replace("%77eb", "nope"))).await;
        assert_eq!(hidden.refusal(), (404, "NOT_FOUND"), "{path}");
        assert_eq!(hidden.body["detail"], absent.body["detail"], "{path}");
    }
    let list = send(with("narrow", Method::GET, "/v1/projects?limit=1")).await;
    assert_eq!(list.body["projects"].as_array().unwrap().len(), 1);
    assert_eq!(list.body["projects"][0]["project"], "api");
    assert_eq!(list.body["nextCursor"], Value::Null);
    let wide = send(with("wide", Method::GET, "/v1/projects")).await;
    assert_eq!(wide.body["projects"].as_array().unwrap().len(), 5);
    let claims = "/v1/claims?maxWaitSeconds=0";
    let refused = send(with("narrow", Method::POST, claims).json(&wish("a", "1"))).await;
    assert_eq!(refused.refusal(), (404, "NOT_FOUND"));
    let own = json!({ "worker": "a", "claimId": "1", "projects": { "api": ["deploy"] } });
    assert_eq!(send(with("narrow", Method::POST, claims).json(&own)).await.status, 408);
    let taken = send(with("wide", Method::POST, claims).json(&wish("a", "1"))).await;
    assert_eq!(taken.body["deployment"]["id"], id, "{}", taken.text);
    assert_eq!(send(with("nobody", Method::GET, "/v1/projects")).await.status, 401);
}

#[tokio::test]
async fn what_no_agent_takes_within_the_projects_time_ends_unclaimed() {
    let server = TestServer::start(&by_agents(""));
    let id = server.post("/v1/projects/impatient/deployments", json!({})).await.id();
    let path = format!("/v1/projects/impatient/deployments/{id}/completion?maxWaitSeconds=30");
    let ended = server.get(&path).await;
    assert_eq!(ended.body["error"]["code"], "UNCLAIMED", "{}", ended.text);
    let says = "no worker took it: no agent for impatient is connected (none was ever seen)";
    assert_eq!(ended.body["error"]["message"], says, "{}", ended.text);
}

#[tokio::test]
async fn whoever_waits_for_an_agent_is_told_that_none_is_there_and_until_when_it_waits() {
    let server = TestServer::start(&by_agents(""));
    let command = |args: &[&str]| {
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().env("USER", "alice").env("SINGLETRACK_URL", &server.base).args(args);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.code(), text)
    };
    let says = "no agent for web is connected (none was ever seen); waits until ";
    let (code, told) = command(&["deploy", "--project", "web", "--timeout", "1s"]);
    assert_eq!(code, Some(124), "{told}");
    assert!(told.contains(&format!("has the slot; {says}")), "{told}");
    assert!(told.contains("the deadline passed before a worker took web#1"), "{told}");

    let accepted = server.submit(json!({})).await;
    let told = |deployment: &Value| deployment["waitsFor"].as_str().is_some_and(|waits| waits.starts_with(says));
    assert!(told(&accepted.body), "{}", accepted.text);
    let id = accepted.id();
    assert!(told(&server.deployment(&id, "").await.body));
    assert!(told(&server.project().await["holder"]));
    let still = server.deployment(&id, "/completion?maxWaitSeconds=0").await;
    assert!(told(&still.body["deployment"]), "{}", still.text);
    let held = server.submit(json!({})).await;
    assert!(held.body["blocking"]["message"].as_str().is_some_and(|text| text.starts_with(says)), "{}", held.text);
    for args in [&["why", "--project", "web"][..], &["status", "--project", "web"]] {
        let (_, text) = command(args);
        assert_eq!(text.matches(says).count(), 1, "{text}");
    }
    let (_, text) = command(&["deploy", "--project", "web", "--on-conflict", "fail"]);
    assert!(text.contains(says), "{text}");
    // It is there for `web`, and so there is nothing to tell any more.
    let taken = claim(&server, &wish("a", "1"), 5).await;
    assert_eq!((taken.status, &taken.body["deployment"]["id"]), (200, &json!(id)), "{}", taken.text);
    assert_eq!(server.deployment(&id, "").await.body["waitsFor"], Value::Null);
}
