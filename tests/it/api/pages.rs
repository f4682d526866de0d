//! Pages are bounded in bytes, too: however large the entries are, all of them are there, in order, page by page.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::harness::{TestServer, gated_config, postgres, send};

/// A page ends before it is larger than this.
const PAGE_BYTES: usize = 1 << 20;
/// What stands around the entries.
const AROUND: usize = 4 << 10;

/// A deployment that its client ran, with as many outputs as it may have.
async fn large_success(server: &TestServer, project: &str) -> String {
    let path = format!("/v1/projects/{project}/deployments");
    let taken = server.post(&path, json!({ "executor": "client", "claim": true })).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    let outputs: Map<_, _> = (0..8).map(|n| (format!("n{n}"), json!("v".repeat(8000)))).collect();
    let finish = server.request(Method::POST, &format!("{path}/{}/finish", taken.id()));
    let finish = finish.header("Singletrack-Lease", taken.body["lease"]["secret"].as_str().unwrap());
    let ended = send(finish.json(&json!({ "status": "SUCCEEDED", "outputs": outputs }))).await;
    assert_eq!(ended.status, 200, "{}", ended.text);
    taken.id()
}

/// All entries of a list, page by page, and how many pages they are.
async fn walked(server: &TestServer, path: &str, entries: &str) -> (Vec<Value>, usize) {
    let (mut all, mut cursor, mut page_count) = (Vec::new(), String::new(), 0);
    loop {
        let page = server.get(&format!("{path}?limit=100{cursor}")).await;
        assert!(page.text.len() <= PAGE_BYTES + AROUND, "a page of {} bytes", page.text.len());
        let found = page.body[entries].as_array().unwrap();
        assert!(!found.is_empty(), "a cursor leads to something");
        all.extend(found.iter().cloned());
        page_count += 1;
        match page.body["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (all, page_count),
        }
    }
}

async fn bounds_its_lists(store: &str) {
    let server = TestServer::start_on(store, &gated_config(""));
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(large_success(&server, "web").await);
    }
    ids.reverse();
    let (deployments, page_count) = walked(&server, "/v1/projects/web/deployments", "deployments").await;
    assert_eq!(deployments.iter().map(|it| it["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    assert!(page_count > 1, "they are more than one page holds");

    let mut names: Vec<_> = (0..40).map(|n| format!("p{n:02}")).collect();
    for name in &names {
        large_success(&server, name).await;
    }
    names.push("web".to_owned());
    let (projects, page_count) = walked(&server, "/v1/projects", "projects").await;
    assert_eq!(projects.iter().map(|it| it["project"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert!(page_count > 1 && projects.iter().all(|it| it["lastOutcome"]["status"] == "SUCCEEDED"));
    // Small pages are exact: the last one has no cursor.
    let last = server.get("/v1/projects?limit=1&cursor=p39").await.body;
    assert_eq!((&last["projects"][0]["project"], &last["nextCursor"]), (&json!("web"), &Value::Null));
}

#[tokio::test]
async fn pages_of_lists_are_bounded_in_bytes_and_leave_nothing_out() {
    bounds_its_lists("sqlite:test.db").await;
}

#[tokio::test]
async fn pages_of_lists_are_bounded_in_bytes_on_postgresql() {
    bounds_its_lists(&postgres::shared().store().await).await;
}

#[tokio::test]
async fn pages_of_events_are_bounded_in_bytes_and_leave_nothing_out() {
    let server = TestServer::gated();
    let taken = server.submit(json!({ "executor": "client", "claim": true })).await;
    let (id, secret) = (taken.id(), taken.body["lease"]["secret"].as_str().unwrap().to_owned());
    let lines = vec!["l".repeat(1 << 10); 200];
    for first in 1..=30 {
        let report = json!({ "type": "log", "stream": "stdout", "lines": lines });
        let path = format!("/v1/projects/web/deployments/{id}/reports");
        let request = server.request(Method::POST, &path).header("Singletrack-Lease", &secret);
        assert_eq!(send(request.json(&json!({ "first": first, "reports": [report] }))).await.status, 200);
    }
    let (mut after, mut log_count, mut page_count) = (0, 0, 0);
    while log_count < 30 {
        let page = server.deployment(&id, &format!("/events?after={after}&maxWaitSeconds=60")).await;
        // The first few are read before it is known how large they are.
        assert!(page.text.len() < 2 * PAGE_BYTES, "a page of {} bytes", page.text.len());
        for event in page.body["events"].as_array().unwrap() {
            assert_eq!(event["seq"], after + 1);
            after += 1;
            log_count += usize::from(event["type"] == "log");
        }
        page_count += 1;
    }
    assert!(page_count > 3, "6 MiB are more than three pages");
}
