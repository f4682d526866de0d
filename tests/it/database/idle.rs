//! Servers that have nothing to do leave the database alone, nearly.

use std::time::Duration;

use crate::harness::{
    TestServer, gated_config,
    postgres::{Cluster, UNSAFE},
};

/// How long it is counted: each of the servers' periods is in it at least once.
const SPAN: Duration = Duration::from_secs(16);
/// How many statements three idle servers may send in a second, together.
const RATE_LIMIT: f64 = 2.0;

#[tokio::test]
async fn three_idle_servers_send_fewer_than_two_statements_a_second() {
    let cluster = Cluster::start(&[UNSAFE, &["shared_preload_libraries=pg_stat_statements"]].concat());
    let database = cluster.database().await;
    let store = cluster.url(&database);
    let servers: Vec<TestServer> = (0..3).map(|_| TestServer::start_on(&store, &gated_config(""))).collect();
    // They have worked, so whatever work leaves running is seen, too.
    let id = servers[0].accepted(serde_json::json!({ "pipeline": "quick" })).await;
    for server in &servers {
        server.finished(&id).await;
    }
    let admin = cluster.client(&database).await;
    admin.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    // What the last deployment left behind has its time to end.
    tokio::time::sleep(Duration::from_secs(4)).await;
    admin.query("SELECT pg_stat_statements_reset()", &[]).await.unwrap();
    tokio::time::sleep(SPAN).await;
    let count = "SELECT sum(calls)::bigint, string_agg(calls || ' × ' || left(query, 60), E'\\n' ORDER BY calls DESC) \
        FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'";
    let row = admin.query_one(count, &[]).await.unwrap();
    let (calls, which): (Option<i64>, Option<String>) = (row.get(0), row.get(1));
    let rate = calls.unwrap_or_default() as f64 / SPAN.as_secs_f64();
    assert!(rate < RATE_LIMIT, "{rate:.2} statements a second:\n{}", which.unwrap_or_default());
    assert!(rate > 0.0, "they would not notice anything any more");
}
