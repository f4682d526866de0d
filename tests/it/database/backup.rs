//! A dump of the database, restored as `docs/operations.md` says.

use std::{fs, path::Path, process::Command};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, gated_config, postgres, send};

/// The one SQL statement that the documentation shows.
fn leap() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let block = text.split_once("```sql\n").expect("a statement").1;
    block.split_once("```").unwrap().0.to_owned()
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(postgres::binaries().join(program)).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

async fn claimed(server: &TestServer, project: &str) -> Answer {
    let path = format!("/v1/projects/{project}/deployments");
    let claimed = server.post(&path, json!({ "executor": "client", "claim": true, "leaseSeconds": 600 })).await;
    assert_eq!(claimed.status, 202, "{}", claimed.text);
    claimed
}

async fn finished(server: &TestServer, claimed: &Answer) -> Value {
    let (project, id) = (claimed.body["project"].as_str().unwrap(), claimed.id());
    let finish = server.request(Method::POST, &format!("/v1/projects/{project}/deployments/{id}/finish"));
    let finish = finish.header("Singletrack-Lease", claimed.body["lease"]["secret"].as_str().unwrap());
    let finished = send(finish.json(&json!({ "status": "SUCCEEDED" }))).await;
    assert_eq!(finished.status, 200, "{}", finished.text);
    finished.body
}

#[tokio::test]
async fn a_dump_that_is_restored_goes_on_beyond_all_fencing_tokens_by_itself() {
    let cluster = postgres::shared();
    let (lost, restored) = (cluster.database().await, cluster.empty_database().await);
    let server = TestServer::start_on(&cluster.url(&lost), &gated_config(""));
    let before = server.accepted(json!({ "pipeline": "quick" })).await;
    let before = server.finished(&before).await;
    let running = claimed(&server, "api").await;

    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("dump.sql").display().to_string();
    run("pg_dump", &["--schema=singletrack", &format!("--file={file}"), &cluster.url(&lost)]);
    // What comes after the backup is forgotten, and its numbers must not be given again.
    finished(&server, &running).await;
    let forgotten = claimed(&server, "api").await;
    let of_forgotten_project = claimed(&server, "new").await;
    drop(server);
    run("psql", &["--quiet", "--set=ON_ERROR_STOP=1", &format!("--file={}", file), &cluster.url(&restored)]);

    let server = TestServer::start_on(&cluster.url(&restored), &gated_config(""));
    assert_eq!(server.deployment(before["id"].as_str().unwrap(), "").await.body, before);
    // Who was running then may still come to an end.
    assert_eq!(finished(&server, &running).await["status"], "SUCCEEDED");
    let token = |claimed: &Answer| claimed.body["lease"]["fencingToken"].as_u64().unwrap();
    let next = claimed(&server, "api").await;
    assert!(token(&next) > token(&forgotten), "{} is not above {}", token(&next), token(&forgotten));
    finished(&server, &next).await;
    let of_new = claimed(&server, "new").await;
    let (before, after) = (token(&of_forgotten_project), token(&of_new));
    assert!(after > before + 1_000_000, "a project that was forgotten began again: {after} after {before}");
    // For a copy that cannot be told from the original there is a statement in the operator's guide.
    cluster.client(&restored).await.batch_execute(&leap()).await.unwrap();
    assert!(token(&claimed(&server, "api").await) > token(&next) + 1_000_000);
    assert!(token(&claimed(&server, "newest").await) > after + 1_000_000);
}
