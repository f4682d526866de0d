//! Servers that were told to stop: nobody but their own pipelines notices, whatever that takes.

mod calls;
mod clients;
mod signals;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, gated_config, send};

/// Pipelines have all the time that they want, and whoever falls silent is soon known to be.
const PATIENT: &str = r#"
shutdown_grace = "10m"
[limits]
attendance = "2s"
lock_delay = "1s"
unclaimed = "1s"
"#;

/// A patient server, and the deployment that runs on it, at the gate.
async fn busy(more: &str) -> (TestServer, String) {
    let server = TestServer::start(&gated_config(&format!("{PATIENT}{more}")));
    server.close_gate();
    let id = server.at_the_gate().await;
    (server, id)
}

/// Tells it to stop, and waits until it says that it drains.
async fn drain(server: &TestServer) {
    server.signal(Signal::TERM);
    loop {
        let ready = server.get("/readyz").await;
        if ready.status == 503 {
            assert_eq!(
                (&ready.body["status"], ready.header("retry-after")),
                (&json!("draining"), "1"),
                "{}",
                ready.text
            );
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Work of a client that the test plays: a deployment of a project, and the secret of its lease.
struct Work {
    path: String,
    secret: String,
}

impl Work {
    async fn begin(server: &TestServer, project: &str) -> Self {
        let wish = json!({ "executor": "client", "claim": true, "leaseSeconds": 6 });
        let answer = server.post(&format!("/v1/projects/{project}/deployments"), wish).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        let secret = answer.body["lease"]["secret"].as_str().unwrap().to_owned();
        Work { path: format!("/v1/projects/{project}/deployments/{}", answer.id()), secret }
    }

    async fn tell(&self, server: &TestServer, below: &str, body: Value) -> Answer {
        let request = server.request(reqwest::Method::POST, &format!("{}{below}", self.path));
        send(request.header("Singletrack-Lease", &self.secret).json(&body)).await
    }

    async fn beat(&self, server: &TestServer, seconds: u64) -> Answer {
        self.tell(server, &format!("/heartbeat?maxWaitSeconds={seconds}"), Value::Null).await
    }
}

/// Waits for an end: of a deployment of whichever project.
async fn end_of(server: &TestServer, path: &str) -> Value {
    loop {
        let answer = server.get(&format!("{path}/completion?maxWaitSeconds=60")).await;
        if answer.status == 200 {
            return answer.body;
        }
        assert_eq!(answer.status, 408, "{}", answer.text);
    }
}
