//! How agents end, by themselves and otherwise, and what they find when they come back.

use rustix::process::Signal;
use serde_json::json;

use super::{SHORT, TestAgent, by_agents};
use crate::harness::{TestServer, processes};

fn at_the_gate(event: &serde_json::Value) -> bool {
    event["lines"][0].as_str().is_some_and(|line| line.starts_with("at the gate"))
}

#[tokio::test]
async fn a_killed_agent_leaves_no_child_and_its_deployment_is_lost_with_it() {
    let server = TestServer::start(&by_agents(SHORT));
    let mut agent = TestAgent::start_with(&server, SHORT, &[]);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    let child = agent.at_the_gate("web");
    assert!(processes::runs(child));
    agent.kill();
    assert!(processes::gone(child));
    let ended = server.finished(&id).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST", "{ended}");
    assert!(ended["error"]["message"].as_str().unwrap().contains("builder-1 fell silent"), "{ended}");
}

#[tokio::test]
async fn a_restarted_agent_tells_what_its_former_self_ran() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    agent.kill();
    assert_eq!(agent.journals(), 1);
    // With the usual limits nobody else would know for more than a minute.
    agent.boot();
    let ended = server.finished(&id).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST", "{ended}");
    assert!(ended["error"]["message"].as_str().unwrap().contains("the agent builder-1 ended before"), "{ended}");
    let second = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&second).await["status"], "SUCCEEDED");
    while agent.journals() > 0 {}
}

#[tokio::test]
async fn an_end_that_could_not_be_told_is_told_after_a_restart_of_both() {
    let mut server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    server.kill();
    agent.open_gate();
    // The end stands in the journal before it is told.
    let journal = agent.path(&format!("work/journals/{id}.journal"));
    while !std::fs::read_to_string(&journal).unwrap().contains(r#""entry":"end""#) {}
    agent.kill();
    server.boot();
    agent.boot();
    let ended = server.finished(&id).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["result"]["outputs"]["url"], "https://web.example");
}

#[tokio::test]
async fn told_to_stop_it_takes_nothing_more_and_finishes_what_runs() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    agent.signal(Signal::TERM);
    // Its poll is gone: it takes no more.
    while server.project().await["agents"][0]["connected"] == true {}
    let api = server.post("/v1/projects/api/deployments", json!({ "pipeline": "quick" })).await;
    agent.open_gate();
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
    assert!(agent.exited().success());
    let path = format!("/v1/projects/api/deployments/{}", api.id());
    assert_eq!(server.get(&path).await.body["status"], "PENDING");
    assert_eq!(agent.journals(), 0);
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_is_stopped_and_told() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start_with(&server, "shutdown_grace = \"1s\"", &[]);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    let child = agent.at_the_gate("web");
    agent.signal(Signal::TERM);
    let ended = server.finished(&id).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST", "{ended}");
    assert!(ended["error"]["message"].as_str().unwrap().contains("shut down"), "{ended}");
    assert!(!processes::runs(child));
    assert!(agent.exited().success());
}

#[tokio::test]
async fn an_agent_that_the_server_does_not_take_says_so_and_ends() {
    let server = TestServer::start("[projects.web]\nrun_by = \"agents\"\n");
    let agent = TestAgent::start_unready(&server);
    let output = agent.command().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("project 'api' is not run by agents"), "{said}");
}

#[tokio::test]
async fn two_agents_in_one_folder_are_one_too_many() {
    let server = TestServer::start(&by_agents(""));
    let agent = TestAgent::start(&server);
    let output = agent.command().output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another agent works in") && said.contains("--work-dir"), "{said}");
}

#[tokio::test]
async fn an_agent_that_cannot_write_its_journal_ends_what_it_was_given_and_takes_no_more() {
    let server = TestServer::start(&by_agents(""));
    let agent = TestAgent::start(&server);
    let (journals, aside) = (agent.path("work/journals"), agent.path("aside"));
    let first = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&first).await["status"], "SUCCEEDED");
    while agent.journals() > 0 {}
    std::fs::rename(&journals, &aside).unwrap();
    std::fs::write(&journals, "").unwrap();
    let second = server.accepted(json!({ "pipeline": "quick" })).await;
    let ended = server.finished(&second).await;
    assert_eq!(ended["status"], "FAILED", "{ended}");
    let message = ended["error"]["message"].as_str().unwrap();
    assert!(message.contains("the agent builder-1 cannot write its journal"), "{message}");
    // The next one waits until there is an agent that can run it.
    while !agent.log().contains("taking no work until they can") {
        tokio::task::yield_now().await;
    }
    let third = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.deployment(&third, "").await.body["status"], "PENDING");
    std::fs::remove_file(&journals).unwrap();
    std::fs::rename(&aside, &journals).unwrap();
    assert_eq!(server.finished(&third).await["status"], "SUCCEEDED");
}
