//! Which projects have a label of their own.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::json;

use super::Scraped;
use crate::harness::{TestServer, gated_config};

/// The values of the label `project`.
fn projects(scraped: &Scraped) -> BTreeSet<&str> {
    let values = scraped.0.lines().filter_map(|line| line.split_once("project=\"")?.1.split_once('"'));
    values.map(|(project, _)| project).collect()
}

#[tokio::test]
async fn a_project_that_is_not_configured_is_counted_without_its_name() {
    let server = TestServer::start(&gated_config(""));
    for project in ["stranger", "other", "unlike-any"] {
        let path = format!("/v1/projects/{project}/deployments");
        let answer = server.post(&path, json!({ "executor": "client", "claim": true })).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
    }
    let held = |scraped: &Scraped| {
        scraped.value("singletrack_slots_held", &[("project", "_other"), ("state", "running")]) == 3.0
    };
    let scraped = super::scraped_until(&server, held).await;
    assert_eq!(projects(&scraped), BTreeSet::from(["_other", "web"]));
    assert_eq!(scraped.value("singletrack_deployments_submitted_total", &[("project", "_other")]), 3.0);
    assert_eq!(scraped.value("singletrack_deployment_wait_seconds_count", &[("project", "_other")]), 3.0);
    assert!(!scraped.0.contains("stranger"), "no text of a client gets in");
}

#[tokio::test]
async fn of_many_configured_projects_two_hundred_have_a_label() {
    let mut config = String::new();
    (0..230).for_each(|number| writeln!(config, "[projects.p{number:03}]").unwrap());
    let server = TestServer::start(&config);
    let scraped = Scraped::of(&server).await;
    let labelled = projects(&scraped);
    assert_eq!(labelled.len(), 201);
    assert!(labelled.contains("p000") && labelled.contains("p199") && labelled.contains("_other"));
}

#[tokio::test]
async fn a_reload_adds_and_removes_the_series_of_projects_and_keeps_the_counts_of_the_rest() {
    let server = TestServer::start(&format!("{}\n[projects.old]\n", gated_config("")));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    assert_eq!(projects(&Scraped::of(&server).await), BTreeSet::from(["_other", "old", "web"]));
    server.configure(&format!("{}\n[projects.new]\n", gated_config("")));
    assert_eq!(server.post("/v1/admin/reload", json!({})).await.status, 200);
    let scraped = Scraped::of(&server).await;
    assert_eq!(projects(&scraped), BTreeSet::from(["_other", "new", "web"]));
    assert_eq!(scraped.value("singletrack_deployments_submitted_total", &[("project", "web")]), 1.0);
    assert_eq!(scraped.value("singletrack_deployments_submitted_total", &[("project", "new")]), 0.0);
    assert_eq!(scraped.value("singletrack_line_length", &[("project", "new")]), 0.0);
}
