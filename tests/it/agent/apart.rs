//! Agents that stand still, and agents that their server cannot hear.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{SHORT, TestAgent, by_agents};
use crate::harness::{TestServer, processes, proxy::Network};

fn at_the_gate(event: &Value) -> bool {
    event["lines"][0].as_str().is_some_and(|line| line.starts_with("at the gate"))
}

/// An agent at the other end of a network, with these limits.
fn beyond(network: &Network, server: &TestServer, limits: &str) -> TestAgent {
    let mut agent = TestAgent::prepare(server, limits, &[]);
    agent.server = network.base.clone();
    agent.boot();
    agent
}

/// The one child of a process, once it has one.
async fn child_of(pid: Pid) -> Pid {
    let pid = pid.as_raw_nonzero();
    loop {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        match children.trim().parse() {
            Ok(child) => return Pid::from_raw(child).unwrap(),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn parent_of(pid: Pid) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1;
    Pid::from_raw(fields.split(' ').nth(1).unwrap().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn a_cut_that_is_shorter_than_the_lease_is_ridden_out_and_nothing_is_lost() {
    let server = TestServer::start(&by_agents(""));
    let network = Network::to(&server.base);
    let mut agent = beyond(&network, &server, "");
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    network.cut();
    // The command ends while nobody can be told.
    agent.open_gate();
    let journal = agent.path(&format!("work/journals/{id}.journal"));
    while !std::fs::read_to_string(&journal).unwrap().contains(r#""entry":"end""#) {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.deployment(&id, "").await.body["status"], "RUNNING");
    network.mend();
    let ended = server.finished(&id).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["result"]["outputs"]["url"], "https://web.example");
    let events = server.deployment(&id, "/events?maxWaitSeconds=0").await.body;
    let states: Vec<_> = events["events"].as_array().unwrap().iter().filter(|e| e["type"] == "phase").collect();
    assert_eq!(states.len(), 2, "each is told once: {events:#}");
}

#[tokio::test]
async fn a_cut_that_is_longer_than_the_lease_ends_the_command_before_the_slot_is_free() {
    let server = TestServer::start(&by_agents(SHORT));
    let network = Network::to(&server.base);
    let mut agent = beyond(&network, &server, SHORT);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    let child = agent.at_the_gate("web");
    network.cut();
    let ended = server.finished(&id).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST", "{ended}");
    assert!(!processes::runs(child), "it ran on after its slot was given away");
    network.mend();
    agent.open_gate();
    // It goes on to work once it has told what it had to tell.
    let next = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
    agent.signal(Signal::TERM);
    assert!(agent.exited().success());
    assert_eq!(agent.journals(), 0);
    assert_eq!(server.deployment(&id, "").await.body, ended, "what is final stays as it is");
}

#[tokio::test]
async fn a_result_that_comes_after_the_lease_is_kept_for_the_record() {
    let server = TestServer::start(&by_agents(SHORT));
    let network = Network::to(&server.base);
    let mut agent = beyond(&network, &server, SHORT);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    network.cut();
    agent.open_gate();
    let ended = server.finished(&id).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST", "{ended}");
    network.mend();
    agent.signal(Signal::TERM);
    assert!(agent.exited().success());
    let record = server.audit(&id);
    let [.., (action, verdict)] = &record[..] else { panic!("{record:?}") };
    assert_eq!(action, "late_result");
    assert!(verdict.contains("Succeeded") && verdict.contains("https://web.example"), "{verdict}");
    assert_eq!(server.deployment(&id, "").await.body, ended, "what is final stays as it is");
}

#[tokio::test]
async fn an_agent_that_stands_still_past_its_lease_runs_nothing_and_overlaps_nothing() {
    let server = TestServer::start(&by_agents(SHORT));
    let mut agent = TestAgent::start_with(&server, SHORT, &[]);
    let id = server.accepted(json!({})).await;
    let next = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    server.event(&id, at_the_gate).await;
    let child = agent.at_the_gate("web");
    agent.signal(Signal::STOP);
    let ended = server.finished(&id).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST", "{ended}");
    // Nobody but the shim could end it.
    assert!(!processes::runs(child), "it outlived its lease");
    agent.signal(Signal::CONT);
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
    agent.open_gate();
    agent.signal(Signal::TERM);
    assert!(agent.exited().success());
    assert_eq!(agent.journals(), 0);
    assert_eq!(server.deployment(&id, "").await.body, ended);
}

#[tokio::test]
async fn what_an_agent_and_its_shim_left_when_they_were_killed_is_ended_by_the_next_start() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    let command = agent.at_the_gate("web");
    let (shim, left) = (parent_of(command), child_of(command).await);
    agent.signal(Signal::STOP);
    kill_process(shim, Signal::KILL).unwrap();
    agent.kill();
    // The kernel ends the command itself; what it had started goes on.
    assert!(processes::gone(command));
    assert!(processes::runs(left));
    agent.boot();
    let ended = server.finished(&id).await;
    assert_eq!(ended["error"]["code"], "WORKER_LOST", "{ended}");
    assert!(!processes::runs(left), "the slot was free before it was gone");
}
