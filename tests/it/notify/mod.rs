//! Notifications: a real server tells real targets.

mod addresses;
mod chats;
mod configured;
mod forges;
mod outbox;
mod servers;
mod webhooks;

use serde_json::{Value, json};

use crate::harness::{TestServer, client_with, receiver::Receiver, send};

/// The rows of the outbox, the last one first.
async fn rows(server: &TestServer, query: &str) -> Vec<Value> {
    let answer = server.get(&format!("/v1/notifications{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body["notifications"].as_array().unwrap().clone()
}

/// Waits until the outbox has so many rows of this kind, and answers them.
async fn until_rows(server: &TestServer, query: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    loop {
        let found = rows(server, query).await;
        if fits(&found) {
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A deployment that its client runs: its id and its lease's secret.
async fn claimed(server: &TestServer, body: Value) -> (String, String) {
    let mut wish = json!({ "executor": "client", "claim": true, "leaseSeconds": 600 });
    wish.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let answer = server.submit(wish).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    (answer.id(), answer.body["lease"]["secret"].as_str().unwrap().to_owned())
}

async fn finish(server: &TestServer, id: &str, secret: &str, body: Value) {
    let path = format!("/v1/projects/web/deployments/{id}/finish");
    let request = server.request(reqwest::Method::POST, &path).header("Singletrack-Lease", secret);
    let answer = send(request.json(&body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// The types of the next webhooks, in the order in which they came.
async fn kinds(receiver: &Receiver, count: usize) -> Vec<String> {
    receiver.some(count).await.iter().map(|it| it.kind()).collect()
}

/// The answer of a client with this token.
async fn as_somebody(server: &TestServer, token: &str, path: &str) -> crate::harness::Answer {
    send(client_with(token).get(format!("{}{path}", server.base))).await
}
