//! Agents of several servers on one database: each server knows those that ask at another.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{TestAgent, by_agents};
use crate::harness::{Answer, TestServer, postgres, proxy::Network};

/// Hints, and not the slow poll, are what a test sees.
const NO_SLOW_POLL: &str = "[limits]\nfallback_poll = \"40s\"";
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn servers<const COUNT: usize>() -> [TestServer; COUNT] {
    let store = postgres::shared().store().await;
    std::array::from_fn(|_| TestServer::start_on(&store, &by_agents(NO_SLOW_POLL)))
}

/// A call for work on the project that wants to know at once whether an agent is there.
async fn call(server: &TestServer, seconds: u64) -> Answer {
    let offer = json!({ "worker": "a", "claimId": "1", "projects": { "strict": ["deploy"] }, "capacity": 0 });
    server.post(&format!("/v1/claims?maxWaitSeconds={seconds}"), offer).await
}

async fn submit_strict(server: &TestServer) -> Answer {
    server.post("/v1/projects/strict/deployments", json!({ "onConflict": "queue" })).await
}

/// How a server shows the agents of that project.
async fn shown(server: &TestServer) -> Value {
    server.get("/v1/projects/strict").await.body["agents"].clone()
}

/// Waits until a server shows its one agent so. Nothing tells it but asking.
async fn shown_as(server: &TestServer, is_it: impl Fn(&Value) -> bool) -> Value {
    let seen = async {
        loop {
            let agents = shown(server).await;
            if is_it(&agents) {
                return agents;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, seen).await.unwrap()
}

#[tokio::test]
async fn an_agent_that_asks_at_one_server_runs_what_is_submitted_at_another() {
    let [one, other] = servers().await;
    let mut agent = TestAgent::start(&other);
    let id = one.accepted(json!({ "inputs": { "color": "red" } })).await;
    one.event(&id, |event| event["lines"][0] == "at the gate, with red").await;
    let known = one.project().await;
    assert_eq!(known["agents"][0]["worker"], "builder-1");
    assert_eq!(known["pipelines"], json!(["broken", "deploy", "quick", "show"]));
    // What nobody offers is refused at whichever server.
    let unknown = one.submit(json!({ "pipeline": "nothing", "onConflict": "queue" })).await;
    assert_eq!(unknown.refusal(), (400, "UNKNOWN_PIPELINE"), "{}", unknown.text);
    agent.open_gate();
    let ended = one.finished(&id).await;
    assert_eq!(ended["result"]["outputs"]["url"], "https://web.example", "{ended}");
}

#[tokio::test]
async fn servers_agree_on_whether_an_agent_is_there() {
    let [one, other, third] = servers().await;
    let calling = async {
        for server in [&one, &third] {
            let agents = shown_as(server, |agents| agents[0]["connected"] == true).await;
            assert_eq!(agents[0]["worker"], "a");
            let accepted = submit_strict(server).await;
            assert_eq!(accepted.status, 202, "{}", accepted.text);
        }
    };
    // The call is given up with the agent.
    tokio::select! {
        answer = call(&other, 60) => panic!("it has no capacity: {}", answer.text),
        () = calling => {}
    }
    for server in [&one, &other, &third] {
        shown_as(server, |agents| agents[0]["connected"] == false).await;
    }
    // It may come back for a moment; from then on nobody takes it for there.
    let refused = async {
        loop {
            let answer = submit_strict(&one).await;
            if answer.status != 202 {
                return answer;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let first = timeout(PATIENCE, refused).await.unwrap();
    for answer in [first, submit_strict(&other).await, submit_strict(&third).await] {
        assert_eq!(answer.refusal(), (409, "NO_AGENT"), "{}", answer.text);
        assert!(answer.text.contains("a (deploy) was last seen at"), "{}", answer.text);
    }
    // It is back, for a server at which it never asked, too.
    let back = async {
        shown_as(&third, |agents| agents[0]["connected"] == true).await;
        submit_strict(&third).await
    };
    tokio::select! {
        answer = call(&one, 60) => panic!("it has no capacity: {}", answer.text),
        accepted = back => assert_eq!(accepted.status, 202, "{}", accepted.text),
    }
}

#[tokio::test]
async fn an_agent_whose_server_is_killed_goes_on_at_another() {
    let [one, mut other] = servers().await;
    let network = Network::to_first_of(&[&other.base, &one.base]);
    let mut agent = TestAgent::prepare(&other, "", &[]);
    agent.server.clone_from(&network.base);
    agent.boot();
    let id = one.accepted(json!({})).await;
    one.event(&id, |event| event["type"] == "log").await;
    other.kill();
    // It is not missed, though the server that saw it last cannot tell any more.
    assert_eq!(one.project().await["agents"][0]["worker"], "builder-1");
    agent.open_gate();
    let ended = one.finished(&id).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    let next = one.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(one.finished(&next).await["status"], "SUCCEEDED");
    agent.signal(Signal::TERM);
    assert!(agent.exited().success());
}

#[tokio::test]
async fn an_agent_that_was_lost_with_its_server_counts_until_its_call_would_have_ended() {
    let [one, mut other] = servers().await;
    let url = format!("{}/v1/claims?maxWaitSeconds=2", other.base);
    let offer = json!({ "worker": "a", "claimId": "1", "projects": { "strict": ["deploy"] }, "capacity": 0 });
    let calling = other.client.post(url).json(&offer).send();
    let kills = async {
        shown_as(&one, |agents| agents[0]["connected"] == true).await;
        other.kill();
    };
    let (answer, ()) = tokio::join!(calling, kills);
    answer.expect_err("its server was killed");
    let agents = shown_as(&one, |agents| agents[0]["connected"] == false).await;
    assert_eq!(agents[0]["worker"], "a");
}
