//! The database as real installations have it: behind TLS, with passwords, with a standby, behind a pooler; and how much a
//! server asks of it.

mod agents;
mod apart;
mod backup;
mod bouncer;
mod failover;
mod hints;
mod idle;
mod managed;
mod plans;
mod refusals;
mod schema;
mod standby;
mod synchronous;
mod tls;

use std::process::Command;

use crate::harness::{SINGLETRACK, TestServer};

/// How `serve` on this store ends that cannot start: its exit code and what it says.
fn refused(store: &str, environment: &[(&str, &str)]) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    // What waiting could mend is not waited for long.
    std::fs::write(directory.path().join("singletrack.toml"), "[postgres]\nstart_timeout = \"1s\"").unwrap();
    let mut serve = Command::new(SINGLETRACK);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--store", store]).current_dir(directory.path());
    serve.env_remove("PGPASSWORD").envs(environment.iter().copied());
    let done = serve.output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!told.contains("panicked"), "{told}");
    (done.status.code().unwrap(), told)
}

/// Deploys through one server, and sees it at another.
async fn deploys(one: &TestServer, other: &TestServer) {
    let id = one.accepted(serde_json::json!({ "pipeline": "quick" })).await;
    assert_eq!(other.finished(&id).await["status"], "SUCCEEDED");
}
