//! A rollback is told apart from its phase, and one that failed from one that did what it should.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{SINGLETRACK, TestServer};

const CONFIG: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "copy"
run = "echo copied"
rollback = "echo taken back"

[[projects.web.pipelines.deploy.phases]]
name = "migrate"
run = "echo migrated"
rollback = "exit 9"

[[projects.web.pipelines.deploy.phases]]
name = "switch"
run = "exit 3"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_failed_is_told_apart_in_events_and_in_words() {
    let server = TestServer::start(CONFIG);
    let mut deploy = Command::new(SINGLETRACK);
    deploy.env_clear().env("USER", "alice").env("SINGLETRACK_URL", &server.base);
    let done = deploy.args(["deploy", "--project", "web"]).output().unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{told}");
    let why = "the rollback of phase \"migrate\" exited with 9";
    for line in ["migrate: rolling back", &format!("migrate: the rollback failed: {why}"), "copy rolled back"] {
        assert!(told.contains(line), "{line:?} is not in\n{told}");
    }
    assert!(!told.contains("migrate failed"), "the phase itself has succeeded:\n{told}");
    let page = server.deployment("1", "/events?maxWaitSeconds=0").await.body;
    let events = page["events"].as_array().unwrap().iter().filter(|event| event["type"] == "phase");
    let states: Vec<_> = events.map(|event| (event["name"].clone(), event["state"].clone())).collect();
    let wanted =
        [("migrate", "rollingBack"), ("migrate", "rollbackFailed"), ("copy", "rollingBack"), ("copy", "rolledBack")];
    let wanted: Vec<(Value, Value)> = wanted.map(|(name, state)| (json!(name), json!(state))).to_vec();
    assert_eq!(states[states.len() - 4..], wanted);
    let failed = page["events"].as_array().unwrap().iter().find(|event| event["state"] == "rollbackFailed").unwrap();
    assert_eq!(failed["message"], why);
    let error = server.deployment("1", "").await.body["error"].clone();
    assert_eq!(error["phase"], "switch");
    assert!(error["message"].as_str().unwrap().ends_with(why), "{error}");
}
