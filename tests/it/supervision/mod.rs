//! What goes on beside the requests: nobody's trouble, and no lost line of the log, may stop it for the others.

mod log;

use serde_json::{Value, json};

use crate::harness::{Answer, TestServer};

/// Limits so short that what falls silent is soon known to have.
const SHORT: &str = r#"
[limits]
lease = "2s"
heartbeat = "300ms"
kill_budget = "500ms"
lock_delay = "1s"
"#;

/// Takes the slot of a project for a worker that is never heard of again.
async fn lost_worker(server: &TestServer, project: &str) -> String {
    let wish = json!({ "executor": "client", "claim": true, "leaseSeconds": 2 });
    let taken = server.post(&format!("/v1/projects/{project}/deployments"), wish).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    taken.id()
}

/// The end of a deployment, which must come within a minute.
async fn end_of(server: &TestServer, project: &str, id: &str) -> Value {
    let path = format!("/v1/projects/{project}/deployments/{id}/completion?maxWaitSeconds=60");
    let answer = server.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.body
}

/// The value of a metric, which must be there.
async fn metric(server: &TestServer, name: &str) -> u64 {
    let text = server.get("/metrics").await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// One check of `/readyz`.
fn check<'a>(ready: &'a Answer, name: &str) -> &'a Value {
    let checks = ready.body["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {}", ready.text))
}
