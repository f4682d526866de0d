//! Agents' calls, as they are noted by servers and at moments that know nothing of each other.

use std::time::Duration;

use singletrack::{clock::Clock as _, store::AgentCall};

use crate::{
    harness::postgres,
    store_trial::{Trial, name},
};

#[tokio::test]
async fn a_call_that_ended_is_over_whichever_is_noted_first() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let trial = Trial::postgres_at(&cluster.url(&database)).await;
    let call = || AgentCall {
        id: uuid::Uuid::now_v7(),
        worker: "builder".to_owned(),
        offers: [(name("web"), vec!["deploy".to_owned()])].into(),
        window: Duration::from_secs(600),
    };
    let parked = async || {
        let known = trial.store.agents(name("web"), trial.clock.now()).await.unwrap();
        known.first().map(|agent| agent.is_parked)
    };
    // Its end is noted first.
    let early = call();
    trial.store.agent_left(early.clone(), trial.clock.now());
    while parked().await.is_none() {}
    trial.store.agent_came(early, trial.clock.now()).await.unwrap();
    assert_eq!(parked().await, Some(false));

    // Its end is noted while the store is closed.
    let last = call();
    trial.store.agent_came(last.clone(), trial.clock.now()).await.unwrap();
    assert_eq!(parked().await, Some(true));
    trial.store.agent_left(last, trial.clock.now());
    trial.store.clone().shut_down().await;
    let admin = cluster.client(&database).await;
    let is_parked = "SELECT max(due_at) > now() FROM singletrack.agent_calls WHERE worker = 'builder'";
    assert!(!admin.query_one(is_parked, &[]).await.unwrap().get::<_, bool>(0));
    assert!(trial.store.agent_came(call(), trial.clock.now()).await.is_err(), "it is closed");
}
