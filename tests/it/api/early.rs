//! The look at the slot before a large body, or one of unknown length, is decided upon.

use reqwest::{Body, Method};
use serde_json::json;

use crate::harness::{Answer, TestServer, send};

/// Submits without a key and without a length.
async fn submit_streamed(server: &TestServer, body: Vec<u8>) -> Answer {
    let pieces: Vec<_> = body.chunks(64 << 10).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let request = server.request(Method::POST, "/v1/projects/web/deployments");
    let body = Body::wrap_stream(futures_util::stream::iter(pieces));
    send(request.header("Content-Type", "application/json").body(body)).await
}

#[tokio::test]
async fn a_held_slot_is_told_to_who_sends_too_much_and_is_no_conflict_for_who_wants_to_be_queued() {
    let server = TestServer::gated();
    let holder = server.submit(json!({})).await.body;

    let refused = submit_streamed(&server, br#"{"actor": "bob"}"#.to_vec()).await;
    assert_eq!((refused.status, &refused.body["deploymentId"]), (409, &holder["id"]), "{}", refused.text);
    let too_much = submit_streamed(&server, vec![b' '; 9 << 20]).await;
    assert_eq!((too_much.status, &too_much.body["deploymentId"]), (409, &holder["id"]), "{}", too_much.text);
    let queued = submit_streamed(&server, br#"{"onConflict": "queue", "pipeline": "quick"}"#.to_vec()).await;
    assert_eq!((queued.status, &queued.body["queuePosition"]), (202, &json!(1)), "{}", queued.text);

    server.open_gate();
    assert_eq!(server.finished(queued.body["id"].as_str().unwrap()).await["status"], "SUCCEEDED");
}
