//! Agents: their own file, and the server's.

use std::fs;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;

use crate::{
    agent::{TestAgent, by_agents},
    harness::{TestServer, send},
};

async fn reload(server: &TestServer) {
    let answer = send(server.request(Method::POST, "/v1/admin/reload")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

impl TestAgent {
    /// Gives it another file by SIGHUP, and waits for these words in its log.
    fn reload(&self, config: &str, words: &str) {
        fs::write(self.path("agent.toml"), config).unwrap();
        let before = self.log().len();
        self.signal(Signal::HUP);
        while !self.log()[before..].contains(words) {
            std::thread::yield_now();
        }
    }
}

/// An agent's file whose one pipeline of `web` waits at the gate and then tells this word.
fn telling(word: &str) -> String {
    format!(
        r#"
pass_env = ["AGENT_DIR"]
[[projects.web.pipelines.deploy.phases]]
name = "gate"
run = """
echo "at the gate"
flock --shared "$AGENT_DIR/gate" true
echo "::singletrack output word={word}::"
"""
[[projects.web.pipelines.{word}.phases]]
name = "only"
run = "true"
"#
    )
}

#[tokio::test]
async fn a_signal_changes_what_an_agent_offers_and_what_runs_goes_on() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    agent.reload(&telling("old"), "projects_removed=api");
    let first = server.accepted(json!({})).await;
    server.event(&first, |event| event["lines"][0] == "at the gate").await;
    agent.reload(&telling("new"), "projects_changed=web");
    let second = server.accepted(json!({ "onConflict": "queue" })).await;
    agent.open_gate();
    assert_eq!(server.finished(&first).await["result"]["outputs"]["word"], "old");
    assert_eq!(server.finished(&second).await["result"]["outputs"]["word"], "new");
    let third = server.accepted(json!({ "pipeline": "new" })).await;
    assert_eq!(server.finished(&third).await["status"], "SUCCEEDED");
    agent.signal(Signal::TERM);
    assert_eq!(agent.exited().code(), Some(0), "SIGTERM still ends it");
}

#[tokio::test]
async fn an_agents_bad_file_changes_nothing() {
    let server = TestServer::start(&by_agents(""));
    let agent = TestAgent::start(&server);
    agent.reload("[projects.web]\npased = true", "nothing has changed");
    agent.reload("[projects.web]\npaused = true", "there are no pipelines");
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_project_that_leaves_the_servers_file_costs_its_agent_no_other_project() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    let running = server.accepted(json!({})).await;
    server.event(&running, |event| event["type"] == "log").await;
    server.configure(&by_agents("").replace("[projects.web]\nrun_by = \"agents\"\n", ""));
    reload(&server).await;
    agent.open_gate();
    assert_eq!(server.finished(&running).await["status"], "SUCCEEDED", "what runs goes on");
    for _ in 0..2 {
        let id = server.post("/v1/projects/api/deployments", json!({ "pipeline": "quick" })).await.id();
        let ended = server.get(&format!("/v1/projects/api/deployments/{id}/completion?maxWaitSeconds=60")).await;
        assert_eq!(ended.body["status"], "SUCCEEDED", "{}", ended.text);
    }
    // The project comes back, and the agent's parked call is there for it.
    server.configure(&by_agents(""));
    reload(&server).await;
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn an_agent_that_names_an_unknown_project_at_its_start_is_still_refused() {
    let server = TestServer::start(&by_agents("").replace("[projects.api]\nrun_by = \"agents\"\n", ""));
    let agent = TestAgent::start_unready(&server);
    let refused = agent.command().output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("project 'api' is not run by agents"));
}
