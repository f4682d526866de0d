//! How many pipelines the server runs at once, and how those that wait for a place fare.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, postgres};

/// Projects `p0`, `p1` … whose `deploy` waits at the gate and whose `quick` ends at once, `cli` for clients, and `idle`,
/// which agents run and none is there for.
fn config(max_running: usize, project_count: usize) -> String {
    let mut config = format!("max_running = {max_running}\n[limits]\nunclaimed = \"1s\"\n");
    for n in 0..project_count {
        let _ = write!(
            config,
            r#"
[[projects.p{n}.pipelines.deploy.phases]]
name = "gate"
run = 'flock --shared "$TEST_DIR/gate" true'
[[projects.p{n}.pipelines.quick.phases]]
name = "only"
run = "true"
"#
        );
    }
    config + "[projects.idle]\nrun_by = \"agents\"\nunclaimed_timeout = \"2s\"\n"
}

async fn submit(server: &TestServer, project: &str, body: Value) -> Answer {
    server.post(&format!("/v1/projects/{project}/deployments"), body).await
}

/// Submits, and the path of what that makes.
async fn accepted(server: &TestServer, project: &str, body: Value) -> String {
    let answer = submit(server, project, body).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    answer.header("location").to_owned()
}

/// Waits for an event of it for which `is_it` holds.
async fn event(server: &TestServer, path: &str, is_it: impl Fn(&Value) -> bool) {
    let mut after = 0;
    loop {
        let page = server.get(&format!("{path}/events?after={after}&maxWaitSeconds=60")).await.body;
        if page["events"].as_array().unwrap().iter().any(&is_it) {
            return;
        }
        assert_ne!(page["final"], true, "it ended without that event: {page}");
        after = page["last"].as_u64().unwrap();
    }
}

async fn started(server: &TestServer, path: &str) {
    event(server, path, |event| event["type"] == "phase").await;
}

/// Waits until it is told that there is no place for it.
async fn postponed(server: &TestServer, path: &str) {
    let told = |event: &Value| {
        event["status"] == "PENDING"
            && event["message"].as_str().is_some_and(|it| it.starts_with("waits for a free place"))
    };
    event(server, path, told).await;
}

async fn ended(server: &TestServer, path: &str) -> Value {
    loop {
        let answer = server.get(&format!("{path}/completion?maxWaitSeconds=60")).await;
        if answer.status == 200 {
            return answer.body;
        }
        assert_eq!(answer.status, 408, "{}", answer.text);
    }
}

/// Returns when a deployment that began to wait for a worker now has been given up: longer than `unclaimed` of the others.
async fn longer_than_unclaimed(server: &TestServer) {
    let unclaimed = accepted(server, "idle", json!({})).await;
    assert_eq!(ended(server, &unclaimed).await["error"]["code"], "UNCLAIMED");
}

#[tokio::test]
async fn those_for_which_there_is_no_place_wait_as_long_as_need_be_and_start_in_the_order_of_arrival() {
    let server = TestServer::start(&config(1, 5));
    server.close_gate();
    let first = accepted(&server, "p0", json!({})).await;
    started(&server, &first).await;
    let mut all = vec![first];
    // Neither the names nor the ids tell the order.
    for project in ["p4", "p2", "p3", "p1"] {
        let path = accepted(&server, project, json!({ "message": "a commit" })).await;
        postponed(&server, &path).await;
        all.push(path);
    }
    longer_than_unclaimed(&server).await;
    for path in &all[1..] {
        let waiting = server.get(path).await.body;
        let message = "waits for a free place on the server: 1 of 1 pipelines run";
        assert_eq!((&waiting["status"], &waiting["message"]), (&json!("PENDING"), &json!(message)));
    }
    server.open_gate();
    let mut former: Option<Value> = None;
    for path in &all {
        let now = ended(&server, path).await;
        assert_eq!((&now["status"], &now["progress"]), (&json!("SUCCEEDED"), &json!(100)), "{now}");
        if let Some(former) = former {
            let (end, start) = (former["endedAt"].as_str().unwrap(), now["startedAt"].as_str().unwrap());
            assert!(end <= start, "one began at {start}, before the one before it ended at {end}");
        }
        former = Some(now);
    }
}

#[tokio::test]
async fn sixty_submits_for_sixty_projects_run_as_many_at_once_as_there_are_places() {
    let server = TestServer::start(&config(3, 60));
    server.close_gate();
    let mut all = Vec::new();
    for n in 0..60 {
        all.push(accepted(&server, &format!("p{n}"), json!({})).await);
    }
    for path in &all[..3] {
        started(&server, path).await;
    }
    for path in &all[3..] {
        postponed(&server, path).await;
    }
    let mut running_count = 0;
    for path in &all {
        running_count += usize::from(server.get(path).await.body["status"] == "RUNNING");
    }
    assert_eq!(running_count, 3);
    server.open_gate();
    for path in &all {
        assert_eq!(ended(&server, path).await["status"], "SUCCEEDED");
    }
}

#[tokio::test]
async fn a_project_that_is_held_up_costs_the_others_one_place_and_nothing_else() {
    let server = TestServer::start(&config(2, 3));
    server.close_gate();
    let held_up = accepted(&server, "p0", json!({})).await;
    started(&server, &held_up).await;
    for _ in 0..3 {
        for project in ["p1", "p2"] {
            let quick = accepted(&server, project, json!({ "pipeline": "quick" })).await;
            assert_eq!(ended(&server, &quick).await["status"], "SUCCEEDED");
        }
    }
    // With no place left, clients that run their own command still need none; and whoever waits may be cancelled.
    let other = accepted(&server, "p1", json!({})).await;
    started(&server, &other).await;
    let waiting = accepted(&server, "p2", json!({})).await;
    postponed(&server, &waiting).await;
    let own = submit(&server, "cli", json!({ "executor": "client", "claim": true })).await;
    assert_eq!((own.status, &own.body["status"]), (202, &json!("RUNNING")));
    let rival = submit(&server, "p2", json!({})).await;
    assert_eq!(rival.body["blocking"]["message"], "waits for a free place on the server: 2 of 2 pipelines run");
    let shown = server.tool(&["why", "--server", &server.base, "--project", "p2"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("waits for a free place on the server: 2 of 2 pipelines run"), "{shown}");
    assert_eq!(server.post(&format!("{waiting}/cancel"), json!({})).await.status, 202);
    let cancelled = server.get(&waiting).await.body;
    assert_eq!((&cancelled["status"], &cancelled["message"]), (&json!("CANCELLED"), &Value::Null));
    server.open_gate();
    for path in [held_up, other] {
        assert_eq!(ended(&server, &path).await["status"], "SUCCEEDED");
    }
}

#[tokio::test]
async fn on_a_shared_store_one_waits_only_while_every_server_is_full() {
    let store = postgres::shared().store().await;
    let [one, other] = [(); 2].map(|()| TestServer::start_on(&store, &config(1, 3)));
    one.close_gate();
    other.close_gate();
    let first = accepted(&one, "p0", json!({})).await;
    started(&one, &first).await;
    let second = accepted(&one, "p1", json!({})).await;
    started(&one, &second).await;
    let third = accepted(&one, "p2", json!({})).await;
    postponed(&other, &third).await;
    longer_than_unclaimed(&one).await;
    assert_eq!(one.get(&third).await.body["status"], "PENDING");
    one.open_gate();
    other.open_gate();
    for path in [first, second, third] {
        assert_eq!(ended(&other, &path).await["status"], "SUCCEEDED");
    }
}

#[tokio::test]
async fn a_restart_leaves_those_that_wait_for_a_place_in_line_for_one() {
    let mut server = TestServer::start(&config(1, 2));
    server.close_gate();
    let first = accepted(&server, "p0", json!({})).await;
    started(&server, &first).await;
    let waiting = accepted(&server, "p1", json!({})).await;
    postponed(&server, &waiting).await;
    server.kill();
    server.open_gate();
    server.boot();
    assert_eq!(ended(&server, &waiting).await["status"], "SUCCEEDED");
    assert_eq!(ended(&server, &first).await["error"]["code"], "WORKER_LOST");
}
