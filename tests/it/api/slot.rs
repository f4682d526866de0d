//! The slot: who gets it, who is told what, who waits, who is superseded.

use serde_json::json;

use crate::harness::TestServer;

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
