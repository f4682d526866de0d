//! While callers are turned away at the door, any of them may be a worker with a sign of life, so nobody's silence counts.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{Worker, end_of, metric};
use crate::harness::{TestServer, gated_config};

/// A lease lives for 5 s.
const LIMITS: &str = r#"
[limits]
lease = "4s"
heartbeat = "300ms"
kill_budget = "500ms"
lock_delay = "1s"
"#;
/// Longer than that, and the look that follows.
const DEAFNESS: Duration = Duration::from_secs(9);

/// A sign of life over a connection of its own; `None` where it does not come through.
async fn heartbeat(server: &TestServer, worker: &Worker) -> Option<StatusCode> {
    let path = format!("{}/v1/projects/{}/deployments/{}/heartbeat", server.base, worker.project, worker.id);
    let beat = Client::new().request(Method::POST, path).header("Singletrack-Lease", &worker.secret);
    let sent = beat.json(&json!({})).timeout(Duration::from_millis(500)).send().await;
    sent.ok().map(|answer| answer.status())
}

/// Tries for longer than a lease lives, in vain.
async fn beat_in_vain(server: &TestServer, worker: &Worker) {
    let began = Instant::now();
    while began.elapsed() < DEAFNESS {
        assert_eq!(heartbeat(server, worker).await, None, "it came through");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Its signs of life come in again, and its silence counts again.
async fn is_heard_again(server: &TestServer, worker: &Worker) {
    let began = Instant::now();
    let answered = loop {
        // The places of those who have gone are not free at once.
        match heartbeat(server, worker).await {
            Some(status) => break status,
            None => assert!(began.elapsed() < Duration::from_secs(30), "it is deaf still"),
        }
    };
    assert_eq!(answered, StatusCode::OK, "it was taken for silent by a server that could not hear it");
    assert!(metric(server, "singletrack_connections_turned_away_total").await > 0);
    assert_eq!(end_of(server, &worker.project, &worker.id).await["error"]["code"], "WORKER_LOST");
}

#[tokio::test]
async fn nobody_is_taken_for_silent_while_new_connections_are_closed_for_their_number() {
    let mut server = TestServer::start(&gated_config(LIMITS));
    server.terminate();
    // Half of them are for connections.
    server.boot_with_descriptors(160);
    let worker = Worker::start(&server, "api", 4).await;
    let mut taken = Vec::new();
    for _ in 0..160 {
        let mut connection = TcpStream::connect(server.authority()).await.unwrap();
        let poll = format!(
            "GET /v1/projects/api/deployments/{}/completion?maxWaitSeconds=60 HTTP/1.1\r\nHost: {}\r\n\r\n",
            worker.id,
            server.authority()
        );
        // One that is closed at once may not take it.
        let _ = connection.write_all(poll.as_bytes()).await;
        taken.push(connection);
    }
    beat_in_vain(&server, &worker).await;
    drop(taken);
    is_heard_again(&server, &worker).await;
}

#[tokio::test]
async fn nobody_is_taken_for_silent_while_no_connection_can_be_accepted() {
    let server = TestServer::start(&gated_config(LIMITS));
    let worker = Worker::start(&server, "api", 4).await;
    let limit = rustix::process::getrlimit(Resource::Nofile).maximum;
    // What is open stays open.
    let before = prlimit(Some(server.pid()), Resource::Nofile, Rlimit { current: Some(3), maximum: limit }).unwrap();
    beat_in_vain(&server, &worker).await;
    prlimit(Some(server.pid()), Resource::Nofile, before).unwrap();
    is_heard_again(&server, &worker).await;
}
