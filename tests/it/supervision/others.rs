//! A project that is locked, or that cannot be read, costs the others nothing.

use serde_json::{Value, json};

use super::{SHORT, check, end_of, lost_worker, metric, status};
use crate::{
    agent::{TestAgent, by_agents},
    harness::{TestServer, gated_config, postgres},
};

#[tokio::test]
async fn lost_slots_are_freed_while_the_rows_of_other_projects_are_locked() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let server = TestServer::start_on(&cluster.url(&database), &gated_config(SHORT));
    let mut locked = Vec::new();
    // Before and behind the other one, whatever the order.
    for project in ["a-locked", "b-locked", "y-locked", "z-locked"] {
        locked.push((project, lost_worker(&server, project).await));
    }
    let operator = cluster.client(&database).await;
    operator
        .batch_execute("BEGIN; SELECT 1 FROM singletrack.projects WHERE name LIKE '%-locked' FOR UPDATE")
        .await
        .unwrap();
    for project in ["m-first", "m-second"] {
        let lost = lost_worker(&server, project).await;
        assert_eq!(end_of(&server, project, &lost).await["error"]["code"], "WORKER_LOST");
    }
    for (project, id) in &locked {
        assert_eq!(status(&server, project, id).await, "RUNNING", "they are locked still");
    }
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, &check(&ready, "reaper")["ok"]), (200, &json!(true)), "{}", ready.text);
    operator.batch_execute("ROLLBACK").await.unwrap();
    for (project, id) in &locked {
        assert_eq!(end_of(&server, project, id).await["error"]["code"], "WORKER_LOST");
    }
}

#[tokio::test]
async fn agents_get_the_work_of_others_while_the_row_of_a_project_is_locked() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let server = TestServer::start_on(&cluster.url(&database), &by_agents(""));
    let first = server.post("/v1/projects/api/deployments", json!({ "pipeline": "quick" })).await;
    assert_eq!(first.status, 202, "{}", first.text);
    let operator = cluster.client(&database).await;
    operator.batch_execute("BEGIN; SELECT 1 FROM singletrack.projects WHERE name = 'api' FOR UPDATE").await.unwrap();
    let other = server.accepted(json!({ "pipeline": "quick" })).await;
    let mut agent = TestAgent::start(&server);
    assert_eq!(server.finished(&other).await["status"], "SUCCEEDED");
    assert_eq!(status(&server, "api", &first.id()).await, "PENDING", "it is locked still");
    operator.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(end_of(&server, "api", &first.id()).await["status"], "SUCCEEDED");
    agent.open_gate();
}

/// The names of projects that somebody locks, and what agents and the server's own worker have to run there.
const LOCKED: [&str; 6] = ["locked-1", "locked-2", "locked-3", "locked-4", "locked-5", "locked-6"];

fn quick_pipelines() -> String {
    let quick =
        |project: &str| format!("[[projects.{project}.pipelines.quick.phases]]\nname = \"only\"\nrun = \"true\"\n");
    LOCKED.map(quick).concat()
}

/// Deployments of all these projects, oldest first.
async fn wait_for_a_worker(server: &TestServer) -> Vec<String> {
    let mut ids = Vec::new();
    for project in LOCKED {
        let path = format!("/v1/projects/{project}/deployments");
        let accepted = server.post(&path, json!({ "pipeline": "quick", "onConflict": "queue" })).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        ids.push(accepted.id());
    }
    ids
}

#[tokio::test]
async fn agents_get_the_work_of_others_soon_however_many_projects_are_locked() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let run_by = LOCKED.map(|project| format!("[projects.{project}]\nrun_by = \"agents\"\n")).concat();
    let server = TestServer::start_on(&cluster.url(&database), &by_agents(&run_by));
    let locked = wait_for_a_worker(&server).await;
    let operator = cluster.client(&database).await;
    let lock = "BEGIN; SELECT 1 FROM singletrack.projects WHERE name LIKE 'locked-%' FOR UPDATE";
    operator.batch_execute(lock).await.unwrap();
    // Three in a row, so that each claim meets the locked ones anew.
    let mut agent = TestAgent::start_with(&server, &quick_pipelines(), &[]);
    for _ in 0..3 {
        let other = server.accepted(json!({ "pipeline": "quick" })).await;
        assert_eq!(server.finished(&other).await["status"], "SUCCEEDED");
    }
    for (project, id) in LOCKED.iter().zip(&locked) {
        assert_eq!(status(&server, project, id).await, "PENDING", "it is locked still");
    }
    operator.batch_execute("ROLLBACK").await.unwrap();
    for (project, id) in LOCKED.iter().zip(&locked) {
        assert_eq!(end_of(&server, project, id).await["status"], "SUCCEEDED");
    }
    agent.open_gate();
}

#[tokio::test]
async fn the_servers_worker_has_places_for_others_however_many_projects_are_locked() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let gates = ["gate-1", "gate-2"].map(|project| {
        let run = "flock --shared \\\"$TEST_DIR/gate\\\" true";
        format!("[[projects.{project}.pipelines.deploy.phases]]\nname = \"gate\"\nrun = \"{run}\"\n")
    });
    let more = format!("max_running = 2\n{}{}", gates.concat(), quick_pipelines());
    let server = TestServer::start_on(&cluster.url(&database), &gated_config(&more));
    server.close_gate();
    for project in ["gate-1", "gate-2"] {
        let path = format!("/v1/projects/{project}/deployments");
        let id = server.post(&path, json!({ "pipeline": "deploy" })).await.id();
        let running = format!("{path}/{id}/events?after=0&maxWaitSeconds=30");
        while status(&server, project, &id).await != "RUNNING" {
            server.get(&running).await;
        }
    }
    // Both places are taken, so these wait until the gate is open.
    let locked = wait_for_a_worker(&server).await;
    let other = server.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let operator = cluster.client(&database).await;
    let lock = "BEGIN; SELECT 1 FROM singletrack.projects WHERE name LIKE 'locked-%' FOR UPDATE";
    operator.batch_execute(lock).await.unwrap();
    server.open_gate();
    assert_eq!(server.finished(&other).await["status"], "SUCCEEDED");
    for (project, id) in LOCKED.iter().zip(&locked) {
        assert_eq!(status(&server, project, id).await, "PENDING", "it is locked still");
    }
    operator.batch_execute("ROLLBACK").await.unwrap();
    for (project, id) in LOCKED.iter().zip(&locked) {
        assert_eq!(end_of(&server, project, id).await["status"], "SUCCEEDED");
    }
}

/// What a newer version might write, in the words of both engines.
const NEWER: [&str; 2] = [
    "DROP TRIGGER deployments_keep_their_spec; \
     UPDATE deployments SET spec = json_set(spec, '$.fromTheFuture', 1) \
     WHERE project = (SELECT number FROM projects WHERE name = 'newer')",
    "DROP TRIGGER deployments_keep_their_spec ON singletrack.deployments; \
     UPDATE singletrack.deployments SET spec = jsonb_set(spec::jsonb, '{fromTheFuture}', '1')::text \
     WHERE project = (SELECT number FROM singletrack.projects WHERE name = 'newer')",
];

async fn others_are_served_beside_a_row_that_cannot_be_read(server: &TestServer) {
    // It cannot be ended by this version, and the others' ends do not wait for that.
    for project in ["a-other", "web", "z-other"] {
        let lost = lost_worker(server, project).await;
        assert_eq!(end_of(server, project, &lost).await["error"]["code"], "WORKER_LOST");
    }
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED", "the server's own worker goes on");
    let listed = server.get("/v1/projects").await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    let names: Vec<_> = listed.body["projects"].as_array().unwrap().iter().map(|it| it["project"].clone()).collect();
    assert_eq!(names, ["a-other", "web", "z-other"], "what cannot be read is not told to be free");
    let page = server.get("/v1/projects?limit=2").await;
    assert_eq!(page.body["nextCursor"], json!("newer"), "pages go on behind it: {}", page.text);
    let rest = server.get("/v1/projects?limit=2&cursor=newer").await;
    assert_eq!((rest.body["projects"].as_array().unwrap().len(), &rest.body["nextCursor"]), (2, &Value::Null));
    assert!(metric(server, "singletrack_unreadable_rows_total").await > 0);
    assert_eq!(server.get("/readyz").await.status, 200);
    let log = server.log();
    for row in ["project newer", "deployment 0"] {
        let told = log.lines().filter(|line| line.contains("cannot be read by this version") && line.contains(row));
        assert!(told.count() <= 1, "a row is logged once:\n{log}");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_costs_the_others_nothing_on_sqlite() {
    let server = TestServer::start(&gated_config(SHORT));
    lost_worker(&server, "newer").await;
    rusqlite::Connection::open(server.path("test.db")).unwrap().execute_batch(NEWER[0]).unwrap();
    others_are_served_beside_a_row_that_cannot_be_read(&server).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_costs_the_others_nothing_on_postgres() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let server = TestServer::start_on(&cluster.url(&database), &gated_config(SHORT));
    lost_worker(&server, "newer").await;
    cluster.client(&database).await.batch_execute(NEWER[1]).await.unwrap();
    others_are_served_beside_a_row_that_cannot_be_read(&server).await;
}
