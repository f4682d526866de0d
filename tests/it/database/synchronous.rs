//! A synchronous standby that is gone: commits wait for it, and none is told before the standby has it, whatever ends the wait.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio_postgres::Client;

use crate::harness::{Answer, TestServer, postgres::Cluster, send};

/// A primary whose commits wait for its standby.
struct Pair {
    a: Cluster,
    b: Cluster,
    url: String,
    admin: Client,
}

impl Pair {
    async fn start() -> Pair {
        let (a, b, database) = Cluster::pair().await;
        let admin = a.client("postgres").await;
        admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let is_synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        while admin.query_one(is_synchronous, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        Pair { url: a.url(&database), a, b, admin }
    }

    /// Ends the wait of a commit by this function of the database.
    async fn end_a_wait(&self, by: &str) {
        let end = format!(
            "SELECT {by}(pid) FROM pg_stat_activity WHERE application_name = 'singletrack' AND wait_event = 'SyncRep' \
                AND query = 'COMMIT'"
        );
        while self.admin.query(&end, &[]).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

async fn submitted(server: &TestServer, project: &str, key: &str) -> Answer {
    let request = server.request(Method::POST, &format!("/v1/projects/{project}/deployments"));
    send(request.header("Idempotency-Key", key).json(&json!({ "executor": "client", "claim": true }))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_wait_for_its_standby_was_ended_is_not_told_before_the_standby_has_it() {
    let pair = Pair::start().await;
    let server = TestServer::start_on(&pair.url, "");
    assert_eq!(submitted(&server, "warm", "warm").await.status, 202);
    for by in ["pg_cancel_backend", "pg_terminate_backend"] {
        let connected = pair.a.lose(&pair.b).await;
        let (told, ()) = tokio::join!(submitted(&server, by, "never"), pair.end_a_wait(by));
        assert_eq!(told.status, 503, "{by}: nobody knows whether it survives: {}", told.text);
        let project = format!("{by}-2");
        let mends = async {
            pair.end_a_wait(by).await;
            pair.b.follow_again(&connected).await;
        };
        let (told, ()) = tokio::join!(submitted(&server, &project, "later"), mends);
        assert_eq!(told.status, 202, "{by}: the standby has it by now: {}", told.text);
        // It is looked up, as every request that was not answered.
        let again = submitted(&server, by, "never").await;
        assert_eq!(again.status, 202, "{}", again.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_hang_take_no_more_connections_than_are_configured() {
    const CONNECTIONS: i64 = 4;
    let pair = Pair::start().await;
    let server = TestServer::start_on(&pair.url, &format!("[postgres]\nconnections = {CONNECTIONS}"));
    assert_eq!(submitted(&server, "warm", "warm").await.status, 202);
    let connected = pair.a.lose(&pair.b).await;
    // Long enough for these to be given up while their backends wait on, and for what became of them to be looked for.
    let round = async {
        let projects: Vec<String> = (0..8).map(|at| format!("p{at}")).collect();
        let all = projects.iter().map(|project| submitted(&server, project, "once"));
        let told: Vec<u16> = futures_util::future::join_all(all).await.iter().map(|answer| answer.status).collect();
        assert!(told.iter().all(|status| *status == 503), "{told:?}");
    };
    let counts = async {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'singletrack'";
        let mut most = 0;
        loop {
            most = most.max(pair.admin.query_one(count, &[]).await.unwrap().get::<_, i64>(0));
            // One more listens to the other servers.
            assert!(most <= CONNECTIONS + 1, "{most} connections");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = round => {}
        () = counts => {}
    }
    // What only reads goes on meanwhile: a read that finds the readers' connection busy is told to ask again.
    let reads = async {
        while server.get("/v1/projects/warm").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reads).await.expect("nothing can be read");
    // And everything goes on afterwards.
    pair.b.follow_again(&connected).await;
    while submitted(&server, "after", "after").await.status != 202 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
