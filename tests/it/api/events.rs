//! Events: each exactly once and in order, by stream and by long-poll, whatever a pipeline prints.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{TestServer, gated_config, send, stream::Frame};

/// All of a deployment's events by long-poll, a page at a time.
async fn polled(server: &TestServer, id: &str) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let after = events.last().map_or(0, |event: &Value| event["seq"].as_u64().unwrap());
        let page = server.deployment(id, &format!("/events?after={after}&maxWaitSeconds=60")).await.body;
        events.extend(page["events"].as_array().unwrap().iter().cloned());
        if page["final"] == true {
            return events;
        }
    }
}

/// The events in frames: all of them but the first, which tells the state as it is.
#[track_caller]
fn events(frames: &[Frame]) -> Vec<Value> {
    let (first, rest) = frames.split_first().unwrap();
    assert_eq!((first.id, first.name.as_str()), (None, "progress"), "the first frame is the state as it is");
    rest.iter().filter(|frame| frame.comment.is_none()).map(|frame| frame.data.clone()).collect()
}

/// Fails unless the events are those after `after` to the end, each once and in order, gaps told.
#[track_caller]
fn assert_whole(events: &[Value], after: u64) {
    let mut seen = after;
    for event in events {
        let first = if event["type"] == "gap" { &event["from"] } else { &event["seq"] };
        assert_eq!(first.as_u64().unwrap(), seen + 1, "after {seen} comes {event}");
        seen = event["seq"].as_u64().unwrap();
    }
    let complete: Vec<_> = events.iter().filter(|event| event["type"] == "complete").collect();
    assert_eq!(complete.len(), 1, "one event ends it");
    assert_eq!(events.last(), complete.first().copied(), "it is the last");
}

#[tokio::test]
async fn a_stream_replays_goes_on_live_and_is_closed_after_the_end() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let mut stream = server.stream(&id, None).await;
    assert_eq!(stream.headers()["cache-control"], "no-cache, no-transform");
    assert_eq!(stream.headers()["x-accel-buffering"], "no");
    assert!(stream.headers().get("content-length").is_none());
    let mut frames = Vec::new();
    while frames.last().is_none_or(|frame: &Frame| frame.data["lines"][0] != "at the gate") {
        frames.push(stream.next().await.unwrap());
    }
    assert_eq!(frames[0].data, json!({ "type": "progress", "status": "RUNNING", "progress": 0, "message": null }));
    // What has happened came before anything else did: now it happens live.
    server.open_gate();
    frames.extend(stream.rest().await);
    let streamed = events(&frames);
    assert_whole(&streamed, 0);
    assert_eq!(streamed, polled(&server, &id).await, "the same events either way");
    let mut complete = streamed.last().unwrap().clone();
    for name in ["seq", "at", "type"] {
        complete.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(complete, server.deployment(&id, "").await.body, "it carries the whole final deployment");
    let kinds: Vec<_> = streamed.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["status", "queue", "status"]);
    assert!(kinds.contains(&"phase") && kinds.contains(&"log") && kinds.contains(&"progress"), "{kinds:?}");
}

#[tokio::test]
async fn a_resumed_stream_neither_loses_nor_doubles_an_event() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    // Live: cut off after each frame, and taken up again from there, until the gate holds it up.
    let mut seen: Vec<Frame> = Vec::new();
    loop {
        let after = seen.last().and_then(|frame| frame.id);
        let mut stream = server.stream(&id, after).await;
        assert_eq!(stream.next().await.unwrap().id, None, "every connection begins with the state");
        seen.push(stream.next().await.unwrap());
        if seen.last().unwrap().data["lines"][0] == "at the gate" {
            break;
        }
    }
    let stream = server.stream(&id, seen.last().unwrap().id).await;
    server.open_gate();
    let rest = events(&stream.rest().await);
    let all: Vec<_> = seen.into_iter().map(|frame| frame.data).chain(rest).collect();
    assert_whole(&all, 0);
    // Afterwards: from every place, by header and by parameter, the rest and nothing else.
    for (index, event) in all.iter().enumerate() {
        let after = event["seq"].as_u64().unwrap();
        // Behind the last one there is no stream any more.
        if index + 1 < all.len() {
            let streamed = events(&server.stream(&id, Some(after)).await.rest().await);
            assert_eq!(streamed, all[index + 1..], "after {after}");
        }
        let page = server.deployment(&id, &format!("/events?after={after}&maxWaitSeconds=0")).await.body;
        assert_eq!(page["events"].as_array().unwrap()[..], all[index + 1..], "after {after}");
        assert_eq!((&page["final"], &page["last"]), (&json!(true), &all.last().unwrap()["seq"]));
    }
}

#[tokio::test]
async fn a_line_brings_its_events_too() {
    let server = TestServer::gated();
    let holder = server.at_the_gate().await;
    let queued = server.accepted(json!({ "onConflict": "queue", "pipeline": "quick" })).await;
    let last = server.accepted(json!({ "onConflict": "queue", "pipeline": "broken" })).await;
    let stream = server.stream(&last, None).await;
    let window = server.deployment(&last, "/events?after=2&maxWaitSeconds=0").await.body;
    assert_eq!(window, json!({ "events": [], "last": 2, "final": false }), "a window ends without events");
    server.open_gate();
    let streamed = events(&stream.rest().await);
    assert_whole(&streamed, 0);
    assert_eq!((&streamed[1]["type"], &streamed[1]["position"]), (&json!("queue"), &json!(2)));
    assert_eq!(streamed[1]["blocker"], *holder);
    assert_eq!((&streamed[2]["type"], &streamed[2]["position"]), (&json!("queue"), &json!(0)));
    let failed = streamed.iter().find(|event| event["state"] == "failed").unwrap();
    assert_eq!(failed["name"], "only");
    assert!(streamed.iter().any(|event| event["stream"] == "stderr" && event["lines"] == json!(["it is broken"])));
    let complete = streamed.last().unwrap();
    assert_eq!((&complete["status"], &complete["error"]["code"]), (&json!("FAILED"), &json!("PHASE_FAILED")));
    assert_whole(&polled(&server, &queued).await, 0);
}

#[tokio::test]
async fn no_output_breaks_out_of_its_event() {
    let server = TestServer::start(&gated_config(
        r#"
[[projects.web.pipelines.odd.phases]]
name = "odd"
run = '''
printf 'gr\303\274n \342\234\205 \360\237\232\202\n'
printf 'one\rtwo\r\nthree\n'
printf 'a\000b\n'
printf '\n\nid: 99\nevent: complete\ndata: {"status":"SUCCEEDED"}\n\n'
printf 'x\342\200\250y\302\205z\n'
printf '\377\376 \033[31mred\033[0m \007\n'
printf '"quoted\\" \\u0041 {}\n'
printf '::singletrack progress=40 message=Ho\303\274ch \033[2J::\n'
printf 'no newline'
'''
"#,
    ));
    let id = server.accepted(json!({ "pipeline": "odd" })).await;
    // The reader holds every byte of it against the form that a frame must have.
    let streamed = events(&server.stream(&id, None).await.rest().await);
    assert_whole(&streamed, 0);
    assert_eq!(streamed, polled(&server, &id).await);
    let lines: Vec<&str> = streamed
        .iter()
        .filter(|event| event["type"] == "log")
        .flat_map(|event| event["lines"].as_array().unwrap())
        .map(|line| line.as_str().unwrap())
        .collect();
    let text = lines.join("\n");
    for kept in [
        "grün ✅ 🚂",
        "three",
        "event: complete",
        "data: {\"status\":\"SUCCEEDED\"}",
        "\"quoted\\\" \\u0041 {}",
        "red",
        "no newline",
    ] {
        assert!(text.contains(kept), "{kept:?} is not in {lines:?}");
    }
    assert!(!lines.iter().any(|line| line.chars().any(|c| c.is_control() && c != '\t')), "{lines:?}");
    let told = streamed.iter().find(|event| event["type"] == "progress" && event["progress"] == 40).unwrap();
    assert!(told["message"].as_str().unwrap().starts_with("Hoüch"), "{told}");
    assert!(!told["message"].as_str().unwrap().contains('\u{1b}'), "{told}");
}

#[tokio::test]
async fn a_flood_is_cut_and_says_so_and_no_slow_reader_holds_it_up() {
    // More than is kept, at a pace at which nothing is dropped on the way.
    let server = TestServer::start(&gated_config(
        r#"
[[projects.web.pipelines.flood.phases]]
name = "flood"
run = '''
line=$(printf '%01000d' 7)
for round in $(seq 100); do
  for part in $(seq 125); do echo "$line"; done
  sleep 0.01
done
'''
[[projects.web.pipelines.flood.phases]]
name = "last"
run = "echo the end"
"#,
    ));
    let id = server.accepted(json!({ "pipeline": "flood" })).await;
    // Connected from the beginning, and not read from until the end.
    let mut slow = server.connect().await;
    let head = format!(
        "GET /v1/projects/web/deployments/{id}/events HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n",
        server.authority()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let ended = server.finished(&id).await;
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    let all = polled(&server, &id).await;
    assert_whole(&all, 0);
    let gaps: Vec<_> = all.iter().filter(|event| event["type"] == "gap").collect();
    assert!(!gaps.is_empty(), "nothing was cut: {} events", all.len());
    let kept: usize = all
        .iter()
        .filter_map(|event| event["lines"].as_array())
        .flatten()
        .map(|line| line.as_str().unwrap().len())
        .sum();
    assert!(kept < 11 << 20, "{kept} bytes are kept");
    let names: Vec<_> = all.iter().filter(|event| event["type"] == "phase").map(|event| &event["state"]).collect();
    assert_eq!(names, ["started", "succeeded", "started", "succeeded"], "phases are never cut");
    assert!(all.iter().any(|event| event["lines"] == json!(["the end"])), "the tail is kept");
    assert_eq!(all, events(&server.stream(&id, None).await.rest().await));
    // Within the gap: from there on, the rest of it is announced.
    let within = gaps[0]["from"].as_u64().unwrap();
    let rest = events(&server.stream(&id, Some(within)).await.rest().await);
    assert_whole(&rest, within);

    // The slow reader gets what was kept, each event once and in order, to the end.
    let mut text = String::new();
    slow.read_to_string(&mut text).await.unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let read: Vec<Value> = body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    assert_whole(&read[1..], 0);
}

#[tokio::test]
async fn a_stream_that_is_resumed_at_the_end_of_a_final_deployment_is_told_that_nothing_more_comes() {
    let server = TestServer::gated();
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    let path = format!("/v1/projects/web/deployments/{id}/events");
    let last = server.get(&path).await.body["last"].as_u64().unwrap();
    let open = |last_id: &str, query: &str| {
        let request = server.request(Method::GET, &format!("{path}{query}"));
        request.header("Accept", "text/event-stream").header("Last-Event-ID", last_id.to_owned())
    };
    let ended = send(open(&last.to_string(), "")).await;
    assert_eq!((ended.status, ended.text.as_str()), (204, ""));
    let after =
        send(server.request(Method::GET, &format!("{path}?after={last}")).header("Accept", "text/event-stream"));
    assert_eq!(after.await.status, 204);
    // What is not the end is a stream, and an empty id is none.
    for (last_id, query, count) in [(&*(last - 1).to_string(), "", 2), ("", "", last + 1), ("", "?after=1", last)] {
        let answer = send(open(last_id, query)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.text.matches("\nevent: ").count() as u64 + 1, count, "{last_id:?} {query}: {}", answer.text);
    }
    // A page is a page however late it is asked for.
    assert_eq!(server.get(&format!("{path}?after={last}")).await.status, 200);
}
