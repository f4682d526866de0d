//! Agents that are handed work again and again are not written down again and again.

use std::time::{Duration, Instant};

use singletrack::{clock::Clock as _, store::AgentCall};

use crate::{
    harness::postgres::{Cluster, UNSAFE},
    store_trial::{Trial, name},
};

/// How often the agent asks.
const CALL_COUNT: i64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_follow_each_other_share_a_statement_and_the_last_one_counts() {
    let cluster = Cluster::start(&[UNSAFE, &["shared_preload_libraries=pg_stat_statements"]].concat());
    let database = cluster.database().await;
    let trial = Trial::postgres_at(&cluster.url(&database)).await;
    let admin = cluster.client(&database).await;
    admin.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();

    let begun = Instant::now();
    let call = || AgentCall {
        id: uuid::Uuid::now_v7(),
        worker: "builder".to_owned(),
        offers: [(name("web"), vec!["deploy".to_owned()])].into(),
        window: Duration::from_secs(600),
    };
    for _ in 0..CALL_COUNT {
        let call = call();
        trial.store.agent_came(call.clone(), trial.clock.now()).await.unwrap();
        trial.store.agent_left(call, trial.clock.now());
    }
    let agent = async || {
        let known = trial.store.agents(name("web"), trial.clock.now()).await.unwrap();
        let [agent] = known.try_into().expect("one agent");
        agent
    };
    // The last word is that it went.
    while agent().await.is_parked {}
    let seconds = begun.elapsed().as_secs();
    let count = "SELECT sum(calls)::bigint FROM pg_stat_statements WHERE query LIKE '%INSERT INTO agent_calls%'";
    let told: i64 = admin.query_one(count, &[]).await.unwrap().get(0);
    // As it came, and then once a second.
    let limit = i64::try_from(seconds).unwrap() + 3;
    assert!((2..=limit).contains(&told), "{told} statements for {CALL_COUNT} calls in {seconds} s");

    // It comes back, and goes while the store is closed.
    let last = call();
    trial.store.agent_came(last.clone(), trial.clock.now()).await.unwrap();
    while !agent().await.is_parked {}
    trial.store.agent_left(last, trial.clock.now());
    trial.store.clone().shut_down().await;
    let is_parked = "SELECT max(due_at) > now() FROM singletrack.agent_calls WHERE worker = 'builder'";
    assert!(!admin.query_one(is_parked, &[]).await.unwrap().get::<_, bool>(0));
    assert!(trial.store.agent_came(call(), trial.clock.now()).await.is_err(), "it is closed");
}
