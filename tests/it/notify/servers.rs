//! Rules that change while the server runs.

use serde_json::json;

use super::{kinds, until_rows};
use crate::harness::{
    TestServer, gated_config,
    receiver::{Receiver, Reply},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_and_removes_rules() {
    let receiver = Receiver::start();
    let server = TestServer::start(&gated_config(""));
    server.finished(&server.accepted(json!({ "pipeline": "quick" })).await).await;
    let reloaded = |log: &str| log.contains("keys_changed=notify");
    let one = receiver.webhook("one", "events = [\"failed\"]");
    server.reload_by_signal(&gated_config(&one), reloaded).await;
    server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
    let told = receiver.next().await;
    assert_eq!((&*told.target, told.kind()), ("/one", "deployment.failed".to_owned()));

    // What is in the outbox for a rule that is gone waits for the rule.
    receiver.answer("/one", [Reply::Http(503, "retry-after: 1\r\n", String::new())]);
    server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
    receiver.next().await;
    let two = receiver.webhook("two", "events = [\"failed\"]");
    server.reload_by_signal(&gated_config(&two), reloaded).await;
    server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
    assert_eq!(receiver.next().await.target, "/two");
    let left = until_rows(&server, "", |rows| rows.len() == 1).await;
    assert_eq!((&left[0]["rule"], &left[0]["state"]), (&json!("one"), &json!("pending")));
    server.reload_by_signal(&gated_config(&(one + &two)), reloaded).await;
    assert_eq!(receiver.next().await.target, "/one");
    server.reload_by_signal(&gated_config(""), reloaded).await;
    server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
    until_rows(&server, "", <[_]>::is_empty).await;
    assert!(receiver.has_more().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_was_exchanged_in_its_file_signs_what_comes_next() {
    let receiver = Receiver::start();
    let server = TestServer::start(&gated_config(&receiver.webhook("hook", "events = [\"failed\"]")));
    std::fs::write(receiver.secret_file(), "new\nwhsec_b2xk\n").unwrap();
    server.finished(&server.accepted(json!({ "pipeline": "broken" })).await).await;
    let told = receiver.next().await;
    told.assert_signed_with(b"new");
    told.assert_signed_with(b"old");
    assert!(kinds(&receiver, 0).await.is_empty());
}
