//! What waits and runs under a token when the token ends.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Closed, ask, get, stores};
use crate::harness::{Answer, TestServer, client::Client as Command, client_with, postgres, send};

const ALL: [&str; 6] = ["read", "submit", "cancel", "work", "release", "admin"];
/// A project of agents, and places in line that are given up soon.
const MORE: &str = "[projects.api]\nrun_by = \"agents\"\n[limits]\nattendance = \"8s\"\nfallback_poll = \"7s\"\n";
/// Longer than it may take, and shorter than what waits would wait.
const LONG: Duration = Duration::from_secs(40);

/// Submits to `web` as somebody who does the work; the deployment's id, and the lease's secret.
async fn claimed(user: &Client, server: &TestServer) -> (String, String) {
    let wish = json!({ "executor": "client", "claim": true, "leaseSeconds": 600 });
    let taken = ask(user, server, Method::POST, "/v1/projects/web/deployments", wish).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    (taken.id(), taken.body["lease"]["secret"].as_str().unwrap().to_owned())
}

/// A call under a lease.
async fn under(user: &Client, server: &TestServer, id: &str, secret: &str, below: &str, body: Value) -> Answer {
    let url = format!("{}/v1/projects/web/deployments/{id}/{below}", server.base);
    send(user.post(url).header("Singletrack-Lease", secret).json(&body)).await
}

/// Reads a stream to its end.
async fn to_its_end(user: &Client, url: String) -> u16 {
    let mut response = user.get(url).header("Accept", "text/event-stream").send().await.unwrap();
    let status = response.status().as_u16();
    while response.chunk().await.unwrap().is_some() {}
    status
}

#[tokio::test]
async fn what_waits_under_a_token_at_every_server_ends_when_the_token_is_revoked_at_one_of_them() {
    for (store, is_shared) in stores().await.into_iter().zip([false, true]) {
        let one = Closed::start(&store, MORE);
        let beside = is_shared.then(|| one.beside(&store, MORE));
        let other = beside.as_ref().unwrap_or(&one);
        let (_, user) = one.token(json!({ "name": "ci", "scopes": ALL })).await;
        let (_, bystander) = one.token(json!({ "name": "other", "scopes": ALL })).await;
        let (id, secret) = claimed(&bystander, &one.server).await;
        let of_web = format!("/v1/projects/web/deployments/{id}");
        let wish = json!({ "onConflict": "wait", "pipeline": "quick" });
        let submit = user.post(format!("{}/v1/projects/web/deployments", other.server.base));
        let held = send(submit.header("Idempotency-Key", "key").json(&wish)).await;
        let ticket = held.body["ticket"].as_str().unwrap_or_else(|| panic!("{}", held.text)).to_owned();
        let last = get(&user, &other.server, &format!("{of_web}/events?maxWaitSeconds=0")).await.body["last"].clone();
        let wait = |path: String| {
            let (user, server) = (&user, &other.server);
            async move { get(user, server, &path).await }
        };
        let waits = futures_util::future::join_all([
            wait(format!("{of_web}/completion?maxWaitSeconds=60")),
            wait(format!("/v1/projects/web/deployments/{ticket}/turn?maxWaitSeconds=60")),
            wait(format!("{of_web}/events?after={last}&maxWaitSeconds=60")),
        ]);
        let claim = json!({ "worker": "w", "claimId": "c", "projects": { "api": ["deploy"] }, "capacity": 1 });
        let claims = ask(&user, &other.server, Method::POST, "/v1/claims?maxWaitSeconds=60", claim);
        let stream = to_its_end(&user, format!("{}{of_web}/events", other.server.base));
        let path = format!("{of_web}/completion?maxWaitSeconds=60");
        let others = get(&bystander, &other.server, &path);
        let act = async {
            other.server.parked(6).await;
            assert_eq!(one.revoke("ci").await.status, 200);
            other.server.parked(1).await;
            // The other one's poll was left alone, and is answered by what it waits for.
            let done = under(&bystander, &one.server, &id, &secret, "finish", json!({ "status": "SUCCEEDED" })).await;
            assert_eq!(done.status, 200, "{}", done.text);
        };
        let all = timeout(LONG, async { tokio::join!(waits, claims, stream, others, act) }).await;
        let (waits, claims, stream, others, ()) = all.expect("all of them end");
        for answer in waits.iter().chain([&claims]) {
            assert_eq!(answer.refusal(), (401, "TOKEN_REVOKED"), "{}", answer.text);
        }
        assert_eq!(stream, 200);
        assert_eq!(others.body["status"], "SUCCEEDED");
        // Its place in line is left, because nobody asks for it any more.
        let left = format!("/v1/projects/web/deployments/{ticket}/completion?maxWaitSeconds=60");
        let left = timeout(LONG, get(&bystander, &one.server, &left)).await.expect("it leaves");
        assert_eq!(left.body["error"]["code"], "ABANDONED", "{}", left.text);
    }
}

#[tokio::test]
async fn whoever_runs_under_a_revoked_token_is_asked_to_stop_and_ends_its_work_under_its_lease_alone() {
    let store = postgres::shared().store().await;
    let one = Closed::start(&store, MORE);
    let other = one.beside(&store, MORE);
    let (_, user) = one.token(json!({ "name": "ci", "scopes": ALL })).await;
    let (id, secret) = claimed(&user, &other.server).await;
    let beat = under(&user, &other.server, &id, &secret, "heartbeat?maxWaitSeconds=60", json!({}));
    let act = async {
        other.server.parked(1).await;
        assert_eq!(one.revoke("ci").await.status, 200);
    };
    let (told, ()) = timeout(LONG, async { tokio::join!(beat, act) }).await.expect("it is told");
    assert_eq!(
        (told.status, &told.body["cancelRequested"], &told.body["tokenRevoked"]),
        (200, &json!(true), &json!(true))
    );
    assert_eq!(told.body["reason"], "token:ci was revoked");
    // Its lease, and nothing else.
    let again = under(&user, &one.server, &id, &secret, "heartbeat", json!({})).await;
    assert_eq!((again.status, &again.body["tokenRevoked"]), (200, &json!(true)), "{}", again.text);
    let foreign = under(&user, &one.server, &id, &"0".repeat(64), "finish", json!({ "status": "CANCELLED" })).await;
    assert_eq!(foreign.refusal(), (409, "LEASE_LOST"));
    let path = format!("/v1/projects/web/deployments/{id}");
    for (method, path) in [(Method::GET, path.clone()), (Method::POST, format!("{path}/cancel"))] {
        let url = format!("{}{path}", one.server.base);
        let refused = send(user.request(method, url).header("Singletrack-Lease", &secret)).await;
        assert_eq!(refused.refusal(), (401, "TOKEN_REVOKED"), "{path}");
    }
    let log = json!({ "first": 1, "reports": [{ "type": "log", "stream": "stdout", "lines": ["stopping"] }] });
    assert_eq!(under(&user, &one.server, &id, &secret, "reports", log).await.status, 200);
    let ended = under(&user, &one.server, &id, &secret, "finish", json!({ "status": "CANCELLED" })).await;
    assert_eq!((ended.status, &ended.body["status"]), (200, &json!("CANCELLED")), "{}", ended.text);
    let seen = get(&one.admin, &one.server, &path).await.body;
    assert!(seen["error"]["message"].as_str().unwrap().contains("token:ci was revoked"), "{seen}");
}

#[tokio::test]
async fn whoever_runs_under_a_token_that_expires_ends_its_work_well() {
    let one = Closed::start("sqlite:test.db", MORE);
    let (_, user) = one.token(json!({ "name": "ci", "scopes": ALL, "expiresInSeconds": 2 })).await;
    let (id, secret) = claimed(&user, &one.server).await;
    let stream = to_its_end(&user, format!("{}/v1/projects/web/deployments/{id}/events", one.server.base));
    assert_eq!(timeout(LONG, stream).await.expect("a stream ends with its token"), 200);
    assert_eq!(get(&user, &one.server, "/v1/projects").await.refusal(), (401, "TOKEN_EXPIRED"));
    let beat = under(&user, &one.server, &id, &secret, "heartbeat", json!({})).await;
    assert_eq!((beat.status, &beat.body["cancelRequested"]), (200, &json!(false)), "{}", beat.text);
    let ended = under(&user, &one.server, &id, &secret, "finish", json!({ "status": "SUCCEEDED" })).await;
    assert_eq!(ended.body["status"], "SUCCEEDED", "{}", ended.text);
}

fn start(server: &TestServer, token: &str, args: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap();
    let variables = [
        ("PATH", path.as_str()),
        ("SINGLETRACK_URL", &server.base),
        ("SINGLETRACK_PROJECT", "web"),
        ("SINGLETRACK_TOKEN", token),
    ];
    Command::start(&variables, args)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_token_is_revoked_stops_its_command_safely_and_ends_123() {
    for store in stores().await {
        let one = Closed::start(&store, "");
        let (token, _) = one.token(json!({ "name": "ci", "scopes": ["read", "submit", "cancel"] })).await;
        let script = "trap 'echo cleaned >&2; exit 1' TERM; echo started >&2; while :; do sleep 0.1; done";
        let told = one.server.path("told.json");
        let file = told.to_str().unwrap();
        let mut run = start(&one.server, &token, &["run", "--result-file", file, "--", "sh", "-c", script]);
        run.hears("started");
        assert_eq!(one.revoke("ci").await.status, 200);
        run.hears("cleaned");
        let ended = tokio::task::spawn_blocking(move || run.ended()).await.unwrap();
        assert_eq!(ended.code, Some(123), "{}", ended.stderr);
        assert!(ended.stderr.contains("the token of this run was revoked"), "{}", ended.stderr);
        let told = std::fs::read_to_string(&told).unwrap();
        assert!(told.contains("\"TOKEN_REVOKED\""), "{told}");
        let seen = one.ask(Method::GET, "/v1/projects/web", Value::Null).await.body;
        assert_eq!((&seen["holder"], &seen["lastOutcome"]["status"]), (&Value::Null, &json!("CANCELLED")), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_in_line_whose_token_is_revoked_ends_125_and_leaves_the_line() {
    let one = Closed::start("sqlite:test.db", MORE);
    let (_, bystander) = one.token(json!({ "name": "other", "scopes": ALL })).await;
    let (id, secret) = claimed(&bystander, &one.server).await;
    let (token, _) = one.token(json!({ "name": "ci", "scopes": ["read", "submit", "cancel"] })).await;
    let deploy = start(&one.server, &token, &["deploy", "--pipeline", "quick", "--json"]);
    one.server.parked(1).await;
    assert_eq!(one.revoke("ci").await.status, 200);
    let ended = tokio::task::spawn_blocking(move || deploy.ended()).await.unwrap();
    assert_eq!(ended.code, Some(125), "{}", ended.stderr);
    assert!(ended.stdout.contains("TOKEN_REVOKED"), "{} {}", ended.stdout, ended.stderr);
    let emptied = async {
        while get(&bystander, &one.server, "/v1/projects/web").await.body["lineLength"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, emptied).await.expect("its place in line is left");
    assert_eq!(
        under(&bystander, &one.server, &id, &secret, "finish", json!({ "status": "SUCCEEDED" })).await.status,
        200
    );
    assert_eq!(get(&client_with(&token), &one.server, "/v1/projects").await.refusal(), (401, "TOKEN_REVOKED"));
}
