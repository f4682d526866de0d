//! Forgetting a project: what goes, what stays, and what comes again.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, SINGLETRACK, TestServer, gated_config, postgres, send};

const WEB: &str = "/v1/projects/web";

async fn forget(server: &TestServer, path: &str) -> Answer {
    send(server.request(Method::DELETE, path)).await
}

fn run(server: &TestServer, args: &[&str]) -> Output {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("USER", "alice").env("SINGLETRACK_URL", &server.base).args(args).stdin(Stdio::null());
    command.output().unwrap()
}

/// Takes the slot of a project that the configuration does not name, and ends; the id and the fencing token.
async fn client_run(server: &TestServer, project: &str) -> (String, u64) {
    let path = format!("/v1/projects/{project}/deployments");
    let taken = server.post(&path, json!({ "executor": "client", "claim": true, "order": 7 })).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    let token = taken.body["lease"]["fencingToken"].as_u64().unwrap();
    let secret = taken.body["lease"]["secret"].as_str().unwrap();
    let finish = server.request(Method::POST, &format!("{path}/{}/finish", taken.id()));
    let ended = send(finish.header("Singletrack-Lease", secret).json(&json!({ "status": "SUCCEEDED" }))).await;
    assert_eq!(ended.status, 200, "{}", ended.text);
    (taken.id(), token)
}

async fn names(server: &TestServer) -> Vec<String> {
    let page = server.get("/v1/projects").await.body;
    page["projects"].as_array().unwrap().iter().map(|it| it["project"].as_str().unwrap().to_owned()).collect()
}

async fn a_typing_mistake_is_forgotten_whole_and_its_tokens_never_come_again(mut server: TestServer) {
    let (kept, _) = client_run(&server, "api").await;
    let mut token = 0;
    for _ in 0..3 {
        token = client_run(&server, "wbe").await.1;
    }
    let (gone, _) = client_run(&server, "wbe").await;
    let keyed = server.request(Method::POST, "/v1/projects/wbe/deployments").header("Idempotency-Key", "k");
    let keyed = send(keyed.json(&json!({ "executor": "client", "claim": true, "order": 9 }))).await;
    let in_use = forget(&server, "/v1/projects/wbe").await;
    assert_eq!(in_use.refusal(), (409, "PROJECT_IN_USE"), "{}", in_use.text);
    assert!(
        in_use.text.contains("wbe is in use: wbe#5") && in_use.text.contains("cancel what is there"),
        "{}",
        in_use.text
    );
    let secret = keyed.body["lease"]["secret"].as_str().unwrap();
    let finish = server.request(Method::POST, &format!("/v1/projects/wbe/deployments/{}/finish", keyed.id()));
    send(finish.header("Singletrack-Lease", secret).json(&json!({ "status": "SUCCEEDED" }))).await;
    token = token.max(keyed.body["lease"]["fencingToken"].as_u64().unwrap());
    server.post("/v1/projects/wbe/pause", json!({ "reason": "not now" })).await;

    let done = forget(&server, "/v1/projects/wbe?reason=a+typing+mistake").await;
    let told = json!({ "project": "wbe", "forgotten": true, "deployments": 5, "configured": false });
    assert_eq!((done.status, &done.body), (200, &told), "{}", done.text);
    for restart in [false, true] {
        if restart {
            server.kill();
            server.boot();
        }
        assert_eq!(names(&server).await, ["api", "web"], "the others stay");
        for path in ["", "/deployments/1", &format!("/deployments/{gone}"), &format!("/deployments/{gone}/events")] {
            let path = format!("/v1/projects/wbe{path}");
            assert_eq!(server.get(&path).await.refusal(), (404, "NOT_FOUND"), "{path}");
        }
        let list = server.get("/v1/projects/wbe/deployments").await;
        assert!(list.status == 404 || list.body["deployments"] == json!([]), "{}", list.text);
        assert_eq!(forget(&server, "/v1/projects/wbe").await.refusal(), (404, "NOT_FOUND"));
    }
    assert_eq!(server.get(&format!("/v1/projects/api/deployments/{kept}")).await.status, 200);
    // The log of what was done stays, and says who forgot it.
    let audit = server.get("/v1/audit?project=wbe").await.body["entries"].clone();
    let acts: Vec<_> = audit.as_array().unwrap().iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!((acts[0], acts.iter().filter(|act| **act == "submit").count()), ("forget", 5), "{audit}");
    assert_eq!((&audit[0]["detail"], &audit[0]["caller"]), (&json!("a typing mistake"), &json!("local")), "{audit}");

    // The name comes again: it begins anew, and its tokens go on.
    let again = server.request(Method::POST, "/v1/projects/wbe/deployments").header("Idempotency-Key", "k");
    let again = send(again.json(&json!({ "executor": "client", "claim": true, "order": 1 }))).await;
    assert_eq!((again.status, &again.body["number"]), (202, &json!(1)), "no mark, no key, no pause: {}", again.text);
    assert_ne!(again.id(), keyed.id());
    let next = again.body["lease"]["fencingToken"].as_u64().unwrap();
    assert!(next > token, "{next} after {token}");
}

#[tokio::test]
async fn a_typing_mistake_is_forgotten_whole_and_its_tokens_never_come_again_on_sqlite() {
    a_typing_mistake_is_forgotten_whole_and_its_tokens_never_come_again(TestServer::gated()).await;
}

#[tokio::test]
async fn a_typing_mistake_is_forgotten_whole_and_its_tokens_never_come_again_on_postgresql() {
    let store = postgres::shared().store().await;
    let server = TestServer::start_on(&store, &gated_config(""));
    a_typing_mistake_is_forgotten_whole_and_its_tokens_never_come_again(server).await;
}

#[tokio::test]
async fn a_typing_mistake_is_forgotten_in_memory_too() {
    let server = TestServer::start_on("memory:", &gated_config(""));
    let (_, token) = client_run(&server, "wbe").await;
    assert_eq!(forget(&server, "/v1/projects/wbe").await.body["deployments"], 1);
    assert_eq!(names(&server).await, ["web"]);
    assert!(client_run(&server, "wbe").await.1 > token);
}

#[tokio::test]
async fn a_configured_project_comes_back_empty_and_one_with_waiters_stays_as_it_is() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let waits = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let refused = forget(&server, WEB).await;
    assert_eq!(refused.refusal(), (409, "PROJECT_IN_USE"), "{}", refused.text);
    assert!(refused.text.contains("web is in use: web#1 has its slot and 1 wait in line"), "{}", refused.text);
    // Paused, with a free slot and somebody who waits.
    server.post("/v1/projects/web/pause", json!({ "reason": "not now" })).await;
    server.open_gate();
    server.finished(&holder).await;
    assert_eq!(forget(&server, WEB).await.refusal(), (409, "PROJECT_IN_USE"));
    assert_eq!(server.deployment(&waits, "").await.body["status"], "PENDING");
    server.cancel(&waits, json!({})).await;
    let done = forget(&server, WEB).await;
    let told = json!({ "project": "web", "forgotten": true, "deployments": 2, "configured": true });
    assert_eq!(done.body, told, "{}", done.text);
    let project = server.project().await;
    assert_eq!(
        (&project["hold"], &project["lastOutcome"], &project["current"]),
        (&json!(null), &json!(null), &json!(null))
    );
    assert_eq!(server.deployments().await, Vec::<Value>::new());
    assert_eq!(forget(&server, WEB).await.body["forgotten"], false);
    let anew = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&anew).await["number"], 1);
}

async fn of_submits_and_forgets_at_once_nothing_is_half_done(servers: &[TestServer]) {
    let mut token = 0;
    for round in 0..12 {
        let (first, last) = (&servers[0], &servers[servers.len() - 1]);
        let before = client_run(first, "wbe").await.1;
        assert!(before > token, "{before} after {token}");
        token = before;
        let (path, wish) = ("/v1/projects/wbe/deployments", json!({ "executor": "client", "claim": true }));
        let (taken, one, other) =
            tokio::join!(last.post(path, wish), forget(first, "/v1/projects/wbe"), forget(last, "/v1/projects/wbe"));
        assert_eq!(taken.status, 202, "{}", taken.text);
        let forgotten = [&one, &other].iter().filter(|it| it.status == 200).count();
        for answer in [&one, &other] {
            assert!([200, 404, 409].contains(&answer.status), "{}", answer.text);
        }
        assert!(forgotten <= 1, "only one of two forgets it: {} {}", one.text, other.text);
        // It holds its slot: whole, in the former project or in the new one.
        let view = first.get("/v1/projects/wbe").await.body;
        assert_eq!(view["holder"]["id"], json!(taken.id()), "round {round}: {view}");
        let number = taken.body["number"].as_u64().unwrap();
        assert_eq!(last.get(&format!("/v1/projects/wbe/deployments/{number}")).await.body["id"], json!(taken.id()));
        let fence = taken.body["lease"]["fencingToken"].as_u64().unwrap();
        assert!(fence > token, "{fence} after {token}");
        token = fence;
        let released = first.post("/v1/projects/wbe/release", json!({ "reason": "over", "evenIfAlive": true })).await;
        assert_eq!(released.status, 200, "{}", released.text);
    }
}

#[tokio::test]
async fn of_submits_and_forgets_at_once_nothing_is_half_done_on_sqlite() {
    of_submits_and_forgets_at_once_nothing_is_half_done(&[TestServer::gated()]).await;
}

#[tokio::test]
async fn of_submits_and_forgets_at_once_nothing_is_half_done_at_two_servers() {
    let store = postgres::shared().store().await;
    let config = gated_config("");
    let servers = [TestServer::start_on(&store, &config), TestServer::start_on(&store, &config)];
    of_submits_and_forgets_at_once_nothing_is_half_done(&servers).await;
}

#[tokio::test]
async fn whoever_watches_at_another_server_learns_that_a_project_is_gone() {
    let store = postgres::shared().store().await;
    // What is told is told by a hint, and not by the slow look.
    let config = gated_config("[limits]\nfallback_poll = \"40s\"");
    let (first, second) = (TestServer::start_on(&store, &config), TestServer::start_on(&store, &config));
    client_run(&first, "api").await;
    client_run(&first, "wbe").await;
    let mut last = String::new();
    let mut shown = Vec::new();
    while !shown.iter().any(|name| name == "wbe") {
        let page = second.get(&format!("/v1/events?maxWaitSeconds=20{last}")).await.body;
        shown.extend(page["projects"].as_array().unwrap().iter().map(|it| it["project"].clone()));
        last = format!("&after={}", page["last"].as_str().unwrap());
    }
    assert_eq!(forget(&first, "/v1/projects/wbe").await.status, 200);
    let gone = loop {
        let page = second.get(&format!("/v1/events?maxWaitSeconds=20{last}")).await.body;
        last = format!("&after={}", page["last"].as_str().unwrap());
        if page["gone"] != json!([]) {
            break page;
        }
    };
    assert_eq!(gone["gone"], json!(["wbe"]), "{gone}");
    assert_eq!(names(&second).await, ["api", "web"]);
}

#[tokio::test]
async fn a_copy_into_another_engine_brings_nothing_forgotten_back() {
    let mut server = TestServer::gated();
    let (_, token) = client_run(&server, "wbe").await;
    client_run(&server, "api").await;
    assert_eq!(forget(&server, "/v1/projects/wbe").await.status, 200);
    assert!(server.terminate().success());
    let cluster = postgres::shared();
    let database = cluster.empty_database().await;
    let store = cluster.url(&database);
    let copied = server.tool(&["store", "copy", "--from", "sqlite:test.db", "--to", &store]).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let new = TestServer::start_on(&store, &gated_config(""));
    assert_eq!(names(&new).await, ["api", "web"]);
    assert!(client_run(&new, "wbe").await.1 > token);
}

#[tokio::test]
async fn the_command_asks_at_a_terminal_and_else_wants_to_be_told() {
    let server = TestServer::gated();
    client_run(&server, "wbe").await;
    let unasked = run(&server, &["forget", "wbe"]);
    let why = String::from_utf8(unasked.stderr).unwrap();
    assert!(unasked.status.code() == Some(2) && why.contains("pass --yes"), "{why}");
    assert_eq!(names(&server).await, ["wbe", "web"]);
    // `script` gives it a terminal.
    for (typed, code) in [("web\n", 2), ("wbe\n", 0)] {
        let line = format!("{SINGLETRACK} forget wbe --server {}", server.base);
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
        let ended = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(told.contains("Type its name to go on:"), "{told}");
        assert_eq!(ended.status.code(), Some(code), "{told}");
    }
    assert_eq!(names(&server).await, ["web"]);
    let gone = run(&server, &["forget", "wbe", "--yes"]);
    let why = String::from_utf8(gone.stderr).unwrap();
    assert!(gone.status.code() == Some(2) && why.contains("no such project wbe"), "{why}");
    let nothing = run(&server, &["forget", "web", "--yes", "--reason", "a trial"]);
    assert!(String::from_utf8(nothing.stdout).unwrap().starts_with("there is nothing of web to forget"));
    let invalid = forget(&server, "/v1/projects/web?reason=").await;
    assert_eq!(invalid.refusal(), (400, "INVALID_PARAMETER"), "{}", invalid.text);
}

/// How many deployments, and how many rows of projects without a name, there are in the database.
type Left = (i64, i64);

/// The history goes in the background, also where the server is killed in between; `left` looks at what is there.
async fn the_history_goes_step_by_step_also_over_a_kill(
    mut server: TestServer,
    left: impl AsyncFn(&TestServer) -> Left,
) {
    for _ in 0..40 {
        client_run(&server, "wbe").await;
    }
    client_run(&server, "api").await;
    assert_eq!(forget(&server, "/v1/projects/wbe").await.body["deployments"], 40);
    server.kill();
    server.boot();
    while left(&server).await != (1, 0) {
        assert_eq!(names(&server).await, ["api", "web"]);
    }
    let (_, token) = client_run(&server, "wbe").await;
    assert!(token > 40, "{token}");
}

const OFTEN: &str = "[retention]\ninterval = \"1s\"";

#[tokio::test]
async fn the_history_goes_step_by_step_also_over_a_kill_on_sqlite() {
    let server = TestServer::gated_with(OFTEN);
    let left = async |server: &TestServer| {
        let db = rusqlite::Connection::open(server.path("test.db")).unwrap();
        let count = |sql| db.query_row(sql, [], |row| row.get(0)).unwrap();
        (count("SELECT count(*) FROM deployments"), count("SELECT count(*) FROM projects WHERE name LIKE '/%'"))
    };
    the_history_goes_step_by_step_also_over_a_kill(server, left).await;
}

#[tokio::test]
async fn the_history_goes_step_by_step_also_over_a_kill_on_postgresql() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let server = TestServer::start_on(&cluster.url(&database), &gated_config(OFTEN));
    let client = cluster.client(&database).await;
    let left = async |_: &TestServer| {
        let counts = "SELECT (SELECT count(*) FROM singletrack.deployments), \
            (SELECT count(*) FROM singletrack.projects WHERE name LIKE '/%')";
        let row = client.query_one(counts, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    the_history_goes_step_by_step_also_over_a_kill(server, left).await;
}
