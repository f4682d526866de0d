//! A database as others run it: one that is not up yet, one that does not tell all of itself, and one that was replicated
//! logically.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;

use super::{deploys, refused};
use crate::harness::{
    SINGLETRACK, TestServer, gated_config,
    postgres::{self, Cluster},
};

/// Ends with its test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_up_yet_is_waited_for_and_requests_are_told_so() {
    let mut cluster = Cluster::start(postgres::UNSAFE);
    let url = cluster.url(&cluster.database().await);
    cluster.stop("INT");
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("server.log");
    let mut serve = Command::new(SINGLETRACK);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--store", &url]).current_dir(directory.path());
    serve.env_remove("SINGLETRACK_LOG").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Child(serve.stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
    let address = loop {
        let told = fs::read_to_string(&log).unwrap();
        let waits = told.lines().find(|line| line.contains("the database is not there yet"));
        if let Some((_, address)) = waits.and_then(|line| line.split_once("address=")) {
            break address.split_whitespace().next().unwrap().to_owned();
        }
        assert!(child.0.try_wait().unwrap().is_none(), "it did not wait: {told}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/v1/projects", 503)] {
        let response = client.get(format!("http://{address}{path}")).send().await.unwrap();
        let answer = crate::harness::read(&reqwest::Method::GET, path, response).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    cluster.start_again();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.0.stdout.take().unwrap()), &mut line).unwrap();
    let base = line.trim().strip_prefix("listening on ").expect("it listens").to_owned();
    assert_eq!(client.get(format!("{base}/readyz")).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waiting_does_not_mend_ends_a_start_at_once() {
    let cluster = postgres::shared();
    // Far longer than the test may take.
    let missing = cluster.url("no_such_database");
    let (code, told) = refused(&missing, &[]);
    assert!(code == 69 && told.contains("no_such_database") && !told.contains("waiting"), "{told}");
    let stranger = cluster.url("postgres").replace("singletrack@", "nobody_known@");
    let (code, told) = refused(&stranger, &[]);
    assert!(code == 69 && told.contains("does not let us in") && !told.contains("waiting"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_tell_its_timeline_is_worked_with_and_the_missing_protection_is_said() {
    let cluster = postgres::shared();
    let database = cluster.empty_database().await;
    let admin = cluster.client(&database).await;
    admin
        .batch_execute(&format!(
            "CREATE ROLE managed LOGIN; GRANT CREATE ON DATABASE {database} TO managed; \
             REVOKE EXECUTE ON FUNCTION pg_current_wal_lsn(), pg_control_system(), pg_control_checkpoint(), \
                pg_postmaster_start_time() FROM PUBLIC"
        ))
        .await
        .unwrap();
    let url = cluster.url(&database).replace("singletrack@", "managed@");
    let (one, other) = (TestServer::start_on(&url, &gated_config("")), TestServer::start_on(&url, &gated_config("")));
    deploys(&one, &other).await;
    assert!(one.log().contains("does not tell which cluster and timeline it is"), "{}", one.log());
    // A commit that is not answered is looked up all the same.
    for _ in 0..5 {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'managed'";
        let (made, cut) =
            tokio::join!(one.submit(json!({ "pipeline": "quick", "onConflict": "queue" })), admin.query(cut, &[]));
        cut.unwrap();
        assert!(matches!(made.status, 202 | 503), "{}", made.text);
    }
    let last = other.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    assert_eq!(one.finished(&last).await["status"], "SUCCEEDED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_a_logical_replication_left_behind_are_caught_up_at_the_start() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let url = cluster.url(&database);
    let mut server = TestServer::start_on(&url, &gated_config(""));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    server.kill();
    let behind = ["projects", "deployments", "audit", "artifacts"]
        .map(|table| format!("SELECT setval('singletrack.{table}_number_seq', 1, false)"));
    cluster.client(&database).await.batch_execute(&behind.join("; ")).await.unwrap();
    server.boot();
    let made = server.post("/v1/projects/other/deployments", json!({ "executor": "client", "claim": true })).await;
    assert_eq!(made.status, 202, "{}", made.text);
}
