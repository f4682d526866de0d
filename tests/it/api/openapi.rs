//! `openapi.yaml` and the code, held against each other in both directions. That every answer is as described, the
//! harness checks with each of them.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
};

use crate::harness::{
    TestServer, gated_config,
    openapi::{self, Answered},
    raw::read_to_end,
    send,
};

const NOBODY: &str = "0199ffff-0000-7000-8000-000000000000";
/// The name of an artifact, and a lease, that nobody has.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const LEASE: &str = "Singletrack-Lease";
const TOKEN_SHA256: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A project that agents run, and artifacts that are soon too large.
const AGENTS_AND_SMALL_ARTIFACTS: &str = "[artifacts]\nmax_bytes = \"1MiB\"\n\n[projects.agents]\nrun_by = \"agents\"\n\n\
    [[notify]]\nname = \"nobody\"\nkind = \"slack\"\nurl = \"http://127.0.0.1:1/\"\nallow_private = true\n\
    events = [\"resumed\"]\nattempts = 1";

#[test]
fn the_described_routes_are_those_of_the_code() {
    let described: BTreeSet<_> = openapi::described().into_iter().map(|(method, path, _)| (path, method)).collect();
    let served: BTreeSet<_> = singletrack::http::route_table()
        .into_iter()
        .flat_map(|(path, methods)| methods.iter().map(move |(method, _)| (path.to_owned(), (*method).to_owned())))
        .collect();
    assert_eq!(described, served);
}

#[tokio::test]
async fn the_description_is_served_as_it_stands() {
    let server = TestServer::gated();
    let served = server.get("/openapi.yaml").await;
    assert_eq!(served.header("content-type"), "application/yaml");
    assert_eq!(served.text, include_str!("../../../openapi.yaml"));
}

/// The answers of one server, noted.
struct Driven<'a> {
    server: &'a TestServer,
    seen: BTreeSet<Answered>,
}

impl Driven<'_> {
    /// Sends a request, and notes the answer.
    async fn see(&mut self, request: RequestBuilder) -> Value {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let (method, path) = (request.method().as_str().to_ascii_lowercase(), request.url().path().to_owned());
        let answer = send(RequestBuilder::from_parts(client, request)).await;
        let route = openapi::route(&path).unwrap_or_else(|| panic!("{path} is no route"));
        self.seen.insert((method, route.to_owned(), answer.status));
        answer.body
    }

    async fn get(&mut self, path: &str) -> Value {
        self.see(self.server.request(Method::GET, path)).await
    }

    async fn post(&mut self, path: &str, body: Value) -> Value {
        self.see(self.server.request(Method::POST, path).json(&body)).await
    }
}

/// Every route with its method; `id` stands for the deployment's.
fn routes(project: &str, id: &str) -> Vec<(Method, String)> {
    let routes = singletrack::http::route_table().into_iter();
    let routes = routes.flat_map(|(path, methods)| methods.iter().map(move |(method, _)| (*method, path)));
    let filled = |path: &str| {
        let path = path.replace("notifications/{id}", &format!("notifications/{}", &NOTHING[..32]));
        path.replace("{project}", project).replace("{id}", id).replace("{sha256}", NOTHING).replace("{token}", NOBODY)
    };
    routes.map(|(method, path)| (method.to_ascii_uppercase().parse().unwrap(), filled(path))).collect()
}

#[tokio::test]
async fn every_described_status_is_answered_by_the_real_server() {
    let server = TestServer::start(&gated_config(AGENTS_AND_SMALL_ARTIFACTS));
    server.close_gate();
    // It takes half a minute, so it begins first.
    let trickled = trickled_bodies(&server).await;
    let mut seen = BTreeSet::new();
    seen.extend(refusals(&server).await);
    seen.extend(successes(&server).await);
    seen.extend(without_tokens().await);
    seen.extend(without_a_store().await);
    seen.extend(trickled.join_all().await);
    let described = openapi::described();
    let never: Vec<_> = described.difference(&seen).collect();
    assert!(never.is_empty(), "described, and never answered: {never:#?}");
    let unknown: Vec<_> = seen.difference(&described).collect();
    assert!(unknown.is_empty(), "answered, and not described: {unknown:#?}");
}

/// What reads the configuration again.
const RELOAD: &str = "/v1/admin/reload";

/// A body that does not go on.
async fn trickled_bodies(server: &TestServer) -> JoinSet<Answered> {
    let mut waiting = JoinSet::new();
    for (method, path) in routes("web", NOBODY).into_iter().filter(takes_a_body) {
        let mut connection = server.connect().await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             {LEASE}: {NOTHING}\r\nContent-Length: 100\r\n\r\n{{",
            server.authority()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        waiting.spawn(async move {
            let answer = read_to_end(&mut connection).await;
            assert_eq!(answer.refusal(), (408, "REQUEST_TIMEOUT"), "{path}");
            openapi::check(method.as_str(), &path, answer.status, &answer.headers["content-type"], &answer.body);
            (method.as_str().to_ascii_lowercase(), openapi::route(&path).unwrap().to_owned(), answer.status)
        });
    }
    waiting
}

/// Whether the route reads a body. A heartbeat has none, nor have a reload and a retry.
fn takes_a_body((method, path): &(Method, String)) -> bool {
    matches!(*method, Method::POST | Method::PUT)
        && !path.ends_with("/heartbeat")
        && !path.ends_with("/retry")
        && path != RELOAD
}

/// A body that the route takes.
fn body_for(path: &str) -> Value {
    match path.rsplit('/').next().unwrap() {
        "deployments" => json!({}),
        "reports" => json!({ "first": 1, "reports": [] }),
        "finish" => json!({ "status": "SUCCEEDED" }),
        "claims" => claim_of("nobody-1", "agents"),
        "tokens" => json!({ "name": "nobody", "scopes": ["read"] }),
        "revoke" => json!({}),
        "order" => json!({ "order": null }),
        "redact" => json!({ "reason": "why", "value": "hunter2" }),
        _ => json!({ "reason": "why" }),
    }
}

fn claim_of(claim: &str, project: &str) -> Value {
    json!({ "worker": "here", "claimId": claim, "projects": { project: ["deploy"] } })
}

/// What every route refuses in the same way.
async fn refusals(server: &TestServer) -> BTreeSet<Answered> {
    let mut driven = Driven { server, seen: BTreeSet::new() };
    for (method, path) in routes("web", NOBODY) {
        let request = |path: &str| server.request(method.clone(), path).header(LEASE, NOTHING);
        driven.see(request(&format!("{path}?nope=1"))).await;
        driven.see(request(&path).header("Origin", "https://evil.example")).await;
        driven.see(request(&format!("{path}?{}", "a".repeat(9 << 10)))).await;
        driven.see(request(&path).header("X-Large", "a".repeat(17 << 10))).await;
        if takes_a_body(&(method.clone(), path.clone())) {
            driven.see(request(&path).body(vec![b' '; (8 << 20) + 1])).await;
            driven.see(request(&path).header("Content-Encoding", "br").body("{}")).await;
        }
    }
    for (method, path) in routes("other", NOBODY).into_iter().filter(|(_, path)| path.contains("/other")) {
        driven.see(server.request(method, &path).header(LEASE, NOTHING).json(&body_for(&path))).await;
    }
    // Somebody else's, or nobody's.
    driven.post("/v1/claims", claim_of("foreign-1", "unknown")).await;
    driven.post("/v1/tokens/nobody/revoke", json!({})).await;
    driven.see(server.request(Method::POST, &format!("/v1/notifications/{}/retry", &NOTHING[..32]))).await;
    driven.seen
}

/// A notification that was given up, and is tried anew.
async fn given_up(driven: &mut Driven<'_>) {
    let id = loop {
        let dead = driven.get("/v1/notifications?state=dead").await;
        if let Some(id) = dead["notifications"][0]["id"].as_str() {
            break id.to_owned();
        }
    };
    driven.see(driven.server.request(Method::POST, &format!("/v1/notifications/{id}/retry"))).await;
}

/// A deployment that its client runs, to its end.
async fn leased(driven: &mut Driven<'_>) {
    let wish = json!({ "executor": "client", "claim": true });
    let taken = driven.post("/v1/projects/alone/deployments", wish).await;
    let secret = taken["lease"]["secret"].as_str().unwrap().to_owned();
    let one = format!("/v1/projects/alone/deployments/{}", taken["id"].as_str().unwrap());
    for secret in [NOTHING, &secret] {
        for below in ["heartbeat", "reports", "finish"] {
            let path = format!("{one}/{below}");
            driven.see(driven.server.request(Method::POST, &path).header(LEASE, secret).json(&body_for(&path))).await;
        }
    }
}

/// An agent's work, and an agent's wait.
async fn claimed(driven: &mut Driven<'_>) {
    driven.post("/v1/claims?maxWaitSeconds=0", claim_of("first", "agents")).await;
    driven.post("/v1/projects/agents/deployments", json!({})).await;
    driven.post("/v1/claims?maxWaitSeconds=0", claim_of("second", "agents")).await;
}

/// An artifact on its way up and down.
async fn artifacts(driven: &mut Driven<'_>) {
    let bytes = "not an archive, but it is not looked at here";
    let name = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes));
    let path = format!("/v1/artifacts/{name}");
    let server = driven.server;
    let put = |range: &str, body: &'static str| {
        server.request(Method::PUT, &path).header("Content-Range", range.to_owned()).body(body)
    };
    driven.see(put("bytes 7-43/44", &bytes[7..])).await;
    driven.see(put("bytes 0-43/44", "")).await;
    driven.see(server.request(Method::PUT, &path).body("something else")).await;
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::PUT, Method::GET, Method::HEAD] {
        let request = server.request(method.clone(), &path);
        driven.see(if method == Method::PUT { request.body(bytes) } else { request }).await;
    }
}

/// What goes well, and what is refused for what it says.
async fn successes(server: &TestServer) -> BTreeSet<Answered> {
    let deployments = "/v1/projects/web/deployments";
    let mut driven = Driven { server, seen: BTreeSet::new() };
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.yaml",
        "/v1/audit",
        "/v1/projects",
        "/v1/projects/web",
        deployments,
    ] {
        driven.get(path).await;
    }
    driven.post(&format!("{deployments}?dryRun=true"), json!({})).await;
    let keyed = |body: Value| server.request(Method::POST, deployments).header("Idempotency-Key", "key").json(&body);
    let id = driven.see(keyed(json!({}))).await["id"].as_str().unwrap().to_owned();
    driven.see(keyed(json!({ "ref": "other" }))).await;
    driven.post(deployments, json!({})).await;
    let one = format!("{deployments}/{id}");
    let waiting = server.ticket("ticket").await;
    driven.get(&one).await;
    driven.get(&format!("{one}/completion?maxWaitSeconds=0")).await;
    driven.get(&format!("{deployments}/{waiting}/turn?maxWaitSeconds=0")).await;
    driven.get(&format!("{one}/turn?maxWaitSeconds=0")).await;
    driven.get(&format!("{one}/events?maxWaitSeconds=0")).await;
    driven.see(server.request(Method::GET, &format!("{one}/events")).header("Accept", "text/html")).await;
    driven.post("/v1/projects/web/release", json!({ "reason": "why", "deploymentId": NOBODY })).await;
    driven.post(&format!("{one}/cancel"), json!({ "supersededBy": id })).await;
    driven.post(&format!("{one}/cancel"), json!({})).await;
    driven.post(&format!("{one}/cancel"), json!({})).await;
    driven.post(&format!("{one}/redact"), json!({ "reason": "why", "value": "hunter2" })).await;
    driven.get(&format!("{one}/completion")).await;
    let last = driven.get(&format!("{one}/events")).await["last"].clone();
    let resumed = server.request(Method::GET, &format!("{one}/events?after={last}"));
    driven.see(resumed.header("Accept", "text/event-stream")).await;
    driven.post("/v1/projects/web/release", json!({ "reason": "why" })).await;
    driven.post("/v1/projects/web/release", json!({ "reason": "why", "evenIfAlive": true })).await;
    let rollback = "/v1/projects/web/rollback";
    driven.post(rollback, json!({})).await;
    let quick = driven.post("/v1/projects/web/deployments", json!({ "pipeline": "quick" })).await;
    server.finished(quick["id"].as_str().unwrap()).await;
    let quick = driven.post("/v1/projects/web/deployments", json!({ "pipeline": "quick" })).await;
    server.finished(quick["id"].as_str().unwrap()).await;
    let keyed = |body| server.request(Method::POST, rollback).header("Idempotency-Key", "back").json(&body);
    let back = driven.see(keyed(json!({ "leaveOpen": true }))).await;
    driven.see(keyed(json!({ "reason": "another" }))).await;
    server.finished(back["id"].as_str().unwrap()).await;
    for path in ["/v1/events", "/v1/projects/web/events"] {
        driven.get(path).await;
        driven.see(server.request(Method::GET, path).header("Accept", "text/html")).await;
    }
    driven.post("/v1/projects/web/pause", json!({ "reason": "why", "until": null })).await;
    driven.post("/v1/projects/web/resume", json!({})).await;
    driven.see(server.request(Method::PUT, "/v1/projects/web/order").json(&json!({ "order": 3 }))).await;
    given_up(&mut driven).await;
    driven.see(server.request(Method::POST, RELOAD)).await;
    server.configure("nonsense = 1");
    driven.see(server.request(Method::POST, RELOAD)).await;
    for _ in 0..2 {
        driven.post("/v1/tokens", json!({ "name": "one", "scopes": ["read"] })).await;
    }
    driven.get("/v1/tokens").await;
    driven.post("/v1/tokens/one/revoke", json!({})).await;
    leased(&mut driven).await;
    driven.see(server.request(Method::DELETE, "/v1/projects/alone?reason=why")).await;
    driven.post("/v1/projects/busy/deployments", json!({ "executor": "client", "claim": true })).await;
    driven.see(server.request(Method::DELETE, "/v1/projects/busy")).await;
    claimed(&mut driven).await;
    artifacts(&mut driven).await;
    driven.seen
}

async fn without_tokens() -> BTreeSet<Answered> {
    let token = format!("[[tokens]]\nname = \"ci\"\nscopes = [\"read\"]\nsha256 = \"{TOKEN_SHA256}\"");
    let mut server = TestServer::start(&gated_config(""));
    let admin = server.post("/v1/tokens", json!({ "name": "only", "scopes": ["admin"] })).await.body["token"].clone();
    assert!(server.terminate().success());
    server.configure(&gated_config(&token));
    server.boot();
    let mut driven = Driven { server: &server, seen: BTreeSet::new() };
    let of_api = || routes("web", NOBODY).into_iter().filter(|(_, path)| path.starts_with("/v1"));
    for (method, path) in of_api() {
        driven.see(server.request(method, &path)).await;
    }
    let last = server.request(Method::POST, "/v1/tokens/only/revoke").bearer_auth(admin.as_str().unwrap());
    assert_eq!(driven.see(last).await["errorCode"], "TOKEN_CONFLICT");
    let wrong = |method, path: &str| server.request(method, path).bearer_auth("wrong");
    while send(wrong(Method::GET, "/v1/projects")).await.status != 429 {}
    for (method, path) in of_api() {
        driven.see(wrong(method, &path)).await;
    }
    driven.seen
}

/// Somebody tampers with the store while it is in use: no answer may pretend to know anything.
async fn without_a_store() -> BTreeSet<Answered> {
    let server = TestServer::start(&gated_config(AGENTS_AND_SMALL_ARTIFACTS));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    let tables = rusqlite::Connection::open(server.path("test.db")).unwrap();
    tables
        .execute_batch(
            "PRAGMA legacy_alter_table = 1; ALTER TABLE projects RENAME TO p; ALTER TABLE deployments RENAME TO d; ALTER TABLE tokens RENAME TO t; ALTER TABLE notifications RENAME TO n;",
        )
        .unwrap();
    let kept = server.path("singletrack-work/artifacts");
    // It is made with the first upload.
    std::fs::write(&kept, "no directory").unwrap();
    let mut driven = Driven { server: &server, seen: BTreeSet::new() };
    // A reload needs no store.
    for (method, path) in routes("web", &id).into_iter().filter(|(_, path)| path != RELOAD) {
        let request = server.request(method.clone(), &path).header(LEASE, NOTHING);
        let has_body = matches!(method, Method::POST | Method::PUT);
        let mut problem = driven.see(if has_body { request.json(&body_for(&path)) } else { request }).await;
        if method == Method::HEAD {
            continue;
        }
        // What was found right holds for a moment.
        while path == "/readyz" && problem["status"] != "failing" {
            problem = driven.get(&path).await;
        }
        if path.starts_with("/v1") {
            assert_eq!((&problem["errorCode"], &problem["retryable"]), (&json!("UNAVAILABLE"), &json!(true)), "{path}");
        }
    }
    tables
        .execute_batch(
            "PRAGMA legacy_alter_table = 1; ALTER TABLE p RENAME TO projects; ALTER TABLE d RENAME TO deployments; ALTER TABLE t RENAME TO tokens;",
        )
        .unwrap();
    assert_eq!(server.deployment(&id, "").await.body["status"], "SUCCEEDED", "it goes on when the trouble is over");
    assert_eq!(server.deployments().await.len(), 1, "and nothing was taken in between");
    let next = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
    driven.seen
}

#[tokio::test]
async fn heads_that_trickle_are_given_up_and_mute_streams_are_kept_alive() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let mut trickling = server.connect().await;
    let begun = std::time::Instant::now();
    let trickled = async {
        trickling.write_all(b"GET /v1/projects HTTP/1.1\r\nHost: ").await.unwrap();
        let mut answer = Vec::new();
        // It is closed, in order or by a reset.
        let _ = trickling.read_to_end(&mut answer).await;
        let waited = begun.elapsed().as_secs();
        assert!((9..20).contains(&waited), "closed after {waited} s");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
    };
    let kept = async {
        let mut stream = server.stream(&id, None).await;
        loop {
            let frame = stream.next().await.unwrap();
            if let Some(comment) = frame.comment {
                assert_eq!(comment, "keep-alive");
                return begun.elapsed().as_secs();
            }
        }
    };
    let ((), waited) = tokio::join!(trickled, kept);
    assert!((14..25).contains(&waited), "after {waited} s");
    server.open_gate();
    server.finished(&id).await;
}
