//! What the database refuses for good: it is told as that, it is not tried for ever, and it holds up no end.

use serde_json::{Value, json};

use crate::harness::{SINGLETRACK, TestServer, postgres};

const CONFIG: &str = r#"
[projects.web.pipelines.deploy]
[[projects.web.pipelines.deploy.phases]]
name = "talk"
run = '''
echo before
echo poison
echo "::singletrack output url=poison::"
echo after
'''

[[projects.web.pipelines.fail.phases]]
name = "talk"
run = "echo poison; exit 3"
"#;

/// A server whose database refuses some text, as one of another encoding refuses what it cannot write.
async fn refusing() -> TestServer {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let admin = cluster.client(&database).await;
    admin
        .batch_execute(
            "SET search_path TO singletrack; \
             ALTER TABLE events ADD CONSTRAINT no_poison CHECK (body NOT LIKE '%poison%'); \
             ALTER TABLE deployments ADD CONSTRAINT no_poison \
                CHECK (spec NOT LIKE '%poison%' AND outputs NOT LIKE '%poison%' AND coalesce(cause_message, '') NOT LIKE '%status 3%')",
        )
        .await
        .unwrap();
    TestServer::start_on(&cluster.url(&database), CONFIG)
}

fn lines(events: &Value) -> Vec<&str> {
    let events = events["events"].as_array().unwrap().iter();
    events.filter_map(|event| event["lines"].as_array()).flatten().filter_map(Value::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_the_database_refuses_holds_up_neither_the_others_nor_the_end() {
    let server = refusing().await;
    for (pipeline, status) in [("deploy", "SUCCEEDED"), ("fail", "FAILED")] {
        let id = server.accepted(json!({ "pipeline": pipeline })).await;
        let ended = server.finished(&id).await;
        assert_eq!(ended["status"], status, "{ended}");
        let events = server.deployment(&id, "/events").await.body;
        let told = lines(&events);
        assert!(told.iter().any(|line| line.contains("could not be kept by the store")), "{told:?}");
        assert!(!told.contains(&"poison"), "{told:?}");
    }
    let next = server.submit(json!({ "executor": "client", "claim": true })).await;
    assert_eq!(next.status, 202, "the slot is free: {}", next.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_refuses_of_a_run_holds_up_neither_its_command_nor_its_end() {
    let server = refusing().await;
    for (script, code) in [("echo before; echo poison; echo after", 0), ("echo poison; exit 3", 3)] {
        let mut run = tokio::process::Command::new(SINGLETRACK);
        run.args(["run", "--project", "other", "--", "sh", "-c", script]).env("SINGLETRACK_URL", &server.base);
        let done = run.output().await.unwrap();
        assert_eq!(done.status.code(), Some(code), "{}", String::from_utf8_lossy(&done.stderr));
        let state = server.get("/v1/projects/other").await.body;
        assert_eq!(state["slot"]["state"].as_str().unwrap_or("FREE"), "FREE", "{state}");
        let all = server.get("/v1/projects/other/deployments").await.body;
        let wanted = if code == 0 { "SUCCEEDED" } else { "FAILED" };
        assert_eq!(all["deployments"][0]["status"], wanted, "{all}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submit_that_the_database_refuses_is_refused_and_not_asked_for_again() {
    let server = refusing().await;
    let refused = server.submit(json!({ "message": "poison", "onConflict": "queue" })).await;
    assert_eq!(refused.refusal(), (400, "INVALID_BODY"), "{}", refused.text);
}
