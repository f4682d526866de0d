//! The figures of the whole store: alike at each of its servers, and no scrape waits for long where it does not answer.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Scraped, scraped_until};
use crate::harness::{TestServer, gated_config, postgres};

#[tokio::test]
async fn two_servers_of_one_database_tell_the_same_slots_and_lines_and_each_counts_what_it_did() {
    let store = postgres::shared().store().await;
    let config = gated_config("");
    let (one, other) = (TestServer::start_on(&store, &config), TestServer::start_on(&store, &config));
    let wish = json!({ "executor": "client", "claim": true, "leaseSeconds": 600 });
    assert_eq!(one.submit(wish).await.status, 202);
    other.accepted(json!({ "pipeline": "quick", "onConflict": "queue" })).await;
    let web = [("project", "web")];
    for server in [&one, &other] {
        let scraped = scraped_until(server, |scraped| scraped.value("singletrack_line_length", &web) == 1.0).await;
        assert_eq!(scraped.value("singletrack_slots_held", &[("project", "web"), ("state", "running")]), 1.0);
        assert!(scraped.value("singletrack_slot_held_seconds", &web) > 0.0);
        assert!(scraped.value("singletrack_store_size_bytes", &[]) > 100_000.0);
        assert!(!scraped.names().contains("singletrack_store_free_bytes"), "the database's disk is not ours");
        // Each admitted one of the two; one of them started.
        assert_eq!(scraped.value("singletrack_deployments_submitted_total", &web), 1.0);
    }
    let starts = async |server| Scraped::of(server).await.value("singletrack_deployment_wait_seconds_count", &web);
    assert_eq!((starts(&one).await, starts(&other).await), (1.0, 0.0));
}

#[tokio::test]
async fn a_database_that_does_not_answer_leaves_the_last_figures_and_their_age_and_delays_no_scrape() {
    let mut cluster = postgres::Cluster::start(postgres::UNSAFE);
    let store = cluster.store().await;
    let server = TestServer::start_on(&store, &gated_config(""));
    assert_eq!(server.submit(json!({ "executor": "client", "claim": true, "leaseSeconds": 600 })).await.status, 202);
    let running = [("project", "web"), ("state", "running")];
    let is_shown = |scraped: &Scraped| scraped.value("singletrack_slots_held", &running) == 1.0;
    scraped_until(&server, is_shown).await;
    cluster.stop("INT");
    let is_old = |scraped: &Scraped| {
        assert!(is_shown(scraped), "the last figures are kept");
        scraped.value("singletrack_store_figures_age_seconds", &[]) > 6.0
    };
    scraped_until(&server, is_old).await;
    let asked = Instant::now();
    for _ in 0..10 {
        Scraped::of(&server).await;
    }
    // One of these may have waited for a second; each of them for its own would be ten.
    assert!(asked.elapsed() < Duration::from_secs(9), "ten scrapes took {:?}", asked.elapsed());
    cluster.start_again();
    scraped_until(&server, |scraped| scraped.value("singletrack_store_figures_age_seconds", &[]) < 5.0).await;
}
