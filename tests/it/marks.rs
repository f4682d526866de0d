//! The mark of a project: the build number below which no deployment starts.

use std::process::{Command, Output};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, SINGLETRACK, TestServer, gated_config, postgres, send};

const ORDER: &str = "/v1/projects/web/order";

async fn put(server: &TestServer, body: Value) -> Answer {
    send(server.request(Method::PUT, ORDER).json(&body)).await
}

/// Sets the mark of `web`; the answer.
async fn mark(server: &TestServer, body: Value) -> Value {
    let answer = put(server, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

fn build(order: u64) -> Value {
    json!({ "pipeline": "quick", "order": order, "onConflict": "queue" })
}

/// Deploys a build, to its end.
async fn deploy(server: &TestServer, order: u64) -> Value {
    let id = server.accepted(build(order)).await;
    let ended = server.finished(&id).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    ended
}

async fn refused(server: &TestServer, order: u64) -> Answer {
    let answer = server.submit(build(order)).await;
    assert_eq!(answer.refusal(), (409, "OUTDATED"), "{}", answer.text);
    answer
}

fn run(server: &TestServer, args: &[&str]) -> Output {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("USER", "alice").env("SINGLETRACK_URL", &server.base).args(args);
    command.output().unwrap()
}

/// What a command prints that goes well.
fn prints(server: &TestServer, args: &[&str]) -> String {
    let output = run(server, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// How a command is refused.
fn fails(server: &TestServer, args: &[&str]) -> (Option<i32>, String) {
    let output = run(server, args);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

async fn a_mark_that_was_set_holds_over_a_kill_until_a_build_as_new_starts(mut server: TestServer) {
    let first = deploy(&server, 10).await;
    let shown = server.project().await["mark"].clone();
    assert_eq!((&shown["order"], &shown["startedBy"]), (&json!(10), &first["id"]), "{shown}");
    assert_eq!(shown["startedByDeployment"]["number"], 1, "{shown}");

    let set = mark(&server, json!({ "order": 20, "reason": "19 loses data", "actor": "anna" })).await;
    assert_eq!(
        (&set["changed"], &set["before"]["order"], &set["mark"]["order"]),
        (&json!(true), &json!(10), &json!(20))
    );
    assert_eq!((&set["mark"]["setBy"]["actor"], &set["mark"]["startedBy"]), (&json!("anna"), &json!(null)), "{set}");
    let lower = refused(&server, 19).await;
    let message = lower.body["message"].as_str().unwrap();
    assert!(message.starts_with("build 19 is older than build 20, the mark that anna set: 19 loses data"), "{message}");
    assert_eq!((&lower.body["mark"]["order"], &lower.body["mark"]["reason"]), (&json!(20), &json!("19 loses data")));
    let plan =
        server.post("/v1/projects/web/deployments?dryRun=true", json!({ "pipeline": "quick", "order": 19 })).await;
    assert_eq!(plan.body["refusal"]["errorCode"], "OUTDATED", "{}", plan.text);

    server.kill();
    server.boot();
    assert_eq!(server.post("/v1/admin/reload", json!({})).await.status, 200);
    assert_eq!(server.project().await["mark"], set["mark"], "nothing but a start or a person moves it");
    refused(&server, 19).await;
    // Neither a declared rollback nor a deployment without a number is judged by it, and neither moves it.
    for body in [json!({ "pipeline": "quick", "order": 3, "rollback": true }), json!({ "pipeline": "quick" })] {
        let id = server.accepted(body).await;
        server.finished(&id).await;
    }
    assert_eq!(server.project().await["mark"], set["mark"]);
    let again = mark(&server, json!({ "order": 20 })).await;
    assert_eq!((&again["changed"], &again["mark"]), (&json!(false), &set["mark"]), "{again}");

    // Its own number is let in, and is the mark from then on.
    let twentieth = deploy(&server, 20).await;
    assert_eq!(server.project().await["mark"]["startedBy"], twentieth["id"]);
    deploy(&server, 21).await;
    refused(&server, 20).await;

    // Lower: a CI counts anew.
    assert_eq!(mark(&server, json!({ "order": 5 })).await["before"]["order"], 21);
    refused(&server, 4).await;
    deploy(&server, 7).await;
    assert_eq!(server.project().await["mark"]["order"], 7);
    let cleared = mark(&server, json!({ "order": null, "reason": "a new CI" })).await;
    assert_eq!((&cleared["changed"], &cleared["mark"]), (&json!(true), &json!(null)), "{cleared}");
    assert_eq!(mark(&server, json!({ "order": null })).await["changed"], false);
    deploy(&server, 1).await;
    assert_eq!(server.project().await["mark"]["order"], 1);

    let audit = server.get("/v1/audit?project=web&action=order").await;
    let told: Vec<_> = audit.body["entries"].as_array().unwrap().iter().map(|line| line["detail"].clone()).collect();
    assert_eq!(told, ["from 7 to none: a new CI", "from 21 to 5", "from 10 to 20: 19 loses data"], "{}", audit.text);
    let who = audit.body["entries"].as_array().unwrap().iter().map(|line| &line["caller"]);
    assert!(who.clone().all(|caller| *caller == json!("local")), "{}", audit.text);
}

#[tokio::test]
async fn a_mark_that_was_set_holds_over_a_kill_until_a_build_as_new_starts_on_sqlite() {
    a_mark_that_was_set_holds_over_a_kill_until_a_build_as_new_starts(TestServer::gated()).await;
}

#[tokio::test]
async fn a_mark_that_was_set_holds_over_a_kill_until_a_build_as_new_starts_on_postgresql() {
    let store = postgres::shared().store().await;
    a_mark_that_was_set_holds_over_a_kill_until_a_build_as_new_starts(TestServer::start_on(&store, &gated_config("")))
        .await;
}

#[tokio::test]
async fn whoever_waits_below_a_mark_is_told_at_once_and_ends_at_its_turn() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let queued = server.accepted(build(5)).await;
    let wish = json!({ "pipeline": "quick", "order": 6, "onConflict": "wait" });
    let ticket = server.submit_keyed("mine", wish.clone()).await.body["ticket"].as_str().unwrap().to_owned();
    let newer = server.accepted(build(30)).await;
    let set = mark(&server, json!({ "order": 20, "reason": "5 is broken", "actor": "anna" })).await;
    assert_eq!((&set["outdatedInLine"], &set["lineLength"]), (&json!(2), &json!(3)), "{set}");
    let told = server.deployment(&queued, "").await.body;
    assert_eq!((&told["status"], &told["expectedStart"]), (&json!("PENDING"), &json!(null)), "{told}");
    let unknown = "it will not start: build 5 is older than build 20, the mark that anna set: 5 is broken";
    assert_eq!(told["startUnknown"], unknown);
    let why = prints(&server, &["why", "--project", "web"]);
    assert!(why.contains(unknown) && why.contains("mark: builds below 20 are refused: set by anna at "), "{why}");

    server.open_gate();
    assert_eq!(server.finished(&holder).await["status"], "SUCCEEDED", "what runs goes on");
    let ended = server.finished(&queued).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("CANCELLED"), &json!("CANCELLED")), "{ended}");
    let why = "cancelled: build 5 is older than build 20, the mark that anna set: 5 is broken";
    assert_eq!((&ended["error"]["message"], &ended["cancelledBy"]["actor"]), (&json!(why), &json!("anna")), "{ended}");
    assert_eq!(server.deployment(&ticket, "/turn?maxWaitSeconds=60").await.status, 200, "its turn comes");
    let refused = server.submit_keyed("mine", wish).await;
    assert_eq!(refused.refusal(), (409, "OUTDATED"), "{}", refused.text);
    assert_eq!(server.finished(&newer).await["status"], "SUCCEEDED", "the others are served");
    assert_eq!(server.project().await["mark"]["startedBy"], json!(newer));
}

#[tokio::test]
async fn whoever_waits_below_a_mark_that_falls_in_time_is_served() {
    let server = TestServer::gated();
    server.at_the_gate().await;
    let waits = server.accepted(build(5)).await;
    assert_eq!(mark(&server, json!({ "order": 20 })).await["outdatedInLine"], 1);
    let lowered = mark(&server, json!({ "order": 5 })).await;
    assert_eq!((&lowered["outdatedInLine"], &lowered["before"]["order"]), (&json!(0), &json!(20)), "{lowered}");
    server.open_gate();
    assert_eq!(server.finished(&waits).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_mark_holds_at_every_server_and_two_admins_at_once_leave_one_mark_and_two_lines() {
    let store = postgres::shared().store().await;
    let config = gated_config("");
    let (mut first, second) = (TestServer::start_on(&store, &config), TestServer::start_on(&store, &config));
    deploy(&second, 3).await;
    let wishes = (10..20).map(|order| put(if order % 2 == 0 { &first } else { &second }, json!({ "order": order })));
    for answer in futures_util::future::join_all(wishes).await {
        assert_eq!((answer.status, &answer.body["changed"]), (200, &json!(true)), "{}", answer.text);
    }
    let at_second = second.project().await["mark"].clone();
    assert_eq!(first.project().await["mark"], at_second);
    let audit = second.get("/v1/audit?project=web&action=order").await.body["entries"].clone();
    let mut told: Vec<_> = audit.as_array().unwrap().iter().map(|line| line["detail"].as_str().unwrap()).collect();
    told.reverse();
    assert_eq!(told.len(), 10, "{audit}");
    // Each one found what the one before it left.
    let mut last = "3".to_owned();
    for line in told {
        let (from, to) = line.strip_prefix("from ").unwrap().split_once(" to ").unwrap();
        assert_eq!(from, last, "{audit}");
        last = to.to_owned();
    }
    assert_eq!(at_second["order"].to_string(), last);
    mark(&first, json!({ "order": 50 })).await;
    first.kill();
    refused(&second, 49).await;
    deploy(&second, 50).await;
}

#[tokio::test]
async fn a_copy_into_another_engine_keeps_a_mark_that_was_set() {
    let mut server = TestServer::gated();
    deploy(&server, 3).await;
    let set = mark(&server, json!({ "order": 20, "reason": "why not" })).await["mark"].clone();
    assert!(server.terminate().success());
    let cluster = postgres::shared();
    let database = cluster.empty_database().await;
    let store = cluster.url(&database);
    let copied = server.tool(&["store", "copy", "--from", "sqlite:test.db", "--to", &store]).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let new = TestServer::start_on(&store, &gated_config(""));
    assert_eq!(new.project().await["mark"], set);
    refused(&new, 19).await;
}

#[tokio::test]
async fn the_command_shows_sets_and_removes_the_mark_in_words() {
    let server = TestServer::gated();
    assert_eq!(prints(&server, &["order", "web"]), "web has no mark: any build number is let in\n");
    deploy(&server, 7).await;
    assert_eq!(prints(&server, &["order", "web"]), "web: builds below 7 are refused: web#1 started build 7\n");
    let why = prints(&server, &["why", "--project", "web"]);
    assert!(why.contains("mark: builds below 7 are refused: web#1 started build 7\n"), "{why}");
    let set = prints(&server, &["order", "web", "--set", "9", "--reason", "8 is broken"]);
    assert!(set.starts_with("web: builds below 9 are refused: set by alice at "), "{set}");
    assert!(set.ends_with(": 8 is broken\n  until now: builds below 7 are refused: web#1 started build 7\n"), "{set}");
    // A person set it: nobody knows that a newer build was deployed.
    let build = ["deploy", "--project", "web", "--pipeline", "quick", "--superseded-ok", "--order"];
    let (code, why) = fails(&server, &[&build[..], &["8"]].concat());
    assert!(
        code == Some(122) && why.contains("the mark that alice set: 8 is broken; deploy build 9 or"),
        "{code:?} {why}"
    );
    assert!(run(&server, &[&build[..], &["9"]].concat()).status.success());
    assert!(run(&server, &[&build[..], &["8"]].concat()).status.success(), "build 9 was deployed");
    let json: Value = serde_json::from_str(&prints(&server, &["order", "web", "--json"])).unwrap();
    assert_eq!((&json["project"], &json["mark"]["order"]), (&json!("web"), &json!(9)), "{json}");
    let cleared = prints(&server, &["order", "web", "--clear"]);
    assert!(
        cleared.starts_with("web has no mark: any build number is let in\n  until now: builds below 9"),
        "{cleared}"
    );
    assert_eq!(
        prints(&server, &["order", "web", "--clear"]),
        "web has no mark: any build number is let in\n  nothing changed: it was so already\n"
    );

    for (args, code, why) in [
        (vec!["order", "web", "--set", "9", "--clear"], 2, "cannot be used with"),
        (vec!["order", "web", "--set", "nine"], 2, "a whole number from 0"),
        (vec!["order", "web", "--set", "-1"], 2, "a whole number from 0"),
        (vec!["order", "web", "--reason", "why"], 2, "--reason goes with --set or --clear"),
        (vec!["order", "wbe"], 2, "no such project wbe"),
        (vec!["order", "wbe", "--set", "9"], 2, "no such project wbe"),
    ] {
        let (ended, told) = fails(&server, &args);
        assert!(ended == Some(code) && told.contains(why), "{args:?}: {ended:?} {told}");
    }
    for (body, why) in [
        (json!({}), "order"),
        (json!({ "order": "7" }), "order"),
        (json!({ "order": -1 }), "order"),
        (json!({ "order": 1_u64 << 53 }), "from 0 to 9007199254740991"),
        (json!({ "order": 7, "reason": " " }), "reason"),
        (json!({ "order": 7, "actor": "a\nb" }), "actor"),
        (json!({ "order": 7, "until": null }), "until"),
    ] {
        let answer = put(&server, body.clone()).await;
        assert!(answer.status == 400 && answer.text.contains(why), "{body}: {}", answer.text);
    }
    assert_eq!(server.project().await["mark"], json!(null));
}
