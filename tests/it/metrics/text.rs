//! The two text formats, and what Prometheus' own checker says of them.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use reqwest::{Method, header::ACCEPT};
use serde_json::json;

use crate::harness::{Answer, TestServer, gated_config, send};

async fn scraped_as(server: &TestServer, accept: &str) -> Answer {
    send(server.request(Method::GET, "/metrics").header(ACCEPT, accept)).await
}

/// What `promtool check metrics` complains of.
fn complaints(text: &str) -> Vec<String> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool is there: scripts/prerequisites installs it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let told = promtool.wait_with_output().unwrap();
    let words = [told.stdout, told.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    let complaints: Vec<_> = words.lines().map(str::to_owned).collect();
    assert!(told.status.success() || !complaints.is_empty());
    complaints
}

#[tokio::test]
async fn each_client_gets_the_text_that_it_accepts_and_promtool_finds_nothing_in_it() {
    let server = TestServer::start(&gated_config(""));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    let plain = scraped_as(&server, "text/plain;version=0.0.4").await;
    assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(plain.header("vary"), "accept");
    assert_eq!(complaints(&plain.text), [""; 0]);
    assert!(!plain.text.contains("# EOF") && plain.text.contains("\n# TYPE singletrack_store_commits_total counter\n"));
    let open = scraped_as(&server, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text.ends_with("\n# EOF\n") && open.text.contains("\n# TYPE singletrack_store_commits counter\n"));
    // promtool reads OpenMetrics as if it were the plain text, in which a counter's family is named as its samples are.
    let of_the_format = |complaint: &String| complaint.ends_with("_total no help text");
    let complaints: Vec<_> = complaints(&open.text).into_iter().filter(|complaint| !of_the_format(complaint)).collect();
    assert_eq!(complaints, [""; 0]);
    let browser = scraped_as(&server, "text/html,application/xhtml+xml,*/*;q=0.8").await;
    assert_eq!(browser.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let anything = scraped_as(&server, "application/json").await;
    assert_eq!(anything.status, 200, "figures are answered to whoever asks");
}

#[tokio::test]
async fn every_family_has_one_type_one_help_and_stands_together() {
    let server = TestServer::start(&gated_config(""));
    let text = scraped_as(&server, "text/plain").await.text;
    let (mut families, mut family) = (Vec::new(), String::new());
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, _) = told.split_once(' ').unwrap();
            assert!(!families.contains(&name), "{name} has two types");
            families.push(name);
            assert_eq!(family, name, "its help stands before it");
        } else if let Some(told) = line.strip_prefix("# HELP ") {
            let (name, help) = told.split_once(' ').unwrap();
            assert!(help.ends_with('.') && !help.ends_with(".."), "{line}");
            family = name.to_owned();
        } else {
            assert!(line.starts_with(&family), "{line} is not of {family}");
        }
    }
    assert!(families.len() > 40, "{families:?}");
}
