//! What a draining server answers, call by call.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Work, busy, drain, end_of};
use crate::{
    agent::{TestAgent, by_agents},
    harness::{Answer, TestServer, gated_config, send},
};

/// A second project whose pipelines run on the server.
const API: &str = r#"
[projects.api.pipelines.quick]
[[projects.api.pipelines.quick.phases]]
name = "only"
run = "echo done"
"#;

async fn submit_to(server: &TestServer, project: &str, key: &str, wish: &Value) -> Answer {
    let request = server.request(Method::POST, &format!("/v1/projects/{project}/deployments"));
    send(request.header("Idempotency-Key", key).json(wish)).await
}

#[tokio::test]
async fn work_that_is_there_goes_on_while_a_server_drains() {
    let (mut server, holder) = busy("").await;
    let work = Work::begin(&server, "api").await;
    let ticket = server.ticket("ticket").await;
    drain(&server).await;
    assert_eq!(work.beat(&server, 0).await.status, 200);
    let reports = json!({ "first": 1, "reports": [{ "type": "progress", "progress": 40, "message": "half" }] });
    assert_eq!(work.tell(&server, "/reports", reports).await.status, 200);
    let events = server.get(&format!("{}/events?after=0&maxWaitSeconds=0", work.path)).await;
    assert!(
        events.body["events"].as_array().unwrap().iter().any(|event| event["message"] == "half"),
        "{}",
        events.text
    );
    assert_eq!(server.deployment(&ticket, "/turn?maxWaitSeconds=0").await.refusal(), (408, "STILL_WAITING"));
    assert_eq!(server.cancel(&ticket, json!({})).await.body["status"], "CANCELLED");
    assert_eq!(work.tell(&server, "/finish", json!({ "status": "SUCCEEDED" })).await.status, 200);
    assert_eq!(end_of(&server, &work.path).await["status"], "SUCCEEDED");
    assert_eq!(server.project().await["holder"]["id"], json!(holder));
    server.open_gate();
    assert!(server.exited().success());
    server.boot();
    assert_eq!(server.finished(&holder).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn new_work_is_refused_while_a_server_drains_and_told_to_ask_again() {
    let (mut server, _) = busy("").await;
    let known = server.submit_keyed("known", json!({ "onConflict": "queue", "pipeline": "quick" })).await.id();
    drain(&server).await;
    for wish in [
        json!({ "pipeline": "quick" }),
        json!({ "pipeline": "quick", "onConflict": "queue" }),
        json!({ "executor": "client", "claim": true }),
    ] {
        for project in ["web", "other"] {
            let refused = server.post(&format!("/v1/projects/{project}/deployments"), wish.clone()).await;
            if project == "other" && wish["executor"] != "client" {
                assert_eq!(refused.status, 404, "{}", refused.text);
                continue;
            }
            assert_eq!(refused.refusal(), (503, "SHUTTING_DOWN"), "{}", refused.text);
            assert_eq!((refused.header("retry-after"), &refused.body["retryable"]), ("1", &json!(true)));
        }
    }
    let keyed = json!({ "pipeline": "quick", "onConflict": "wait" });
    assert_eq!(server.submit_keyed("new", keyed.clone()).await.refusal(), (503, "SHUTTING_DOWN"));
    // A question is no work, and what was granted before stays granted.
    let plan = server.post("/v1/projects/web/deployments?dryRun=true", json!({ "pipeline": "quick" })).await;
    assert_eq!(plan.status, 200, "{}", plan.text);
    let again = server.submit_keyed("known", json!({ "onConflict": "queue", "pipeline": "quick" })).await;
    assert_eq!((again.status, again.id(), again.header("idempotency-replayed")), (202, known.clone(), "true"));
    // Nothing of all that was kept.
    assert_eq!(server.deployments().await.len(), 2);
    server.open_gate();
    assert!(server.exited().success());
    server.boot();
    assert_eq!(server.finished(&known).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn polls_are_answered_once_when_the_drain_begins_and_parked_again_after_that() {
    let (mut server, holder) = busy("").await;
    let work = Work::begin(&server, "api").await;
    let ticket = server.ticket("ticket").await;
    let seen = server.deployment(&holder, "").await.body["revision"].clone();
    let last = server.deployment(&holder, "/events?after=0&maxWaitSeconds=0").await.body["last"].as_u64().unwrap();
    let events = format!("/events?after={last}&maxWaitSeconds=60");
    let polls = async {
        tokio::join!(
            server.deployment(&holder, "/completion?maxWaitSeconds=60"),
            server.deployment(&ticket, "/turn?maxWaitSeconds=60"),
            server.deployment(&holder, &events),
            work.beat(&server, 60),
        )
    };
    let stream = server.stream(&holder, Some(last)).await;
    let begins = async {
        server.parked(5).await;
        drain(&server).await;
    };
    let ((completion, turn, events, beat), ()) = tokio::join!(polls, begins);
    assert_eq!((completion.refusal(), turn.refusal()), ((408, "STILL_RUNNING"), (408, "STILL_WAITING")));
    assert_eq!((events.status, &events.body["events"]), (200, &json!([])));
    assert_eq!((beat.status, &beat.body["cancelRequested"]), (200, &json!(false)));
    for answer in [&completion, &turn, &events, &beat] {
        assert_eq!(answer.header("connection"), "close", "a balancer cannot move it: {}", answer.text);
    }
    let frames = stream.rest().await;
    assert!(frames.iter().all(|frame| frame.name == "progress"), "{frames:?}");
    assert_eq!(server.deployment(&holder, "").await.body["revision"], seen);
    // From now on they are parked as ever, until what they wait for comes.
    let polls =
        async { tokio::join!(server.deployment(&ticket, "/completion?maxWaitSeconds=60"), work.beat(&server, 60)) };
    let cancels = async {
        server.parked(2).await;
        assert_eq!(server.cancel(&ticket, json!({})).await.status, 202);
        server.parked(1).await;
        assert_eq!(server.post(&format!("{}/cancel", work.path), json!({})).await.status, 202);
    };
    let ((ended, beat), ()) = tokio::join!(polls, cancels);
    assert_eq!((ended.status, &ended.body["status"]), (200, &json!("CANCELLED")), "{}", ended.text);
    assert_eq!(beat.body["cancelRequested"], true, "{}", beat.text);
    assert_eq!(work.tell(&server, "/finish", json!({ "status": "CANCELLED" })).await.status, 200);
    server.open_gate();
    assert!(server.exited().success());
}

#[tokio::test]
async fn a_ticket_whose_turn_comes_during_a_drain_is_deployed_after_the_restart() {
    let (mut server, _) = busy(API).await;
    let work = Work::begin(&server, "api").await;
    let wish = json!({ "pipeline": "quick", "onConflict": "wait" });
    let waits = submit_to(&server, "api", "ticket", &wish).await;
    let ticket = format!("/v1/projects/api/deployments/{}", waits.body["ticket"].as_str().unwrap());
    let queued = submit_to(&server, "api", "queued", &json!({ "pipeline": "quick", "onConflict": "queue" })).await.id();
    // Who is silent for as long as this one is longer than a deployment may stay unclaimed.
    let silent = server.ticket("silent").await;
    drain(&server).await;
    assert_eq!(work.tell(&server, "/finish", json!({ "status": "SUCCEEDED" })).await.status, 200);
    assert_eq!(server.get(&format!("{ticket}/turn?maxWaitSeconds=60")).await.status, 200);
    let taken = submit_to(&server, "api", "ticket", &wish).await;
    assert_eq!((taken.status, &taken.body["status"]), (202, &json!("PENDING")), "{}", taken.text);
    assert_eq!(server.deployment(&silent, "/turn?maxWaitSeconds=0").await.status, 408);
    assert_eq!(server.finished(&silent).await["error"]["code"], "ABANDONED", "the silent are judged during a drain");
    let kept = server.get(&ticket).await;
    assert_eq!((&kept.body["status"], &kept.body["queuePosition"]), (&json!("PENDING"), &json!(0)), "{}", kept.text);
    server.open_gate();
    assert!(server.exited().success());
    server.boot();
    assert_eq!(end_of(&server, &ticket).await["status"], "SUCCEEDED");
    assert_eq!(end_of(&server, &format!("/v1/projects/api/deployments/{queued}")).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_run_whose_turn_comes_during_a_drain_gets_its_slot_and_its_lease() {
    let (mut server, _) = busy("").await;
    let work = Work::begin(&server, "other").await;
    let wish = json!({ "executor": "client", "claim": true, "onConflict": "wait" });
    let waits = submit_to(&server, "other", "ticket", &wish).await;
    let path = format!("/v1/projects/other/deployments/{}", waits.body["ticket"].as_str().unwrap());
    drain(&server).await;
    assert_eq!(work.tell(&server, "/finish", json!({ "status": "SUCCEEDED" })).await.status, 200);
    assert_eq!(server.get(&format!("{path}/turn?maxWaitSeconds=60")).await.status, 200);
    let taken = submit_to(&server, "other", "ticket", &wish).await;
    assert_eq!((taken.status, &taken.body["status"]), (202, &json!("RUNNING")), "{}", taken.text);
    let next = Work { path, secret: taken.body["lease"]["secret"].as_str().unwrap().to_owned() };
    assert_eq!(next.tell(&server, "/finish", json!({ "status": "SUCCEEDED" })).await.status, 200);
    server.open_gate();
    assert!(server.exited().success());
}

#[tokio::test]
async fn an_agent_gets_nothing_new_from_a_draining_server_but_what_it_was_given_before() {
    let config = by_agents("shutdown_grace = \"10m\"\n[limits]\nattendance = \"2s\"\nlock_delay = \"1s\"");
    let mut server = TestServer::start(&format!("{config}{}", gated_here()));
    server.close_gate();
    let here = server.post("/v1/projects/gated/deployments", json!({})).await.id();
    let here = format!("/v1/projects/gated/deployments/{here}");
    let offer = |id: &str| json!({ "worker": "a", "claimId": id, "projects": { "web": ["quick"] }, "capacity": 1 });
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    let claimed = server.post("/v1/claims?maxWaitSeconds=0", offer("one")).await;
    assert_eq!((claimed.status, &claimed.body["deployment"]["id"]), (200, &json!(id)), "{}", claimed.text);
    let next = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    // It is claimed as often as not before the server is told to stop.
    while server.get(&here).await.body["status"] != "RUNNING" {
        tokio::task::yield_now().await;
    }
    drain(&server).await;
    let again = server.post("/v1/claims?maxWaitSeconds=0", offer("one")).await;
    assert_eq!((again.status, &again.body["lease"]), (200, &claimed.body["lease"]), "{}", again.text);
    let refused = server.post("/v1/claims?maxWaitSeconds=60", offer("two")).await;
    assert_eq!((refused.refusal(), refused.header("retry-after")), ((503, "SHUTTING_DOWN"), "1"), "{}", refused.text);
    let finish = server.request(Method::POST, &format!("/v1/projects/web/deployments/{id}/finish"));
    let secret = claimed.body["lease"]["secret"].as_str().unwrap();
    let finish = finish.header("Singletrack-Lease", secret).json(&json!({ "status": "SUCCEEDED" }));
    assert_eq!(send(finish).await.status, 200);
    let refused = server.post("/v1/claims?maxWaitSeconds=60", offer("three")).await;
    assert_eq!(refused.refusal(), (503, "SHUTTING_DOWN"), "{}", refused.text);
    server.open_gate();
    assert!(server.exited().success());
    server.boot();
    let _agent = TestAgent::start(&server);
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
}

/// A project whose pipeline runs on the server and waits at the gate.
fn gated_here() -> String {
    gated_config("").replace("projects.web.", "projects.gated.")
}
