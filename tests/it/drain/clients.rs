//! A restart under a pipeline that takes its time, as the clients of other projects see it: not at all.

use std::{fs::File, process::Stdio};

use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use super::{PATIENT, Work, drain, end_of};
use crate::harness::{TestServer, gated_config};

/// A client of the server, whose end is waited for. It is killed with a test that fails.
struct Client {
    what: String,
    child: tokio::process::Child,
}

impl Client {
    fn start(server: &TestServer, args: &[&str]) -> Self {
        let mut command = tokio::process::Command::from(server.tool(args));
        command.env("SINGLETRACK_URL", &server.base).env("USER", "tester");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        Client { what: args.join(" "), child }
    }

    async fn ends(self, code: i32) {
        let Client { what, child } = self;
        let ended = child.wait_with_output().await.unwrap();
        let [told, errors] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert_eq!(ended.status.code(), Some(code), "{what}: {told}\n{errors}");
    }
}

/// Waits until so many stand in a project's line, and somebody holds its slot.
async fn line(server: &TestServer, project: &str, length: u64) {
    loop {
        let view = server.get(&format!("/v1/projects/{project}")).await.body;
        if view["holder"]["status"] == "RUNNING" && view["lineLength"] == length {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A gate of its own for the commands of runs.
fn close(server: &TestServer, name: &str) -> File {
    let gate = File::create(server.path(name)).unwrap();
    flock(&gate, FlockOperation::LockExclusive).unwrap();
    gate
}

const HOLD: &[&str] =
    &["run", "--project", "other", "--lease", "6s", "--", "sh", "-c", "flock --shared \"$TEST_DIR/other\" true"];
const FOLLOW: &[&str] = &["run", "--project", "other", "--", "true"];

#[tokio::test]
async fn nobody_notices_a_restart_under_a_long_pipeline() {
    let mut server = TestServer::start(&gated_config(PATIENT));
    server.close_gate();
    let gate = close(&server, "other");
    let holder = Client::start(&server, &["deploy", "--project", "web"]);
    line(&server, "web", 0).await;
    let waiting = Client::start(&server, &["deploy", "--project", "web", "--pipeline", "quick"]);
    line(&server, "web", 1).await;
    let queued =
        Client::start(&server, &["deploy", "--project", "web", "--pipeline", "quick", "--on-conflict", "queue"]);
    line(&server, "web", 2).await;
    let watcher = Client::start(&server, &["logs", "--project", "web", "--follow"]);
    let other = Client::start(&server, HOLD);
    line(&server, "other", 0).await;
    let next = Client::start(&server, FOLLOW);
    line(&server, "other", 1).await;
    let (lost, ticket) = silent(&server).await;
    drain(&server).await;
    let late = Client::start(&server, &["run", "--project", "late", "--", "true"]);
    let last = Client::start(&server, &["deploy", "--project", "web", "--pipeline", "quick"]);
    // Two that do not come back are found out, which takes longer than any of the others could have been silent for.
    assert_eq!(lost.beat(&server, 0).await.status, 200);
    assert_eq!(server.get(&format!("{ticket}/turn?maxWaitSeconds=0")).await.status, 408);
    assert_eq!(end_of(&server, &ticket).await["error"]["code"], "ABANDONED");
    assert_eq!(end_of(&server, &lost.path).await["error"]["code"], "WORKER_LOST");
    // The others' work goes on meanwhile.
    drop(gate);
    other.ends(0).await;
    next.ends(0).await;
    server.open_gate();
    assert!(server.exited().success());
    server.boot();
    for client in [holder, waiting, queued, watcher, late, last] {
        client.ends(0).await;
    }
}

/// Two whose silence is to be noticed: a worker and a ticket.
async fn silent(server: &TestServer) -> (Work, String) {
    let work = Work::begin(server, "silent").await;
    let wish = json!({ "executor": "client", "claim": true, "onConflict": "wait" });
    let request = server.request(reqwest::Method::POST, "/v1/projects/silent/deployments");
    let answer = crate::harness::send(request.header("Idempotency-Key", "silent").json(&wish)).await;
    let ticket = format!("/v1/projects/silent/deployments/{}", answer.body["ticket"].as_str().unwrap());
    (work, ticket)
}

#[tokio::test]
async fn a_pipeline_that_does_not_stop_costs_other_projects_nothing() {
    // For longer than a ticket or a lease may be silent, the phase ignores what it is told.
    let stubborn = r#"
shutdown_grace = "1s"
[limits]
attendance = "2s"
lock_delay = "1s"
cancel_grace = "8s"
kill_budget = "1s"
[[projects.web.pipelines.stubborn.phases]]
name = "stubborn"
run = '''
trap '' TERM
flock --shared "$TEST_DIR/gate" true
'''
"#;
    let mut server = TestServer::start(&gated_config(stubborn));
    server.close_gate();
    let gate = close(&server, "other");
    let holder = Client::start(&server, &["deploy", "--project", "web", "--pipeline", "stubborn"]);
    line(&server, "web", 0).await;
    let waiting = Client::start(&server, &["deploy", "--project", "web", "--pipeline", "quick"]);
    line(&server, "web", 1).await;
    let other = Client::start(&server, HOLD);
    line(&server, "other", 0).await;
    let next = Client::start(&server, FOLLOW);
    line(&server, "other", 1).await;
    drain(&server).await;
    assert!(server.exited().success());
    server.boot();
    // Only the one that was stopped ends otherwise than it would have.
    holder.ends(1).await;
    waiting.ends(0).await;
    drop(gate);
    other.ends(0).await;
    next.ends(0).await;
}
