//! An agent at work.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{SHORT, TestAgent, by_agents};
use crate::harness::{SINGLETRACK, TestServer};

fn at_the_gate(event: &Value) -> bool {
    event["lines"][0].as_str().is_some_and(|line| line.starts_with("at the gate"))
}

#[tokio::test]
async fn an_agent_runs_its_own_pipeline_with_the_servers_inputs() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    let id = server.accepted(json!({ "inputs": { "color": "red" } })).await;
    let log = server.event(&id, at_the_gate).await;
    assert_eq!((&log["lines"][0], &log["phase"]), (&json!("at the gate, with red"), &json!("gate")));
    agent.open_gate();
    let ended = server.finished(&id).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["result"]["outputs"]["url"], "https://web.example");
    let events = server.deployment(&id, "/events?maxWaitSeconds=0").await.body;
    let phases: Vec<_> = events["events"].as_array().unwrap().iter().filter(|e| e["type"] == "phase").collect();
    assert_eq!(phases.len(), 2, "{events:#}");
    let second = server.accepted(json!({ "pipeline": "broken" })).await;
    let ended = server.finished(&second).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("FAILED"), &json!("PHASE_FAILED")), "{ended}");
    assert_eq!(ended["error"]["phase"], "only");
}

#[tokio::test]
async fn a_cancel_reaches_the_agents_command_within_a_second() {
    let server = TestServer::start(&by_agents(""));
    let _agent = TestAgent::start(&server);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    let began = Instant::now();
    assert_eq!(server.cancel(&id, json!({})).await.status, 202);
    let ended = server.finished(&id).await;
    assert_eq!(ended["status"], "CANCELLED", "{ended}");
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn several_projects_run_at_once_up_to_the_limit() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start_with(&server, "", &["--max-concurrent", "1"]);
    let web = server.accepted(json!({})).await;
    server.event(&web, at_the_gate).await;
    let api = server.post("/v1/projects/api/deployments", json!({})).await;
    assert_eq!(api.status, 202, "{}", api.text);
    // A second agent shows that it is the limit that keeps it waiting.
    let path = format!("/v1/projects/api/deployments/{}", api.id());
    assert_eq!(server.get(&path).await.body["status"], "PENDING");
    agent.open_gate();
    assert_eq!(server.finished(&web).await["status"], "SUCCEEDED");
    let ended = server.get(&format!("{path}/completion?maxWaitSeconds=60")).await;
    assert_eq!(ended.body["status"], "SUCCEEDED", "{}", ended.text);

    let both = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&both);
    let web = both.accepted(json!({})).await;
    let api = both.post("/v1/projects/api/deployments", json!({})).await.id();
    both.event(&web, at_the_gate).await;
    loop {
        let view = both.get("/v1/projects/api").await.body;
        if view["holder"]["phase"] == "gate" {
            break;
        }
        let page = both.get(&format!("/v1/projects/api/deployments/{api}/events?maxWaitSeconds=5")).await;
        assert_eq!(page.status, 200);
    }
    agent.open_gate();
    assert_eq!(both.finished(&web).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_server_restart_is_ridden_out() {
    let mut server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    let id = server.accepted(json!({})).await;
    server.event(&id, at_the_gate).await;
    server.kill();
    // The command ends while there is no server: its end is kept.
    agent.open_gate();
    server.boot();
    let ended = server.finished(&id).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["result"]["outputs"]["url"], "https://web.example");
    let second = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&second).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_claim_that_was_parked_for_longer_than_a_lease_lasts_still_runs() {
    let server = TestServer::start(&by_agents(SHORT));
    let _agent = TestAgent::start_with(&server, SHORT, &[]);
    // What a poll of four seconds finds empty has been parked beside the agent's own for longer than a lease.
    let nothing = json!({ "worker": "x", "claimId": "1", "projects": { "api": ["none"] }, "capacity": 0 });
    assert_eq!(server.post("/v1/claims?maxWaitSeconds=4", nothing).await.status, 408);
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn why_names_the_agents() {
    let server = TestServer::start(&by_agents(""));
    let mut agent = TestAgent::start(&server);
    let why = || {
        let mut command = Command::new(SINGLETRACK);
        command.args(["why", "--project", "web", "--server", &server.base]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let connected = "builder-1: connected, runs broken, deploy, quick, show";
    while !why().contains(connected) {}
    agent.kill();
    while why().contains(connected) {}
    assert!(why().contains("builder-1: last seen "), "{}", why());
}

#[tokio::test]
async fn a_project_that_waits_for_an_agent_keeps_its_deployment_until_one_comes() {
    let server = TestServer::start(&by_agents(""));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.deployment(&id, "").await.body["status"], "PENDING");
    let _agent = TestAgent::start(&server);
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn an_agent_fetches_the_artifact_that_it_deploys() {
    let server = TestServer::start(&by_agents(""));
    let agent = TestAgent::start(&server);
    let site = agent.path("dist/site");
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("index.html"), "a new page\n").unwrap();
    let mut command = Command::new(SINGLETRACK);
    command.args(["deploy", "--project", "web", "--pipeline", "show", "--server", &server.base, "--artifact"]);
    let output = command.arg(agent.path("dist")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", agent.log());
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    server.event(&id, |event| event["lines"][0] == "a new page").await;
    // Neither the artifact nor its workspace stays.
    assert_eq!(fs::read_dir(agent.path("work/runs")).unwrap().count(), 0);
}
