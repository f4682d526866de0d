//! A fail-over that loses commits, the way back, and a restore: no fencing token is given twice, no lease passes for another,
//! and nobody works on a former primary.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::harness::{Answer, TestServer, postgres::Cluster, send};

/// A primary, a standby that follows it, and the URL that names both.
struct Pair {
    a: Cluster,
    b: Cluster,
    database: String,
    url: String,
}

impl Pair {
    async fn start() -> Pair {
        let (a, b, database) = Cluster::pair().await;
        let hosts = format!("@127.0.0.1:{},127.0.0.1:{}/", a.port(), b.port());
        let url = a.tcp_url("127.0.0.1", &database).replace(&format!("@127.0.0.1:{}/", a.port()), &hosts);
        Pair { a, b, database, url }
    }
}

const CONFIG: &str = "[projects.api]\nrun_by = \"agents\"\n";

/// Takes the slot of a project and works under a lease.
async fn taken(server: &TestServer, project: &str) -> Answer {
    let path = format!("/v1/projects/{project}/deployments");
    server.post(&path, json!({ "executor": "client", "claim": true })).await
}

fn token(taken: &Answer) -> u64 {
    assert_eq!(taken.status, 202, "{}", taken.text);
    taken.body["lease"]["fencingToken"].as_u64().unwrap()
}

async fn under_lease(server: &TestServer, project: &str, id: &str, secret: &Value, verb: &str) -> Answer {
    let path = format!("/v1/projects/{project}/deployments/{id}/{verb}");
    let request = server.request(Method::POST, &path).header("Singletrack-Lease", secret.as_str().unwrap());
    let body = if verb == "finish" { json!({ "status": "SUCCEEDED" }) } else { json!({}) };
    send(if verb == "finish" { request.json(&body) } else { request }).await
}

async fn ended(server: &TestServer, project: &str, taken: &Answer) {
    let ended = under_lease(server, project, &taken.id(), &taken.body["lease"]["secret"], "finish").await;
    assert_eq!(ended.status, 200, "{}", ended.text);
}

async fn claimed(server: &TestServer, worker: &str) -> Answer {
    let offer = json!({ "worker": worker, "claimId": "1", "projects": { "api": ["deploy"] } });
    let claimed = server.post("/v1/claims?maxWaitSeconds=20", offer).await;
    assert_eq!(claimed.status, 200, "{}", claimed.text);
    claimed
}

async fn count(client: &Client, what: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM singletrack.{what}"), &[]).await.unwrap().get(0)
}

/// Asks until the server has found a database that it can work with.
async fn until_ready(server: &TestServer) {
    while server.get("/readyz").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn cut_sessions(client: &Client) {
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'singletrack'";
    client.query(cut, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fail_over_that_loses_commits_no_token_is_given_twice_and_the_former_primary_is_refused() {
    let Pair { mut a, mut b, database, url } = Pair::start().await;
    let mut one = TestServer::start_on(&url, CONFIG);
    let other = TestServer::start_on(&url, CONFIG);
    // What the standby has: a lease in `kept`, and a deployment of `api` that nobody has claimed.
    let kept = taken(&one, "kept").await;
    token(&kept);
    let ready = one.post("/v1/projects/api/deployments", json!({})).await;
    assert_eq!(ready.status, 202, "{}", ready.text);
    ended(&one, "web", &taken(&one, "web").await).await;
    a.caught_up(&b).await;
    let _ = a.lose(&b).await;
    // What it has not: a lease in `web`, and the claim of that deployment.
    let lost = taken(&one, "web").await;
    let highest = token(&lost);
    let first = claimed(&one, "first").await;
    a.stop("QUIT");
    b.promote().await;

    for server in [&one, &other] {
        until_ready(server).await;
    }
    let gone = under_lease(&other, "web", &lost.id(), &lost.body["lease"]["secret"], "heartbeat").await;
    assert!(matches!(gone.refusal().0, 404 | 409), "{}", gone.text);
    let confirmed = under_lease(&other, "kept", &kept.id(), &kept.body["lease"]["secret"], "heartbeat").await;
    assert_eq!(confirmed.status, 200, "the new primary knows this lease: {}", confirmed.text);
    let again = taken(&other, "web").await;
    assert!(token(&again) > highest + 1_000_000, "{} after {highest}", again.text);
    // The second claim of one deployment is another lease.
    let second = claimed(&other, "second").await;
    assert_eq!(second.body["deployment"]["id"], first.body["deployment"]["id"]);
    let id = ready.id();
    let of_first = under_lease(&one, "api", &id, &first.body["lease"]["secret"], "heartbeat").await;
    assert_eq!(of_first.refusal().1, "LEASE_LOST", "{}", of_first.text);
    let of_second = under_lease(&one, "api", &id, &second.body["lease"]["secret"], "heartbeat").await;
    assert_eq!(of_second.status, 200, "{}", of_second.text);
    let at_b = b.client(&database).await;
    assert_eq!(count(&at_b, "audit WHERE action = 'fail_over' AND project = 'web'").await, 1, "it leaps once");
    ended(&one, "web", &again).await;

    // The former primary is there again, comes first in the URL, and all sessions must be made anew.
    a.start_again();
    let at_a = a.client(&database).await;
    let before = count(&at_a, "deployments").await;
    cut_sessions(&at_b).await;
    for server in [&one, &other] {
        let next = taken(server, "web").await;
        assert!(token(&next) > highest, "{}", next.text);
        ended(server, "web", &next).await;
    }
    // A server that is started now has seen nothing, and finds the newer one of two primaries.
    one.kill();
    one.boot();
    let next = taken(&one, "web").await;
    assert!(token(&next) > highest, "{}", next.text);
    ended(&other, "web", &next).await;
    assert_eq!(count(&at_a, "deployments").await, before, "nobody works on the former primary");
    assert_eq!(count(&at_b, "audit WHERE action = 'fail_over' AND project = 'web'").await, 1, "it leaps once");

    // Without the present primary nobody goes back.
    b.stop("INT");
    while other.get("/readyz").await.status != 503 {
        // What the last trial found is believed for a moment.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(taken(&other, "web").await.status, 503);
    assert_eq!(count(&at_a, "deployments").await, before, "nobody works on the former primary");
    let log = other.log();
    assert!(log.contains("former primary"), "{log}");
    b.start_again();
    until_ready(&other).await;
    assert!(token(&taken(&other, "web").await) > highest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_still_reaches_the_former_primary_leaves_it() {
    let Pair { a, b, database, url } = Pair::start().await;
    let servers = [TestServer::start_on(&url, CONFIG), TestServer::start_on(&url, CONFIG)];
    let first = taken(&servers[0], "web").await;
    let before = token(&first);
    ended(&servers[0], "web", &first).await;
    a.caught_up(&b).await;
    // Both are primaries from now on, and nothing breaks a connection to the former one.
    b.promote().await;
    for server in &servers {
        while !server.log().contains("the database was failed over; sessions of before are dropped") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let at_a = a.client(&database).await;
    let at_former = count(&at_a, "deployments").await;
    for server in &servers {
        let next = taken(server, "web").await;
        assert!(token(&next) > before + 1_000_000, "{}", next.text);
        ended(server, "web", &next).await;
    }
    assert_eq!(count(&at_a, "deployments").await, at_former, "nobody works on the former primary");
    assert_eq!(count(&b.client(&database).await, "audit WHERE action = 'fail_over'").await, 1);
}
