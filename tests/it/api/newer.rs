//! Which of two deployments is newer, and what that means for those who wait.

use serde_json::{Value, json};

use crate::harness::TestServer;

/// A build that waits in line; the server starts it when its turn comes.
async fn build(server: &TestServer, order: u64) -> String {
    server.accepted(json!({ "pipeline": "quick", "order": order, "onConflict": "queue" })).await
}

/// A build that holds the slot until the gate opens.
async fn running_build(server: &TestServer, order: u64) -> String {
    let id = server.accepted(json!({ "order": order })).await;
    server.event(&id, |event| event["type"] == "log").await;
    id
}

fn line(project: &Value) -> Vec<(Value, Value)> {
    let line = project["line"].as_array().unwrap();
    line.iter().map(|waiting| (waiting["id"].clone(), waiting["willBeSupersededBy"].clone())).collect()
}

fn superseded(ended: &Value) -> (&Value, &Value) {
    (&ended["error"]["code"], &ended["supersededBy"])
}

#[tokio::test]
async fn an_older_build_throws_out_no_newer_one_that_waits() {
    let server = TestServer::gated_with("[projects.web]\nline = \"latest\"");
    let holder = running_build(&server, 10).await;
    let newest = build(&server, 12).await;
    let older = server.submit(json!({ "pipeline": "quick", "order": 11, "onConflict": "queue" })).await;
    assert_eq!((older.status, &older.body["willBeSupersededBy"]), (202, &json!(newest)), "{}", older.text);
    let older = older.id();
    assert_eq!(line(&server.project().await), [(json!(newest), json!(null)), (json!(older), json!(newest))]);
    let told = server.event(&older, |event| event["type"] == "queue").await;
    assert_eq!((&told["position"], &told["willBeSupersededBy"]), (&json!(2), &json!(newest)));
    assert_eq!(server.deployment(&older, "").await.body["willBeSupersededBy"], json!(newest));
    server.open_gate();
    server.finished(&holder).await;
    assert_eq!(server.finished(&newest).await["status"], "SUCCEEDED");
    assert_eq!(superseded(&server.finished(&older).await), (&json!("SUPERSEDED"), &json!(newest)));
}

#[tokio::test]
async fn the_newest_is_served_first_and_ends_the_others_only_when_it_starts() {
    let server = TestServer::gated_with("[projects.web]\nline = \"latest\"");
    let holder = server.at_the_gate().await;
    let first = server.ticket("first").await;
    let second = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let third = server.ticket("third").await;
    let expected = [(json!(third), json!(null)), (json!(second), json!(third)), (json!(first), json!(third))];
    assert_eq!(line(&server.project().await), expected);
    for id in [&first, &second] {
        let told = server.event(id, |event| event["willBeSupersededBy"].is_string()).await;
        assert_eq!(told["type"], "queue");
    }
    let still = server.deployment(&first, "/turn?maxWaitSeconds=0").await;
    assert_eq!((still.status, &still.body["willBeSupersededBy"]), (408, &json!(third)), "{}", still.text);

    // The slot that is kept for the newest ends nobody, as long as it may come to nothing.
    server.open_gate();
    server.finished(&holder).await;
    assert_eq!(server.deployment(&third, "/turn?maxWaitSeconds=60").await.body["status"], "PENDING");
    assert_eq!(server.deployment(&first, "").await.body["status"], "PENDING");
    server.cancel(&third, json!({})).await;
    assert_eq!(server.finished(&second).await["status"], "SUCCEEDED", "it goes on, since the newest has left");
    assert_eq!(superseded(&server.finished(&first).await), (&json!("SUPERSEDED"), &json!(second)));
}

#[tokio::test]
async fn a_takeover_by_an_older_build_is_refused_and_names_the_newer_one() {
    let server = TestServer::gated();
    let holder = running_build(&server, 10).await;
    let newest = build(&server, 12).await;
    let older = build(&server, 11).await;
    let before = server.project().await;
    let refused = server.cancel(&holder, json!({ "supersededBy": older })).await;
    assert_eq!(refused.refusal(), (409, "OUTDATED"), "{}", refused.text);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("web#2 (build 12)") && message.contains("waits"), "{message}");
    assert_eq!(server.project().await, before, "a refusal changes nothing");
    // A newer one that has the slot is not cancelled either.
    let lower = server.submit(json!({ "order": 9, "onConflict": "queue", "rollback": false })).await;
    assert_eq!(lower.refusal(), (409, "OUTDATED"), "{}", lower.text);
    assert_eq!(server.cancel(&holder, json!({ "supersededBy": newest })).await.status, 202);
    assert_eq!(superseded(&server.finished(&holder).await), (&json!("SUPERSEDED"), &json!(newest)));
    server.finished(&newest).await;
    assert_eq!(superseded(&server.finished(&older).await), (&json!("SUPERSEDED"), &json!(newest)));
}

#[tokio::test]
async fn a_takeover_goes_before_the_older_ones_which_go_on_if_it_leaves() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let first = server.ticket("first").await;
    let second = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let newest = server.ticket("newest").await;
    assert_eq!(server.cancel(&holder, json!({ "supersededBy": newest })).await.status, 202);
    server.finished(&holder).await;
    let expected = [(json!(first), json!(newest)), (json!(second), json!(newest))];
    assert_eq!(line(&server.project().await), expected, "the slot is kept for the newest");
    assert_eq!(server.deployment(&newest, "/turn?maxWaitSeconds=60").await.status, 200);
    assert_eq!(server.cancel(&newest, json!({})).await.status, 202);
    assert_eq!(server.deployment(&first, "/turn?maxWaitSeconds=60").await.body["status"], "PENDING");
    assert_eq!(server.submit_keyed("first", json!({ "onConflict": "wait", "pipeline": "quick" })).await.status, 202);
    assert_eq!(server.finished(&first).await["status"], "SUCCEEDED");
    assert_eq!(server.finished(&second).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn the_cells_of_a_matrix_do_not_throw_each_other_out() {
    for with_order in [true, false] {
        let server = TestServer::gated_with("[projects.web]\nline = \"latest\"");
        let cell = |pipeline: &str, cell: u64| {
            let mut wish = json!({ "pipeline": pipeline, "url": "https://ci.example/run/7", "onConflict": "queue" });
            wish["inputs"] = json!({ "cell": cell.to_string() });
            if with_order {
                wish["order"] = json!(7);
            }
            wish
        };
        let mut cells = vec![server.accepted(cell("deploy", 1)).await];
        server.event(&cells[0], |event| event["type"] == "log").await;
        for number in 2..=4 {
            cells.push(server.accepted(cell("quick", number)).await);
        }
        let takeover = server.cancel(&cells[0], json!({ "supersededBy": cells[3] })).await;
        assert_eq!(takeover.refusal(), (409, "OUTDATED"), "{}", takeover.text);
        let expected: Vec<_> = cells[1..].iter().map(|cell| (json!(cell), json!(null))).collect();
        assert_eq!(line(&server.project().await), expected, "in the order in which they came");
        server.open_gate();
        for cell in &cells {
            assert_eq!(server.finished(cell).await["status"], "SUCCEEDED");
        }
    }
}

#[tokio::test]
async fn an_ordinary_push_never_supersedes_a_declared_rollback_that_waits() {
    let server = TestServer::gated_with("[projects.web]\nline = \"latest\"");
    let holder = running_build(&server, 10).await;
    let ordinary = build(&server, 11).await;
    let wish = json!({ "pipeline": "quick", "order": 3, "rollback": true, "onConflict": "queue" });
    let rollback = server.accepted(wish).await;
    let push = build(&server, 12).await;
    let line = line(&server.project().await);
    assert!(line.contains(&(json!(rollback), json!(null))), "{line:?}");
    assert_eq!(server.cancel(&holder, json!({ "supersededBy": push })).await.status, 202);
    assert_eq!(server.finished(&rollback).await["status"], "SUCCEEDED");
    assert_eq!(server.finished(&push).await["status"], "SUCCEEDED");
    let ended = server.finished(&ordinary).await;
    assert_eq!(ended["error"]["code"], "SUPERSEDED", "the rollback came after it, and the push is newer: {ended}");
}

#[tokio::test]
async fn one_that_leaves_at_its_deadline_throws_out_nobody() {
    let server = TestServer::gated_with("[projects.web]\nline = \"latest\"");
    server.at_the_gate().await;
    let patient = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "deadlineSeconds": 600 })).await;
    let hasty = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue", "deadlineSeconds": 1 })).await;
    assert_eq!(server.finished(&hasty).await["error"]["code"], "EXPIRED");
    assert_eq!(line(&server.project().await), [(json!(patient), json!(null))]);
    server.open_gate();
    assert_eq!(server.finished(&patient).await["status"], "SUCCEEDED");
}
