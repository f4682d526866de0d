//! The slot: who gets it, who is told what, who waits, who is superseded.

use reqwest::Method;
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::harness::{TestServer, gated_config, processes, send};

#[tokio::test]
async fn a_free_slot_is_taken_and_the_deployment_runs_to_its_end() {
    let server = TestServer::gated();
    let taken = server.submit(json!({ "pipeline": "quick", "ref": "main", "commit": "3f2a", "actor": "alice" })).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    let id = taken.body["id"].as_str().unwrap();
    assert_eq!(taken.headers["location"], format!("/v1/projects/web/deployments/{id}"));
    assert_eq!((&taken.body["status"], &taken.body["queuePosition"]), (&json!("PENDING"), &json!(0)));
    let ended = server.finished(id).await;
    assert_eq!(ended["status"], "SUCCEEDED");
    assert_eq!(ended["result"], json!({ "outputs": {} }));
    assert_eq!(ended["progress"], 100);
    assert_eq!(ended["actor"], "alice");
}

#[tokio::test]
async fn a_held_slot_is_a_conflict_that_names_the_holder() {
    let server = TestServer::gated();
    let holder = server.submit(json!({ "actor": "alice", "commit": "3f2a" })).await.body;
    let id = holder["id"].as_str().unwrap();
    server.event(id, |event| event["type"] == "log").await;
    let conflict = server.submit(json!({ "actor": "bob" })).await;
    assert_eq!(conflict.status, 409, "{}", conflict.text);
    assert_eq!(conflict.body["deploymentId"], id);
    assert_eq!(conflict.body["blocking"]["actor"], "alice");
    assert_eq!(conflict.body["blocking"]["phase"], "gate");
    assert_eq!(conflict.body["blocking"]["liveness"], "alive");
    assert!(conflict.body.get("ticket").is_none(), "nothing is stored for who only asks");
    server.open_gate();
    assert_eq!(server.finished(id).await["status"], "SUCCEEDED");
    let listed = server.get("/v1/projects/web/deployments").await.body;
    assert_eq!(listed["deployments"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_ticket_keeps_its_place_and_its_one_resubmit_wins() {
    let server = TestServer::gated();
    let holder = server.submit(json!({})).await.body;
    let wish = json!({ "onConflict": "wait", "pipeline": "quick" });
    let first = server.submit_keyed("key-1", wish.clone()).await;
    let second = server.submit_keyed("key-2", wish.clone()).await;
    assert_eq!((first.status, second.status), (409, 409));
    assert_eq!((&first.body["queuePosition"], &second.body["queuePosition"]), (&json!(1), &json!(2)));
    let ticket = first.body["ticket"].as_str().unwrap().to_owned();
    let still = server.deployment(&ticket, "/turn?maxWaitSeconds=0").await;
    assert_eq!((still.status, &still.body["errorCode"]), (408, &json!("STILL_WAITING")));
    assert_eq!(still.headers["singletrack-status"], "PENDING");

    server.open_gate();
    server.finished(holder["id"].as_str().unwrap()).await;
    let turn = server.deployment(&ticket, "/turn?maxWaitSeconds=60").await;
    assert_eq!((turn.status, &turn.body["queuePosition"]), (200, &json!(0)));
    let rival = server.submit(json!({ "pipeline": "quick" })).await;
    assert_eq!((rival.status, &rival.body["deploymentId"]), (409, &json!(ticket)));
    let again = server.submit_keyed("key-1", wish.clone()).await;
    assert_eq!((again.status, &again.body["id"]), (202, &json!(ticket)));
    assert_eq!(server.finished(&ticket).await["status"], "SUCCEEDED");
    let next = second.body["ticket"].as_str().unwrap();
    assert_eq!(server.deployment(next, "/turn?maxWaitSeconds=60").await.status, 200);
}

#[tokio::test]
async fn a_queued_deployment_is_started_by_the_server_when_its_turn_comes() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let mut queued = Vec::new();
    for place in 1..=3 {
        let answer = server.submit(json!({ "onConflict": "queue", "pipeline": "quick", "order": place })).await;
        assert_eq!((answer.status, &answer.body["queuePosition"]), (202, &json!(place)), "{}", answer.text);
        assert_eq!(answer.body["status"], "PENDING");
        queued.push(answer.id());
    }
    assert_eq!(server.project().await["lineLength"], 3);
    server.open_gate();
    let mut last = server.finished(&holder).await["revision"].as_u64().unwrap();
    for id in &queued {
        let ended = server.finished(id).await;
        assert_eq!(ended["status"], "SUCCEEDED");
        let revision = ended["revision"].as_u64().unwrap();
        assert!(revision > last, "they ended in another order than they came");
        last = revision;
    }
}

#[tokio::test]
async fn a_submit_without_a_ticket_never_overtakes_the_line() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let ticket = server.ticket("key").await;
    server.open_gate();
    server.finished(&holder).await;
    for on_conflict in ["refuse", "wait"] {
        let rival = server.submit_keyed(on_conflict, json!({ "onConflict": on_conflict, "pipeline": "quick" })).await;
        assert_eq!(rival.refusal(), (409, "DEPLOYMENT_IN_PROGRESS"));
        assert_eq!(rival.body["deploymentId"], *ticket, "the slot is kept for the ticket");
    }
}

#[tokio::test]
async fn the_same_key_and_request_are_one_deployment_for_ever() {
    let server = TestServer::gated();
    let wish = json!({ "ref": "main", "inputs": { "a": "1", "b": "2" } });
    let first = server.submit_keyed("key", wish.clone()).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (202, ""));
    let id = first.id();
    let again = async |body: &'static str| {
        let request = server.request(Method::POST, "/v1/projects/web/deployments").header("Idempotency-Key", "key");
        send(request.header("Content-Type", "application/json").body(body)).await
    };
    // The same request, however it is written.
    let same = r#"{ "inputs": {"b": "2", "a": "1"}, "rollback": false,  "ref": "main" }"#;
    let replayed = again(same).await;
    assert_eq!((replayed.status, replayed.header("idempotency-replayed")), (202, "true"), "{}", replayed.text);
    assert_eq!((replayed.id(), replayed.header("location")), (id.clone(), first.header("location")));
    for other in [r#"{"ref":"main"}"#, r#"{"ref":"main","inputs":{"a":"1","b":"3"}}"#, ""] {
        let refused = again(other).await;
        assert_eq!(refused.refusal(), (422, "KEY_REUSED"), "{}", refused.text);
        assert_eq!(refused.body["deploymentId"], json!(null));
    }
    server.open_gate();
    let ended = server.finished(&id).await;
    let replayed = again(same).await;
    assert_eq!((replayed.status, &replayed.body), (202, &ended), "the key stays taken when its deployment is over");
    assert_eq!(again("{}").await.refusal(), (422, "KEY_REUSED"));
    assert_eq!(server.deployments().await.len(), 1);
}

#[tokio::test]
async fn submits_under_one_key_at_once_make_one_deployment() {
    let server = TestServer::gated();
    let submits = (0..20).map(|_| server.submit_keyed("key", json!({ "ref": "main" })));
    let answers = futures_util::future::join_all(submits).await;
    let first = answers[0].id();
    assert!(answers.iter().all(|answer| answer.status == 202 && answer.id() == first), "{answers:#?}");
    let made = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_empty()).count();
    assert_eq!(made, 1, "one of them made it");
    // In line it is the same.
    let submits = (0..20).map(|_| server.submit_keyed("other", json!({ "onConflict": "wait" })));
    let answers = futures_util::future::join_all(submits).await;
    assert!(answers.iter().all(|answer| answer.status == 409 && answer.body["ticket"] == answers[0].body["ticket"]));
    assert!(answers.iter().all(|answer| answer.body["queuePosition"] == 1));
    assert_eq!(server.deployments().await.len(), 2);
}

#[tokio::test]
async fn racing_submits_without_a_key_have_one_winner() {
    let server = TestServer::gated();
    let submits = (0..20).map(|_| server.submit(json!({})));
    let answers = futures_util::future::join_all(submits).await;
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == 202).collect();
    assert_eq!(won.len(), 1);
    let lost = answers.iter().filter(|answer| answer.status != 202);
    assert!(lost.clone().all(|answer| answer.refusal() == (409, "DEPLOYMENT_IN_PROGRESS")));
    assert!(lost.clone().all(|answer| answer.body["deploymentId"] == won[0].body["id"]));
    assert_eq!(server.deployments().await.len(), 1, "nothing is stored of those who lost");
}

#[tokio::test]
async fn a_lower_order_never_starts_after_a_higher_one_but_as_a_rollback() {
    let server = TestServer::gated();
    let build = async |order: u64, rollback: bool| {
        server.submit(json!({ "pipeline": "quick", "order": order, "rollback": rollback })).await
    };
    let newest = build(7, false).await.id();
    server.finished(&newest).await;
    let before = server.project().await;
    let refused = build(6, false).await;
    assert_eq!(refused.refusal(), (409, "OUTDATED"), "{}", refused.text);
    assert_eq!(refused.body["deploymentId"], json!(null), "there is nothing to wait for");
    assert!(refused.body["message"].as_str().unwrap().contains("which web#1 started"), "{}", refused.text);
    assert_eq!(refused.body["retryable"], false);
    assert_eq!(server.project().await, before);
    for (order, rollback) in [(7, false), (6, true)] {
        let accepted = build(order, rollback).await;
        assert_eq!(accepted.status, 202, "{order} {rollback}: {}", accepted.text);
        server.finished(&accepted.id()).await;
    }
    assert_eq!(build(6, false).await.refusal(), (409, "OUTDATED"), "a rollback leaves the mark");

    // In line, too: what a newer one overtook ends when that starts.
    let holder = server.at_the_gate().await;
    let newer = server.accepted(json!({ "pipeline": "quick", "order": 9, "onConflict": "queue" })).await;
    let older = server.accepted(json!({ "pipeline": "quick", "order": 8, "onConflict": "queue" })).await;
    server.open_gate();
    server.finished(&holder).await;
    assert_eq!(server.finished(&newer).await["status"], "SUCCEEDED");
    let overtaken = server.finished(&older).await;
    assert_eq!((&overtaken["status"], &overtaken["supersededBy"]), (&json!("CANCELLED"), &json!(newer)));
    assert_eq!((&overtaken["error"]["code"], &overtaken["startedAt"]), (&json!("SUPERSEDED"), &json!(null)));
}

#[tokio::test]
async fn a_ticket_supersedes_all_that_is_older_and_nothing_else() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let older = server.ticket("older").await;
    let queued = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let successor = server.ticket("successor").await;
    for (target, by, code) in [
        (&successor, &successor, "NOT_OLDER"),
        (&successor, &queued, "OUTDATED"),
        (&holder, &queued, "OUTDATED"),
        (&holder, &"0199ffff-0000-7000-8000-000000000000".to_owned(), "SUCCESSOR_GONE"),
    ] {
        let refused = server.cancel(target, json!({ "supersededBy": by })).await;
        assert_eq!(refused.refusal(), (409, code), "{}", refused.text);
    }
    assert_eq!(server.project().await["lineLength"], 3, "a refusal changes nothing");

    let requested = server.cancel(&holder, json!({ "supersededBy": successor, "reason": "a newer commit" })).await;
    assert_eq!(requested.status, 202, "{}", requested.text);
    let again = server.cancel(&holder, json!({ "supersededBy": successor })).await;
    assert_eq!(again.status, 200, "{}", again.text);
    let younger = server.ticket("younger").await;
    let ended = server.finished(&holder).await;
    assert_eq!((&ended["error"]["code"], &ended["supersededBy"]), (&json!("SUPERSEDED"), &json!(successor)), "{ended}");
    let turn = server.deployment(&successor, "/turn?maxWaitSeconds=60").await;
    assert_eq!((turn.status, &turn.body["status"]), (200, &json!("PENDING")));
    let parked = server.deployment(&older, "/turn?maxWaitSeconds=60");
    let (told, taken) = tokio::join!(parked, async {
        server.parked(1).await;
        server.submit_keyed("successor", json!({ "onConflict": "wait", "pipeline": "quick" })).await
    });
    assert_eq!((taken.status, taken.id()), (202, successor.clone()), "its one re-submit wins");
    assert_eq!((told.status, &told.body["supersededBy"]), (200, &json!(successor)), "whoever waited is told by whom");
    for id in [&older, &queued] {
        let ended = server.finished(id).await;
        assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("CANCELLED"), &json!("SUPERSEDED")), "{ended}");
        assert_eq!(ended["supersededBy"], *successor);
    }
    let gone = server.cancel(&younger, json!({ "supersededBy": older })).await;
    assert_eq!(gone.refusal(), (409, "SUCCESSOR_GONE"), "who is final supersedes nobody");
    assert_eq!(server.finished(&successor).await["status"], "SUCCEEDED");
    let next = server.deployment(&younger, "/turn?maxWaitSeconds=60").await;
    assert_eq!((next.status, &next.body["status"]), (200, &json!("PENDING")), "the younger one was left alone");
}

#[tokio::test]
async fn a_submit_repeated_with_its_key_is_found_though_it_would_not_be_granted_now() {
    let mut server = TestServer::gated();
    let wish = json!({ "pipeline": "quick", "onConflict": "wait" });
    let made = server.submit_keyed("done", wish.clone()).await.id();
    server.finished(&made).await;
    let holder = server.at_the_gate().await;
    let ticket = server.ticket("waits").await;
    server.configure(&gated_config("").replace("pipelines.quick", "pipelines.brisk"));
    server.kill();
    server.boot();
    server.finished(&holder).await;
    let again = server.submit_keyed("done", wish.clone()).await;
    assert_eq!((again.status, again.id()), (202, made), "{}", again.text);
    assert_eq!(again.header("idempotency-replayed"), "true");
    let again = server.submit_keyed("waits", wish.clone()).await;
    assert_eq!((again.status, again.id()), (202, ticket), "the slot that was kept is taken up: {}", again.text);
    for (key, wish) in [("new", wish.clone()), ("done", json!({ "pipeline": "quick", "actor": "other" }))] {
        let refused = server.submit_keyed(key, wish).await;
        assert_eq!(refused.refusal(), (400, "UNKNOWN_PIPELINE"), "{}", refused.text);
    }
}

#[tokio::test]
async fn who_only_asks_supersedes_nobody() {
    let server = TestServer::gated_with("[projects.web]\nline = \"latest\"");
    let holder = server.at_the_gate().await;
    server.ticket("first").await;
    assert_eq!(server.submit(json!({})).await.refusal(), (409, "DEPLOYMENT_IN_PROGRESS"));
    let project = server.project().await;
    assert_eq!((&project["lineLength"], &project["policy"]["line"]), (&json!(1), &json!("latest")));
    assert_eq!(project["holder"]["id"], *holder, "who runs is left alone");
}

#[tokio::test]
async fn a_full_line_takes_nobody_more() {
    let server = TestServer::gated_with("[projects.web]\nline_limit = 1");
    server.at_the_gate().await;
    let ticket = server.ticket("first").await;
    for on_conflict in ["wait", "queue"] {
        let full = server.submit_keyed(on_conflict, json!({ "onConflict": on_conflict })).await;
        assert_eq!(full.refusal(), (409, "LINE_FULL"), "{}", full.text);
        assert_eq!((&full.body["deploymentId"], &full.body["retryable"]), (&json!(null), &json!(true)));
    }
    assert_eq!(server.ticket("first").await, ticket, "who is in line keeps its place");
    server.cancel(&ticket, json!({})).await;
    server.ticket("wait").await;
    assert_eq!(server.project().await["lineLength"], 1);
}

#[tokio::test]
async fn what_runs_is_not_preempted_where_the_policy_forbids_it() {
    let server = TestServer::gated_with("[projects.web]\npreempt = \"never\"");
    let holder = server.at_the_gate().await;
    let ticket = server.ticket("key").await;
    let refused = server.cancel(&holder, json!({ "supersededBy": ticket })).await;
    assert_eq!(refused.refusal(), (409, "PREEMPTION_REFUSED"), "{}", refused.text);
    assert_eq!(server.deployment(&holder, "").await.body["cancelRequestedAt"], json!(null));
    assert_eq!(server.cancel(&holder, json!({})).await.status, 202, "a plain cancel is no preemption");
    assert_eq!(server.finished(&holder).await["error"]["code"], "CANCELLED");
}

#[tokio::test]
async fn what_runs_is_preempted_so_often_and_then_one_must_land() {
    let server = TestServer::gated_with("[projects.web]\npreempt = { times = 1 }");
    let wish = json!({ "onConflict": "queue" });
    let first = server.at_the_gate().await;
    let second = server.accepted(wish.clone()).await;
    assert_eq!(server.cancel(&first, json!({ "supersededBy": second })).await.status, 202);
    assert_eq!(server.finished(&first).await["supersededBy"], *second);
    server.event(&second, |event| event["type"] == "log").await;
    let third = server.accepted(wish.clone()).await;
    let refused = server.cancel(&second, json!({ "supersededBy": third })).await;
    assert_eq!(refused.refusal(), (409, "PREEMPTION_REFUSED"), "{}", refused.text);
    server.open_gate();
    assert_eq!(server.finished(&second).await["status"], "SUCCEEDED");
    assert_eq!(server.finished(&third).await["status"], "SUCCEEDED");
    server.close_gate();
    let fourth = server.at_the_gate().await;
    let fifth = server.accepted(wish).await;
    assert_eq!(server.cancel(&fourth, json!({ "supersededBy": fifth })).await.status, 202, "one has landed since");
    assert_eq!(server.finished(&fourth).await["supersededBy"], *fifth);
    server.open_gate();
    server.finished(&fifth).await;
}

#[tokio::test]
async fn a_project_that_the_configuration_pauses_keeps_its_line_and_gives_newcomers_a_place() {
    let mut server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let queued = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let kept = server.submit_keyed("kept", json!({ "pipeline": "quick", "onConflict": "queue" })).await.id();
    server.configure(&gated_config("[projects.web]\npaused = true"));
    server.open_gate();
    assert!(server.terminate().success());
    server.boot();
    assert_eq!(server.finished(&holder).await["status"], "SUCCEEDED", "what runs goes on");
    let hold = json!({ "kind": "configuration" });
    let refused = server.submit_keyed("refuse", json!({ "onConflict": "refuse" })).await;
    assert_eq!(refused.refusal(), (409, "PROJECT_PAUSED"), "{}", refused.text);
    assert_eq!((&refused.body["ticket"], &refused.body["hold"]), (&json!(null), &hold));
    let waits = server.submit_keyed("wait", json!({ "pipeline": "quick", "onConflict": "wait" })).await;
    assert_eq!(waits.refusal(), (409, "PROJECT_PAUSED"), "{}", waits.text);
    assert_eq!((&waits.body["queuePosition"], &waits.body["hold"]), (&json!(3), &hold));
    assert_eq!(waits.body["deploymentId"], json!(null));
    let in_line = server.submit_keyed("queue", json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    assert_eq!((in_line.status, &in_line.body["queuePosition"]), (202, &json!(4)), "{}", in_line.text);
    assert_eq!(in_line.body["hold"], hold);
    let replayed = server.submit_keyed("kept", json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    assert_eq!((replayed.status, replayed.id()), (202, kept.clone()), "what was let in before is still answered");
    let project = server.project().await;
    assert_eq!((&project["hold"], &project["holder"], &project["lineLength"]), (&hold, &json!(null), &json!(4)));
    server.configure(&gated_config(""));
    assert!(server.terminate().success());
    server.boot();
    // The next decision serves the line before it admits anybody.
    let wish = json!({ "pipeline": "quick", "onConflict": "refuse" });
    assert_eq!(server.submit_keyed("new", wish).await.refusal(), (409, "DEPLOYMENT_IN_PROGRESS"));
    for id in [&queued, &kept] {
        assert_eq!(server.finished(id).await["status"], "SUCCEEDED", "in the order in which they came");
    }
    let ticket = waits.body["ticket"].as_str().unwrap();
    let turn = server.deployment(ticket, "/turn?maxWaitSeconds=30").await;
    assert_eq!((turn.status, &turn.body["queuePosition"]), (200, &json!(0)), "{}", turn.text);
    server.submit_keyed("wait", json!({ "pipeline": "quick", "onConflict": "wait" })).await;
    server.finished(&in_line.id()).await;
}

#[tokio::test]
async fn a_deadline_ends_the_wait_in_line() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let wish = json!({ "onConflict": "wait", "pipeline": "quick", "deadlineSeconds": 1 });
    let ticket = server.submit_keyed("key", wish.clone()).await.body["ticket"].as_str().unwrap().to_owned();
    let queued = server.accepted(json!({ "onConflict": "queue", "pipeline": "quick", "deadlineSeconds": 1 })).await;
    // A poll keeps a ticket alive, but not beyond its own deadline.
    let turn = server.deployment(&ticket, "/turn?maxWaitSeconds=60").await;
    assert_eq!((turn.status, &turn.body["error"]["code"]), (200, &json!("EXPIRED")));
    assert_eq!(server.finished(&queued).await["error"]["code"], "EXPIRED");
    let late = server.submit_keyed("key", wish).await;
    assert_eq!(late.refusal(), (409, "DEADLINE_PASSED"), "{}", late.text);
    assert_eq!(late.body["deploymentId"], json!(null));
    // It bounds the wait in line, not the run.
    assert_eq!(server.deployment(&holder, "").await.body["status"], "RUNNING");
    assert_eq!(server.project().await["lineLength"], 0);
}

#[tokio::test]
async fn an_operator_frees_the_slot_and_the_worker_stops_its_children() {
    let server = TestServer::gated_with(
        r#"
[[projects.web.pipelines.pid.phases]]
name = "pid"
run = '''
echo $$
flock --shared "$TEST_DIR/gate" true
'''
"#,
    );
    let free = server.post("/v1/projects/web/release", json!({ "reason": "just looking" })).await;
    assert_eq!((free.status, &free.body["released"]), (200, &json!(null)));
    let holder = server.accepted(json!({ "pipeline": "pid" })).await;
    let line = server.event(&holder, |event| event["type"] == "log").await;
    let pid = Pid::from_raw(line["lines"][0].as_str().unwrap().parse().unwrap()).unwrap();
    assert!(processes::runs(pid));
    let next = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;

    let changed = server.post("/v1/projects/web/release", json!({ "reason": "stuck", "deploymentId": next })).await;
    assert_eq!(changed.refusal(), (409, "HOLDER_CHANGED"), "{}", changed.text);
    assert!(changed.body["message"].as_str().unwrap().contains("web#1 holds"), "{}", changed.text);
    assert_eq!(server.deployment(&holder, "").await.body["status"], "RUNNING");

    let alive = server.post("/v1/projects/web/release", json!({ "reason": "stuck", "deploymentId": holder })).await;
    assert_eq!(alive.refusal(), (409, "HOLDER_ALIVE"), "{}", alive.text);
    assert!(alive.body["message"].as_str().unwrap().contains("phase pid"), "{}", alive.text);
    assert_eq!(server.deployment(&holder, "").await.body["status"], "RUNNING");
    assert_eq!(server.audit(&holder), [], "nothing was done");

    let body = json!({ "reason": "stuck", "deploymentId": holder, "evenIfAlive": true });
    let freed = server.post("/v1/projects/web/release", body).await;
    assert_eq!((freed.status, &freed.body["released"]["id"]), (200, &json!(holder)), "{}", freed.text);
    let error = &freed.body["released"]["error"];
    assert_eq!((&error["code"], &freed.body["released"]["status"]), (&json!("RELEASED"), &json!("FAILED")));
    assert!(error["message"].as_str().unwrap().contains("stuck"));
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
    assert!(processes::gone(pid), "its command still runs");
    assert_eq!(
        server.finished(&holder).await,
        freed.body["released"],
        "what its worker says afterwards changes nothing"
    );

    // The slot that is kept for a ticket, too.
    let holder = server.at_the_gate().await;
    let ticket = server.ticket("key").await;
    server.open_gate();
    server.finished(&holder).await;
    let freed = server.post("/v1/projects/web/release", json!({ "reason": "not needed" })).await;
    assert_eq!(
        (&freed.body["released"]["id"], &freed.body["released"]["status"]),
        (&json!(ticket), &json!("CANCELLED"))
    );
    assert_eq!(server.project().await["holder"], json!(null));
}

#[tokio::test]
async fn a_cancel_is_idempotent_whatever_its_content_type() {
    let server = TestServer::gated();
    let cancel = async |id: &str, kind: Option<&str>, body: &'static str| {
        let request = server.request(Method::POST, &format!("/v1/projects/web/deployments/{id}/cancel"));
        let request = kind.into_iter().fold(request, |request, kind| request.header("Content-Type", kind));
        send(if body.is_empty() { request } else { request.body(body) }).await
    };
    let clothes = [
        (None, ""),
        (Some("application/json"), ""),
        (Some("application/x-www-form-urlencoded"), ""),
        (Some("text/plain"), "{}"),
        (None, r#"{"reason":"enough"}"#),
        (Some("nonsense"), r#"{"supersededBy":null}"#),
    ];
    let holder = server.at_the_gate().await;
    // Who waits ends at once.
    for (kind, body) in clothes {
        let queued = server.accepted(json!({ "onConflict": "queue" })).await;
        let ended = cancel(&queued, kind, body).await;
        assert_eq!(
            (ended.status, &ended.body["status"]),
            (202, &json!("CANCELLED")),
            "{kind:?} {body}: {}",
            ended.text
        );
        assert_eq!(ended.body["error"]["code"], "CANCELLED");
        for (kind, body) in clothes {
            let again = cancel(&queued, kind, body).await;
            assert_eq!((again.status, &again.body), (200, &ended.body), "{kind:?} {body}");
        }
    }
    // Who runs is asked to stop, and ends when its worker has stopped it.
    let requested = cancel(&holder, None, r#"{"reason":"enough"}"#).await;
    assert_eq!(requested.status, 202);
    let again = cancel(&holder, None, "").await;
    assert_eq!((again.status, &again.body["cancelRequestedAt"]), (200, &requested.body["cancelRequestedAt"]));
    let ended = server.finished(&holder).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("CANCELLED"), &json!("CANCELLED")));
    assert!(ended["error"]["message"].as_str().unwrap().contains("enough"), "{ended}");
    assert_eq!(ended["cancelRequestedAt"], requested.body["cancelRequestedAt"]);
    assert_eq!(cancel(&holder, None, "").await.body, ended);
    assert_eq!(server.project().await["holder"], json!(null));
    // What finished anyway stays what it became.
    let done = server.accepted(json!({ "pipeline": "quick" })).await;
    let done = server.finished(&done).await;
    let late = cancel(done["id"].as_str().unwrap(), None, "").await;
    assert_eq!((late.status, late.body), (200, done));
}

#[tokio::test]
async fn a_job_that_meets_a_deployment_of_its_own_run_is_told_so() {
    let server = TestServer::gated();
    let run = "https://ci.example/run/17";
    server.accepted(json!({ "url": run })).await;
    let own = server.submit(json!({ "url": run })).await;
    assert_eq!((own.status, &own.body["relation"]), (409, &json!("self")));
    let other = server.submit(json!({ "url": "https://ci.example/run/18" })).await;
    assert_eq!((other.status, &other.body["relation"]), (409, &json!("other")));
}

#[tokio::test]
async fn a_dry_run_tells_the_plan_and_stores_nothing() {
    let server = TestServer::gated_with(
        r#"
[[projects.web.pipelines.full.phases]]
name = "migrate"
run = "true"
rollback = "true"
protected = true
[[projects.web.pipelines.full.phases]]
name = "verify"
check = { url = "http://127.0.0.1:9/healthz", timeout = "1s", interval = "1s" }
"#,
    );
    let plan = async |body: Value| {
        let request = server.request(Method::POST, "/v1/projects/web/deployments?dryRun=true");
        let answer = send(request.json(&body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    };
    let first = plan(json!({ "pipeline": "full", "ref": "main" })).await;
    assert_eq!(
        first["phases"],
        json!([
            { "name": "migrate", "kind": "run", "protected": true, "rollback": true },
            { "name": "verify", "kind": "check", "protected": false, "rollback": false },
        ])
    );
    assert_eq!((&first["holder"], &first["queuePosition"]), (&json!(null), &json!(0)));
    assert_eq!(first["expectedWait"], json!({ "p50Seconds": 0, "p90Seconds": 0 }));
    assert!(first["changes"].as_array().unwrap().contains(&json!({ "field": "ref", "from": null, "to": "main" })));
    assert_eq!(server.project().await["revision"], 0);

    let done = server.accepted(json!({ "pipeline": "quick", "ref": "main", "inputs": { "a": "1" } })).await;
    server.finished(&done).await;
    let same = plan(json!({ "pipeline": "quick", "ref": "main", "inputs": { "a": "1" } })).await;
    assert_eq!(same["changes"], json!([]));
    let other = plan(json!({ "pipeline": "quick", "ref": "fix", "inputs": { "a": "2", "b": "3" } })).await;
    assert_eq!(
        other["changes"],
        json!([
            { "field": "inputs.a", "from": "1", "to": "2" },
            { "field": "inputs.b", "from": null, "to": "3" },
            { "field": "ref", "from": "main", "to": "fix" },
        ])
    );
    let holder = server.at_the_gate().await;
    let behind = server.accepted(json!({ "onConflict": "queue", "pipeline": "quick" })).await;
    let before = server.project().await;
    let third = plan(json!({ "pipeline": "quick" })).await;
    assert_eq!((&third["holder"]["id"], &third["queuePosition"]), (&json!(holder), &json!(2)));
    let after = server.project().await;
    assert_eq!((&before["revision"], &before["lineLength"]), (&after["revision"], &after["lineLength"]));
    let real = send(server.request(Method::POST, "/v1/projects/web/deployments?dryRun=false").json(&json!({}))).await;
    assert_eq!(real.refusal(), (409, "DEPLOYMENT_IN_PROGRESS"));
    server.open_gate();
    server.finished(&behind).await;
}

#[tokio::test]
async fn deployments_are_listed_newest_first_a_page_at_a_time() {
    let server = TestServer::gated();
    let mut made = Vec::new();
    for pipeline in ["quick", "broken", "quick", "broken", "quick"] {
        let id = server.accepted(json!({ "pipeline": pipeline })).await;
        server.finished(&id).await;
        made.push(id);
    }
    made.push(server.at_the_gate().await);
    made.push(server.accepted(json!({ "onConflict": "queue" })).await);
    made.push(server.accepted(json!({ "onConflict": "queue" })).await);
    made.reverse();
    let ids = |page: &Value| -> Vec<String> {
        page["deployments"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut listed = Vec::new();
    let mut path = "/v1/projects/web/deployments?limit=3".to_owned();
    loop {
        let page = server.get(&path).await;
        assert_eq!(page.status, 200);
        listed.extend(ids(&page.body));
        match page.body["nextCursor"].as_str() {
            Some(cursor) => path = format!("/v1/projects/web/deployments?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(listed, made);
    let all = server.get("/v1/projects/web/deployments").await.body;
    assert_eq!(ids(&all), made);
    let places: Vec<_> =
        all["deployments"].as_array().unwrap().iter().map(|one| one["queuePosition"].clone()).collect();
    assert_eq!(places[..3], [json!(2), json!(1), json!(0)]);
    for (status, indexes) in [
        ("PENDING", vec![0, 1]),
        ("RUNNING", vec![2]),
        ("SUCCEEDED", vec![3, 5, 7]),
        ("FAILED", vec![4, 6]),
        ("CANCELLED", vec![]),
    ] {
        let page = server.get(&format!("/v1/projects/web/deployments?status={status}")).await.body;
        let expected: Vec<_> = indexes.iter().map(|index: &usize| made[*index].clone()).collect();
        assert_eq!(ids(&page), expected, "{status}");
    }
    let first = server.get("/v1/projects/web/deployments?status=SUCCEEDED&limit=2").await.body;
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = server.get(&format!("/v1/projects/web/deployments?status=SUCCEEDED&limit=2&cursor={cursor}")).await.body;
    assert_eq!((ids(&rest), &rest["nextCursor"]), (vec![made[7].clone()], &json!(null)));
}

#[tokio::test]
async fn projects_are_listed_by_name_a_page_at_a_time() {
    let names = ["alpha", "Beta", "beta.2", "zeta_9"];
    let more: String = names
        .map(|name| format!("[[projects.{name:?}.pipelines.deploy.phases]]\nname = \"x\"\nrun = \"true\"\n"))
        .concat();
    let server = TestServer::gated_with(&more);
    let holder = server.at_the_gate().await;
    let mut listed = Vec::new();
    let mut path = "/v1/projects?limit=2".to_owned();
    loop {
        let page = server.get(&path).await.body;
        listed.extend(page["projects"].as_array().unwrap().clone());
        match page["nextCursor"].as_str() {
            Some(cursor) => path = format!("/v1/projects?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let found: Vec<_> = listed.iter().map(|one| one["project"].as_str().unwrap()).collect();
    assert_eq!(found, ["Beta", "alpha", "beta.2", "web", "zeta_9"]);
    assert_eq!(listed[3]["holder"]["id"], *holder);
    assert!(listed.iter().filter(|one| one["project"] != "web").all(|one| one["holder"] == json!(null)));
    // Their slots have nothing to do with each other.
    let other = server.post("/v1/projects/alpha/deployments", json!({})).await;
    assert_eq!(other.status, 202);
    let path = format!("/v1/projects/alpha/deployments/{}/completion", other.id());
    assert_eq!(server.get(&path).await.body["status"], "SUCCEEDED");
    assert_eq!(server.deployment(&other.id(), "").await.refusal(), (404, "NOT_FOUND"), "it is another project's");
    let view = server.get("/v1/projects/alpha").await.body;
    assert_eq!((&view["lastOutcome"]["id"], &view["holder"]), (&other.body["id"], &json!(null)));
}
