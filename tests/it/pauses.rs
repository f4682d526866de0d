//! Pauses and freeze windows: what they hold, whom they tell, and that nothing but their end ends them.

use std::{process::Command, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::harness::{SINGLETRACK, TestServer, a_token, client::Client, client_with, gated_config, postgres, send};

const PAUSE: &str = "/v1/projects/web/pause";
const RESUME: &str = "/v1/projects/web/resume";

/// Pauses `web`; the answer.
async fn pause(server: &TestServer, body: Value) -> Value {
    let answer = server.post(PAUSE, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

async fn resume(server: &TestServer) -> Value {
    let answer = server.post(RESUME, json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

async fn queued(server: &TestServer, pipeline: &str) -> String {
    server.accepted(json!({ "pipeline": pipeline, "onConflict": "queue" })).await
}

async fn status(server: &TestServer, id: &str) -> String {
    server.deployment(id, "").await.body["status"].as_str().unwrap().to_owned()
}

/// Prints of a command that goes well.
fn prints(server: &TestServer, args: &[&str]) -> String {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("USER", "alice").env("TZ", "UTC").env("SINGLETRACK_URL", &server.base).args(args);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn a_pause_holds_over_a_kill_a_reload_and_a_restart(mut server: TestServer) {
    let holder = server.at_the_gate().await;
    let first = queued(&server, "quick").await;
    let paused = pause(&server, json!({ "reason": "the database is being repaired", "actor": "anna" })).await;
    assert_eq!((&paused["outcome"], &paused["running"]["id"]), (&json!("paused"), &json!(holder)), "{paused}");
    assert_eq!((&paused["before"], &paused["lineLength"]), (&json!(null), &json!(1)), "{paused}");
    let changed = pause(&server, json!({ "reason": "it takes longer", "actor": "bob" })).await;
    assert_eq!((&changed["outcome"], &changed["before"]["actor"]), (&json!("changed"), &json!("anna")), "{changed}");
    server.open_gate();
    assert_eq!(server.finished(&holder).await["status"], "SUCCEEDED", "what runs goes on");

    // Newcomers are told what holds them, and keep their place.
    let refused = server.submit(json!({ "pipeline": "quick", "onConflict": "refuse" })).await;
    assert_eq!(refused.refusal(), (409, "PROJECT_PAUSED"), "{}", refused.text);
    assert_eq!(refused.body["hold"]["reason"], "it takes longer");
    let wish = json!({ "pipeline": "quick", "onConflict": "wait" });
    let waits = server.submit_keyed("second", wish.clone()).await;
    assert_eq!(waits.refusal(), (409, "PROJECT_PAUSED"), "{}", waits.text);
    assert_eq!((&waits.body["queuePosition"], &waits.body["hold"]["actor"]), (&json!(2), &json!("bob")));
    assert_eq!((&waits.body["deploymentId"], &waits.body["expectedStart"]), (&json!(null), &json!(null)));
    assert_eq!(waits.body["startUnknown"], "the project is paused by bob, and no end is set");
    let second = waits.body["ticket"].as_str().unwrap().to_owned();
    let poll = server.deployment(&second, "/turn?maxWaitSeconds=0").await;
    assert_eq!((poll.status, &poll.body["hold"]["kind"]), (408, &json!("pause")), "{}", poll.text);

    server.kill();
    server.boot();
    assert_eq!(server.post("/v1/admin/reload", json!({})).await.status, 200);
    let project = server.project().await;
    assert_eq!((&project["holder"], &project["lineLength"]), (&json!(null), &json!(2)), "{project}");
    assert_eq!((&project["hold"]["actor"], &project["hold"]["by"]), (&json!("bob"), &json!("local")), "{project}");
    assert!(server.terminate().success());
    server.boot();
    assert_eq!(
        (status(&server, &first).await, status(&server, &second).await),
        ("PENDING".to_owned(), "PENDING".to_owned())
    );
    assert_eq!(server.project().await["holder"], json!(null));

    let resumed = resume(&server).await;
    assert_eq!((&resumed["outcome"], &resumed["hold"]), (&json!("resumed"), &json!(null)), "{resumed}");
    assert_eq!(server.finished(&first).await["status"], "SUCCEEDED");
    assert_eq!(server.deployment(&second, "/turn?maxWaitSeconds=60").await.status, 200);
    let taken = server.submit_keyed("second", wish).await;
    assert_eq!((taken.status, taken.id()), (202, second.clone()), "{}", taken.text);
    server.finished(&second).await;
    assert_eq!(resume(&server).await["outcome"], "unchanged");
    let audit = server.get("/v1/audit?project=web").await;
    let acts: Vec<_> =
        audit.body["entries"].as_array().into_iter().flatten().map(|line| line["action"].clone()).collect();
    assert_eq!(acts.iter().filter(|act| **act == "pause").count(), 2, "{}", audit.text);
    assert_eq!(acts.iter().filter(|act| **act == "resume").count(), 1, "{}", audit.text);
}

#[tokio::test]
async fn a_pause_holds_over_a_kill_a_reload_and_a_restart_on_sqlite() {
    a_pause_holds_over_a_kill_a_reload_and_a_restart(TestServer::gated()).await;
}

#[tokio::test]
async fn a_pause_holds_over_a_kill_a_reload_and_a_restart_on_postgresql() {
    let store = postgres::shared().store().await;
    let server = TestServer::start_on(&store, &gated_config(""));
    server.close_gate();
    a_pause_holds_over_a_kill_a_reload_and_a_restart(server).await;
}

#[tokio::test]
async fn a_pause_takes_back_the_slot_of_a_ticket_and_of_a_deployment_that_no_worker_has_taken() {
    let server = TestServer::gated_with("[projects.far]\nrun_by = \"agents\"");
    // No agent is there, so the deployment waits for one.
    let ready = server.post("/v1/projects/far/deployments", json!({})).await.id();
    let answer = server.post("/v1/projects/far/pause", json!({ "reason": "not now" })).await.body;
    assert_eq!((&answer["takenBack"]["id"], &answer["calledUp"]), (&json!(ready), &json!(null)), "{answer}");
    let resumed = server.post("/v1/projects/far/resume", json!({})).await.body;
    assert_eq!(resumed["calledUp"]["id"], json!(ready), "{resumed}");

    let holder = server.at_the_gate().await;
    let wish = json!({ "pipeline": "quick", "onConflict": "wait" });
    let ticket = server.submit_keyed("mine", wish.clone()).await.body["ticket"].as_str().unwrap().to_owned();
    let next = queued(&server, "quick").await;
    server.cancel(&holder, json!({})).await;
    server.finished(&holder).await;
    assert_eq!(server.deployment(&ticket, "/turn?maxWaitSeconds=60").await.body["queuePosition"], 0, "it is called up");
    assert_eq!(pause(&server, json!({ "reason": "not now" })).await["takenBack"]["id"], json!(ticket));
    let again = server.submit_keyed("mine", wish).await;
    assert_eq!((again.refusal(), &again.body["ticket"]), ((409, "PROJECT_PAUSED"), &json!(ticket)), "{}", again.text);
    assert_eq!(again.body["queuePosition"], 1, "before those that came later");
    assert_eq!(resume(&server).await["calledUp"]["id"], json!(ticket));
    assert_eq!(status(&server, &next).await, "PENDING");
}

#[tokio::test]
async fn the_end_of_a_pause_serves_the_line_at_whichever_server_lives() {
    let store = postgres::shared().store().await;
    let config = gated_config("[limits]\nfallback_poll = \"40s\"");
    let (mut first, second) = (TestServer::start_on(&store, &config), TestServer::start_on(&store, &config));
    let done = queued(&second, "quick").await;
    second.finished(&done).await;
    let until = Timestamp::now() + Duration::from_secs(4);
    let paused = pause(&first, json!({ "reason": "for a moment", "until": until.to_string() })).await;
    assert_eq!(paused["hold"]["kind"], "pause", "{paused}");
    first.kill();
    let waits = queued(&second, "quick").await;
    let told = second.deployment(&waits, "").await.body;
    assert_eq!(told["hold"]["reason"], "for a moment", "the other server holds it, too: {told}");
    assert!(told["expectedStart"]["p50Seconds"].as_u64().is_some_and(|seconds| seconds <= 4), "{told}");
    let ended = second.finished(&waits).await;
    let started: Timestamp = ended["startedAt"].as_str().unwrap().parse().unwrap();
    assert!(started >= until, "{ended}");
    assert_eq!(second.project().await["hold"], json!(null));
}

#[tokio::test]
async fn a_pause_that_one_server_ends_is_over_for_the_other() {
    let store = postgres::shared().store().await;
    let config = gated_config("[limits]\nfallback_poll = \"40s\"");
    let (first, second) = (TestServer::start_on(&store, &config), TestServer::start_on(&store, &config));
    let done = queued(&first, "quick").await;
    first.finished(&done).await;
    pause(&first, json!({ "reason": "for a while" })).await;
    let wish = json!({ "pipeline": "quick", "onConflict": "wait" });
    let ticket = second.submit_keyed("mine", wish).await.body["ticket"].as_str().unwrap().to_owned();
    let poll = second.deployment(&ticket, "/turn?maxWaitSeconds=30");
    let end = async {
        second.parked(1).await;
        assert_eq!(resume(&first).await["calledUp"]["id"], json!(ticket));
    };
    let (turn, ()) = tokio::join!(poll, end);
    assert_eq!((turn.status, &turn.body["queuePosition"]), (200, &json!(0)), "{}", turn.text);
}

#[tokio::test]
async fn two_admins_who_pause_and_resume_at_once_leave_one_state_and_a_line_for_each_change() {
    let store = postgres::shared().store().await;
    let servers = [(); 2].map(|()| TestServer::start_on(&store, &gated_config("")));
    let admin = async |server: &TestServer, name: &str| {
        let mut outcomes = Vec::new();
        for number in 0..20 {
            let paused = pause(server, json!({ "reason": format!("{name} {number}"), "actor": name })).await;
            let resumed = resume(server).await;
            outcomes.extend([paused["outcome"].clone(), resumed["outcome"].clone()]);
        }
        outcomes
    };
    let (anna, bob) = tokio::join!(admin(&servers[0], "anna"), admin(&servers[1], "bob"));
    let told = |outcome: &str| anna.iter().chain(&bob).filter(|told| **told == outcome).count();
    assert_eq!(told("paused"), told("resumed"), "each pause was ended once: {anna:?} {bob:?}");
    assert_eq!(told("paused") + told("changed"), 40, "no pause was lost: {anna:?} {bob:?}");
    for server in &servers {
        assert_eq!(server.project().await["hold"], json!(null), "whoever came last resumed");
        let audit = server.get("/v1/audit?limit=500").await.body;
        let of = |action: &str| {
            audit["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == action).count()
        };
        assert_eq!((of("pause"), of("resume")), (40, told("resumed")), "{audit}");
        let goes = queued(server, "quick").await;
        assert_eq!(server.finished(&goes).await["status"], "SUCCEEDED");
    }
}

#[tokio::test]
async fn a_server_that_was_down_at_the_end_of_a_pause_serves_the_line_when_it_comes_up() {
    let mut server = TestServer::gated();
    let done = queued(&server, "quick").await;
    server.finished(&done).await;
    let until = Timestamp::now() + Duration::from_millis(1500);
    pause(&server, json!({ "reason": "for a moment", "until": until.to_string() })).await;
    let waits = queued(&server, "quick").await;
    server.kill();
    while Timestamp::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.boot();
    assert_eq!(server.finished(&waits).await["status"], "SUCCEEDED");
}

/// A window of dates, to the second.
fn window(from: Timestamp, to: Timestamp) -> String {
    let point = |at: Timestamp| at.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string();
    format!(
        "[[projects.web.freeze]]\nfrom = \"{}\"\nto = \"{}\"\nreason = \"release weekend\"\n",
        point(from),
        point(to)
    )
}

#[tokio::test]
async fn a_freeze_window_holds_and_its_end_serves_the_line() {
    let now = Timestamp::now();
    let until = now + Duration::from_secs(6);
    let server = TestServer::start(&gated_config(&window(now - Duration::from_secs(3600), until)));
    let waits = queued(&server, "quick").await;
    let told = server.deployment(&waits, "").await.body;
    assert_eq!(
        (&told["hold"]["kind"], &told["hold"]["reason"]),
        (&json!("freeze"), &json!("release weekend")),
        "{told}"
    );
    assert!(told["expectedStart"]["p50Seconds"].as_u64().is_some_and(|seconds| (1..=7).contains(&seconds)), "{told}");
    let why = prints(&server, &["why", "--project", "web"]);
    assert!(why.contains("held: web is frozen by a freeze window since") && why.contains("release weekend"), "{why}");
    let plan = prints(&server, &["deploy", "--project", "web", "--pipeline", "quick", "--dry-run"]);
    assert!(plan.contains("the project is frozen by a freeze window") && plan.contains("number 2 in line"), "{plan}");
    let list = prints(&server, &["list"]);
    assert!(list.contains("frozen until"), "{list}");
    let status = prints(&server, &["status", "--project", "web", &waits]);
    assert!(status.contains("held        web is frozen"), "{status}");
    let ended = server.finished(&waits).await;
    let started: Timestamp = ended["startedAt"].as_str().unwrap().parse().unwrap();
    assert!(started.as_second() >= until.as_second(), "{ended}");
}

#[tokio::test]
async fn a_freeze_window_that_begins_takes_the_slot_back_from_whoever_has_not_started() {
    let now = Timestamp::now();
    let begins = window(now + Duration::from_secs(3), now + Duration::from_secs(3600));
    let server = TestServer::start(
        &gated_config(&format!("[projects.web]\nrun_by = \"agents\"\n{begins}"))
            .replace("[projects.web.pipelines.", "[projects.other.pipelines.")
            .replace("[[projects.web.pipelines.", "[[projects.other.pipelines."),
    );
    let ready = server.accepted(json!({})).await;
    let taken_back = server.event(&ready, |event| event["hold"]["kind"] == "freeze").await;
    assert_eq!((&taken_back["type"], &taken_back["position"]), (&json!("queue"), &json!(1)), "{taken_back}");
    assert_eq!(server.project().await["holder"], json!(null));
}

#[tokio::test]
async fn what_passes_a_pause_goes_first_and_the_others_stay_held() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let held = queued(&server, "quick").await;
    pause(&server, json!({ "reason": "an incident" })).await;
    let wish = json!({ "pipeline": "quick", "onConflict": "queue", "overridePause": true });
    let hotfix = server.submit(wish.clone()).await;
    assert_eq!((hotfix.status, &hotfix.body["queuePosition"]), (202, &json!(1)), "{}", hotfix.text);
    assert_eq!((&hotfix.body["overridePause"], &hotfix.body["hold"]), (&json!(true), &json!(null)));
    let second = server.submit(wish).await;
    assert_eq!(second.body["queuePosition"], 2, "behind the one that came before");
    server.open_gate();
    server.finished(&holder).await;
    assert_eq!(server.finished(&hotfix.id()).await["status"], "SUCCEEDED");
    assert_eq!(server.finished(&second.id()).await["status"], "SUCCEEDED");
    assert_eq!(status(&server, &held).await, "PENDING", "it stays held");
    assert!(server.audit(&hotfix.id()).iter().any(|(action, _)| action == "override_pause"));
    resume(&server).await;
    assert_eq!(server.finished(&held).await["status"], "SUCCEEDED", "nothing superseded it");
}

#[tokio::test]
async fn a_takeover_by_whoever_is_held_is_refused_and_what_runs_goes_on() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let ticket = server.ticket("mine").await;
    pause(&server, json!({ "reason": "an incident" })).await;
    let refused = server.cancel(&holder, json!({ "supersededBy": ticket })).await;
    assert_eq!(refused.refusal(), (409, "PREEMPTION_REFUSED"), "{}", refused.text);
    assert_eq!(refused.body["hold"]["kind"], "pause");
    assert_eq!(status(&server, &holder).await, "RUNNING");
}

#[tokio::test]
async fn pausing_resuming_and_passing_need_the_scope_admin() {
    let (token, table) = a_token();
    let scoped = format!("{table}\nscopes = [\"read\", \"submit\", \"cancel\", \"release\", \"work\"]");
    let server = TestServer::start(&gated_config(&scoped));
    let client = client_with(&token);
    for (path, body) in [
        (PAUSE, json!({ "reason": "why" })),
        (RESUME, json!({})),
        ("/v1/projects/web/deployments", json!({ "pipeline": "quick", "overridePause": true })),
        ("/v1/projects/web/deployments", json!({ "pipeline": "quick", "resume": true })),
    ] {
        let answer = send(client.post(format!("{}{path}", server.base)).json(&body)).await;
        assert_eq!(answer.refusal(), (403, "MISSING_SCOPE"), "{path}: {}", answer.text);
    }
}

#[tokio::test]
async fn what_is_no_pause_is_refused_with_what_to_do() {
    let server = TestServer::gated();
    for (body, told) in [
        (json!({}), "reason"),
        (json!({ "reason": " " }), "a reason is one line"),
        (json!({ "reason": "a\nb" }), "a reason is one line"),
        (json!({ "reason": "why", "until": "2020-01-01T00:00:00Z" }), "which is over"),
        (json!({ "reason": "why", "until": "tomorrow" }), "until"),
        (json!({ "reason": "why", "untill": null }), "untill"),
    ] {
        let answer = server.post(PAUSE, body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
        assert!(answer.text.contains(told), "{body}: {}", answer.text);
    }
    let unknown = server.post("/v1/projects/wbe/pause", json!({ "reason": "a typing mistake" })).await;
    assert_eq!(unknown.refusal(), (404, "NOT_FOUND"), "{}", unknown.text);
    assert_eq!(server.project().await["hold"], json!(null));
}

#[tokio::test]
async fn of_fifty_racers_none_starts_while_the_project_is_paused_and_all_start_in_order_after_it() {
    let server = TestServer::gated();
    let wishes = (0..50).map(|_| server.submit(json!({ "pipeline": "quick", "onConflict": "queue" })));
    let ids: Vec<_> = futures_util::future::join_all(wishes).await.iter().map(|answer| answer.id()).collect();
    let paused = pause(&server, json!({ "reason": "in the middle" })).await;
    if let Some(running) = paused["running"]["id"].as_str() {
        server.finished(running).await;
    }
    let all = server.get("/v1/projects/web/deployments?limit=100").await.body["deployments"].clone();
    let pending = |all: &Value| all.as_array().unwrap().iter().filter(|it| it["status"] == "PENDING").count();
    let waiting = pending(&all);
    // Every decision from here on would start somebody if it could.
    for _ in 0..5 {
        let newcomer = server.submit(json!({ "pipeline": "quick", "onConflict": "refuse" })).await;
        assert_eq!(newcomer.refusal(), (409, "PROJECT_PAUSED"), "{}", newcomer.text);
    }
    let later = server.get("/v1/projects/web/deployments?limit=100").await.body["deployments"].clone();
    assert_eq!((pending(&later), server.project().await["holder"].clone()), (waiting, json!(null)));
    resume(&server).await;
    let mut ended = Vec::new();
    for id in &ids {
        ended.push(server.finished(id).await);
    }
    ended.sort_by_key(|one| one["number"].as_u64());
    let starts: Vec<_> = ended.iter().map(|one| one["startedAt"].as_str().unwrap()).collect();
    assert!(starts.is_sorted(), "{starts:?}");
    assert!(ended.iter().all(|one| one["status"] == "SUCCEEDED"));
}

#[tokio::test]
async fn a_client_that_waits_is_told_what_holds_it_and_goes_on_after_it() {
    let server = TestServer::gated();
    let paused = prints(&server, &["pause", "web", "--until", "2h", "--reason", "the database is being repaired"]);
    assert!(paused.starts_with("web is paused by alice since") && paused.contains("the pause ends at"), "{paused}");
    let variables = [("USER", "alice"), ("SINGLETRACK_URL", server.base.as_str())];
    let mut deploy = Client::start(&variables, &["deploy", "--project", "web", "--pipeline", "quick"]);
    deploy.hears("held: web is paused by alice since");
    let why = prints(&server, &["why", "--project", "web"]);
    assert!(why.contains("the slot is free, and given to nobody"), "{why}");
    assert!(why.contains("the database is being repaired") && why.contains("singletrack resume web"), "{why}");
    let resumed = prints(&server, &["resume", "web"]);
    assert!(resumed.starts_with("web goes on; it was paused by alice"), "{resumed}");
    let ended = deploy.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(prints(&server, &["resume", "web"]), "web was not paused\n");
}
