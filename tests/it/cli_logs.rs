//! `logs` of a part of the output: the last lines, those since a moment, and when they came; and the same by the API.

use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{SINGLETRACK, TestServer, send};

/// Prints ten lines in two parts, between which it waits at the gate, and ends when a file is there.
const PARTS: &str = r#"
[[projects.web.pipelines.parts.phases]]
name = "first"
run = 'for n in 1 2 3 4 5; do echo "line $n"; done; flock --shared "$TEST_DIR/gate" true'
[[projects.web.pipelines.parts.phases]]
name = "second"
run = 'for n in 6 7 8 9 10; do echo "line $n"; done'
"#;

fn lines(numbers: std::ops::RangeInclusive<u32>) -> String {
    numbers.map(|number| format!("line {number}\n")).collect()
}

/// What `logs` prints on standard output.
#[track_caller]
fn logs(server: &TestServer, id: &str, flags: &[&str]) -> String {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().args(["logs", "--project", "web", "--server", &server.base, id]).args(flags);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{flags:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn events(page: &Value) -> Vec<Value> {
    page["events"].as_array().unwrap().clone()
}

fn printed(events: &[Value]) -> String {
    let lines = events.iter().filter_map(|event| event["lines"].as_array()).flatten();
    lines.map(|line| format!("{}\n", line.as_str().unwrap())).collect()
}

/// A deployment that has printed all, and when the second part of it began.
async fn whole(server: &TestServer) -> (String, String) {
    let id = server.accepted(json!({ "pipeline": "parts" })).await;
    let first = server
        .event(&id, |event| event["lines"].as_array().is_some_and(|lines| lines.contains(&json!("line 5"))))
        .await;
    // The next part must not carry the same millisecond.
    let at: jiff::Timestamp = first["at"].as_str().unwrap().parse().unwrap();
    while jiff::Timestamp::now().as_millisecond() <= at.as_millisecond() {
        std::thread::yield_now();
    }
    server.open_gate();
    server.finished(&id).await;
    let second = server.event(&id, |event| event["name"] == "second").await;
    (id, second["at"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn logs_print_the_last_lines_those_since_a_moment_and_when_they_came() {
    let server = TestServer::gated_with(PARTS);
    let (id, second) = whole(&server).await;
    let [all, second_part] = [lines(1..=10), lines(6..=10)];
    for (flags, expected) in [
        (&[][..], all.as_str()),
        (&["--tail", "100"], &all),
        (&["--tail", "10"], &all),
        (&["--tail", "7"], &lines(4..=10)),
        (&["-n", "1"], &lines(10..=10)),
        (&["--tail", "0"], ""),
        (&["--since", "1h"], &all),
        (&["--since", &second], &second_part),
        (&["--since", &second, "--tail", "2"], &lines(9..=10)),
        (&["--since", &second, "--tail", "7"], &second_part),
        (&["--since", "2100-01-01"], ""),
    ] {
        assert_eq!(logs(&server, &id, flags), expected, "{flags:?}");
        assert_eq!(logs(&server, &id, &[flags, &["--follow"]].concat()), expected, "{flags:?} --follow");
    }
    let stamped = logs(&server, &id, &["--timestamps", "--tail", "1"]);
    let (at, line) = stamped.split_once(' ').unwrap();
    assert_eq!(line, "line 10\n");
    assert!(at.parse::<jiff::Timestamp>().is_ok() && at >= second.as_str(), "{stamped}");
}

#[tokio::test]
async fn logs_that_follow_begin_with_the_last_lines_and_go_on() {
    let server = TestServer::gated_with(PARTS);
    let id = server.accepted(json!({ "pipeline": "parts" })).await;
    server.event(&id, |event| event["lines"].as_array().is_some_and(|lines| lines.contains(&json!("line 5")))).await;
    let follow = |flags: &[&str]| {
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().args(["logs", "--project", "web", "--server", &server.base, &id, "--follow"]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (two, none) = (follow(&["--tail", "2"]), follow(&["--tail", "0"]));
    server.parked(2).await;
    server.open_gate();
    for (child, expected) in [(two, lines(4..=10)), (none, lines(6..=10))] {
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(0), expected));
    }
}

#[tokio::test]
async fn a_stream_and_a_long_poll_begin_where_they_are_asked_to() {
    let server = TestServer::gated_with(PARTS);
    let (id, _) = whole(&server).await;
    let page = server.deployment(&id, "/events?tail=3&maxWaitSeconds=0").await.body;
    assert_eq!((printed(&events(&page)), &page["final"]), (lines(8..=10), &json!(true)));
    assert_eq!(events(&page).last().unwrap()["type"], "complete");
    let path = format!("/v1/projects/web/deployments/{id}/events?tail=3");
    let stream = |last: &'static str| {
        let request = server.request(Method::GET, &path).header("Accept", "text/event-stream");
        async move { request.header("Last-Event-ID", last).send().await.unwrap().text().await.unwrap() }
    };
    let begun = stream("").await;
    assert!(begun.contains("line 8") && !begun.contains("line 7"), "{begun}");
    let resumed = stream("1").await;
    assert!(resumed.contains("line 1"), "whoever goes on misses nothing: {resumed}");
    let answer = send(server.request(Method::GET, &format!("{path}&since=1h"))).await;
    assert_eq!(printed(&events(&answer.body)), lines(8..=10));
}
