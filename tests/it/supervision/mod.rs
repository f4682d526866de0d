//! What goes on beside the requests: nobody's trouble, and no lost line of the log, may stop it for the others.

mod deaf;
mod log;
mod others;
mod outage;
mod store;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, send};

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
    Worker::start(server, project, 2).await.id
}

/// Somebody who holds the slot of a project, under a lease.
struct Worker {
    project: String,
    id: String,
    secret: String,
}

impl Worker {
    async fn start(server: &TestServer, project: &str, lease_seconds: u64) -> Self {
        let wish = json!({ "executor": "client", "claim": true, "leaseSeconds": lease_seconds });
        let taken = server.post(&format!("/v1/projects/{project}/deployments"), wish).await;
        assert_eq!(taken.status, 202, "{}", taken.text);
        let secret = taken.body["lease"]["secret"].as_str().unwrap().to_owned();
        Worker { project: project.to_owned(), id: taken.id(), secret }
    }

    /// A sign of life.
    async fn heartbeat(&self, server: &TestServer) -> Answer {
        let path = format!("/v1/projects/{}/deployments/{}/heartbeat", self.project, self.id);
        send(server.request(Method::POST, &path).header("Singletrack-Lease", &self.secret).json(&json!({}))).await
    }
}

/// How it stands with a deployment.
async fn status(server: &TestServer, project: &str, id: &str) -> Value {
    server.get(&format!("/v1/projects/{project}/deployments/{id}")).await.body["status"].clone()
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
