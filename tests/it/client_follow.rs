//! Following a deployment, against streams that are mute, broken, repeated or held back: each event comes once and in
//! order, and the end is found.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use singletrack::{
    client::{
        calls::{Connection, Credentials, Fault, Patience},
        follow::{FollowLimits, Follower, How, Update},
    },
    clock::SystemClock,
    model::{EventBody, Status},
    wire::{Deployment, Event, EventData},
};

use crate::fake::{Fake, OURS, Part, Reply, Request, complete, deployment, frame, log, problem};

const EVENTS: &str = "GET events";

/// What following led to: the lines, the changes of means, and the end.
struct Followed {
    lines: Vec<String>,
    switches: Vec<String>,
    end: Result<Deployment, Fault>,
}

async fn follow(fake: &Fake, how: How) -> Followed {
    let patience = Patience { first: Duration::from_secs(5), later: Some(Duration::from_secs(5)) };
    let base = fake.url.parse().unwrap();
    let clock = Arc::new(SystemClock);
    let connection = Connection::new(base, Credentials::default(), None, patience, Box::new(|_| {}), clock).unwrap();
    let project = "web".parse().unwrap();
    let limits = FollowLimits {
        first_byte: Duration::from_millis(400),
        silence: Duration::from_millis(400),
        window: Duration::from_secs(1),
        block_limit: 64 << 10,
    };
    let mut follower =
        Follower { connection: &connection, project: &project, id: OURS.parse().unwrap(), limits, after: 0 };
    let (mut lines, mut switches) = (Vec::new(), Vec::new());
    let mut show = |update| match update {
        Update::Event(Event { data: EventData::Other(EventBody::Log { lines: new, .. }), .. }) => lines.extend(new),
        Update::Switched(text) => switches.push(text),
        Update::Event(_) | Update::State { .. } => {}
    };
    let end = follower.follow(how, &mut show).await;
    Followed { lines, switches, end }
}

impl Followed {
    #[track_caller]
    fn expect(&self, lines: &[&str]) -> &Self {
        assert_eq!(self.lines, lines, "each once and in order");
        assert_eq!(self.end.as_ref().expect("an end").status, Status::Succeeded);
        self
    }
}

fn is_stream(request: &Request) -> bool {
    request.header("accept") == Some("text/event-stream")
}

/// Events 1 and 2 are output, 3 is the end.
fn history() -> [Value; 3] {
    [log("one"), log("two"), complete(&deployment(OURS, "SUCCEEDED"))]
}

/// A stream's text after `after`.
fn rest(after: u64) -> String {
    let events = history();
    (after + 1..=3).map(|seq| frame(seq, &events[seq as usize - 1])).collect()
}

/// The long-poll's answer after `after`.
fn page(after: u64) -> Reply {
    let events: Vec<Value> = (after + 1..=3)
        .map(|seq| {
            let mut event = history()[seq as usize - 1].clone();
            event["seq"] = json!(seq);
            event["at"] = json!("2026-03-01T12:00:00.000Z");
            event
        })
        .collect();
    Reply::Json(200, json!({"events": events, "last": 3, "final": true}))
}

/// A server whose streams are as `stream` says; everything else about it is well.
fn streaming(stream: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Fake {
    Fake::start(move |request, nth| match request.route().as_str() {
        EVENTS if is_stream(request) => stream(request, nth),
        EVENTS => {
            let after = request.query.split('&').find_map(|pair| pair.strip_prefix("after="));
            page(after.and_then(|after| after.parse().ok()).expect("a cursor"))
        }
        // How it stands, between two streams.
        _ => Reply::Json(200, deployment(OURS, "RUNNING")),
    })
}

fn after(request: &Request) -> u64 {
    request.header("last-event-id").map_or(0, |id| id.parse().expect("a number"))
}

#[tokio::test]
async fn a_stream_that_works_is_all_there_is() {
    let fake = streaming(|_, _| Reply::Stream(vec![Part::Text(rest(0))]));
    let followed = follow(&fake, How::Auto).await;
    assert!(followed.expect(&["one", "two"]).switches.is_empty());
    assert_eq!(fake.routes(), [EVENTS]);
}

#[tokio::test]
async fn a_stream_that_breaks_in_the_middle_of_an_event_goes_on_behind_the_last_whole_one() {
    let half = frame(2, &log("two"));
    let half = half[..half.len() / 2].to_owned();
    let fake = streaming(move |request, nth| match nth {
        0 => Reply::Stream(vec![Part::Text(frame(1, &log("one"))), Part::Text(half.clone()), Part::Break]),
        _ => Reply::Stream(vec![Part::Text(rest(after(request)))]),
    });
    assert!(follow(&fake, How::Auto).await.expect(&["one", "two"]).switches.is_empty());
    let streams = fake.of(EVENTS);
    assert_eq!(streams.len(), 2);
    assert_eq!(streams[0].header("last-event-id"), None);
    assert_eq!(streams[1].header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn a_last_event_without_its_empty_line_is_not_whole() {
    let fake = streaming(|request, nth| match nth {
        0 => Reply::Stream(vec![Part::Text(format!("{}{}", frame(1, &log("one")), frame(2, &log("two")).trim_end()))]),
        _ => Reply::Stream(vec![Part::Text(rest(after(request)))]),
    });
    follow(&fake, How::Auto).await.expect(&["one", "two"]);
    assert_eq!(fake.of(EVENTS)[1].header("last-event-id"), Some("1"));
}

#[tokio::test]
async fn what_comes_twice_is_passed_on_once() {
    let fake = streaming(|_, nth| match nth {
        0 => Reply::Stream(vec![Part::Text(frame(1, &log("one"))), Part::Text(frame(1, &log("one"))), Part::Break]),
        // It begins anew, whatever was asked for.
        _ => Reply::Stream(vec![Part::Text(rest(0))]),
    });
    follow(&fake, How::Auto).await.expect(&["one", "two"]);
}

#[tokio::test]
async fn where_an_event_is_missing_the_stream_is_opened_again() {
    let fake = streaming(|request, nth| match nth {
        0 => Reply::Stream(vec![Part::Text(frame(2, &log("two"))), Part::Hang]),
        _ => Reply::Stream(vec![Part::Text(rest(after(request)))]),
    });
    assert!(follow(&fake, How::Auto).await.expect(&["one", "two"]).switches.is_empty(), "not left for polls");
    assert_eq!(fake.of(EVENTS).len(), 2);
}

#[tokio::test]
async fn events_that_are_gone_for_good_do_not_stop_it() {
    let fake = streaming(|_, _| {
        let gap = json!({"type": "gap", "from": 1, "to": 7});
        let text = [frame(7, &gap), frame(8, &log("eight")), frame(9, &complete(&deployment(OURS, "SUCCEEDED")))];
        Reply::Stream(vec![Part::Text(text.concat())])
    });
    follow(&fake, How::Auto).await.expect(&["eight"]);
    assert_eq!(fake.of(EVENTS).len(), 1);
    // Nor do those that are missing without a word.
    let fake = streaming(|_, _| {
        let text = [frame(8, &log("eight")), frame(9, &complete(&deployment(OURS, "SUCCEEDED")))];
        Reply::Stream(vec![Part::Text(text.concat())])
    });
    follow(&fake, How::Stream).await.expect(&["eight"]);
    assert_eq!(fake.of(EVENTS).len(), 2);
}

#[tokio::test]
async fn a_stream_that_never_begins_is_left_for_polls() {
    for mute in [|| Reply::Hang, || Reply::Stream(vec![Part::Hang])] {
        let fake = streaming(move |_, _| mute());
        let followed = follow(&fake, How::Auto).await;
        followed.expect(&["one", "two"]);
        assert_eq!(followed.switches, ["the event stream sends nothing; polling instead"]);
        assert_eq!(fake.of(EVENTS).len(), 2);
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_left_for_polls_on_the_same_cursor() {
    let fake = streaming(|_, _| Reply::Stream(vec![Part::Text(frame(1, &log("one"))), Part::Hang]));
    let followed = follow(&fake, How::Auto).await;
    assert_eq!(followed.expect(&["one", "two"]).switches.len(), 1);
    assert!(fake.of(EVENTS)[1].query.contains("after=1"), "{:?}", fake.of(EVENTS));
}

#[tokio::test]
async fn keep_alives_keep_a_quiet_stream_alive_and_are_no_events() {
    let fake = streaming(|_, _| {
        let text = format!(": keep-alive\n\n\n\n: keep-alive\n\n{}", rest(0));
        Reply::Stream(vec![Part::Text(text)])
    });
    assert!(follow(&fake, How::Auto).await.expect(&["one", "two"]).switches.is_empty());
}

#[tokio::test]
async fn a_stream_that_breaks_again_and_again_is_left_for_polls() {
    let fake = streaming(|_, _| Reply::Stream(vec![Part::Text(": here\n\n".to_owned()), Part::Break]));
    let followed = follow(&fake, How::Auto).await;
    assert_eq!(followed.expect(&["one", "two"]).switches.len(), 1);
    assert_eq!(fake.of(EVENTS).iter().filter(|request| is_stream(request)).count(), 3);
}

#[tokio::test]
async fn an_answer_that_is_no_stream_is_left_for_polls() {
    for reply in
        [(200, "text/html", "<h1>"), (200, "application/json", "{}"), (406, "application/json", "{}"), (502, "", "")]
    {
        let fake = streaming(move |_, _| Reply::Raw(reply.0, reply.1, reply.2));
        follow(&fake, How::Auto).await.expect(&["one", "two"]);
    }
}

#[tokio::test]
async fn an_event_without_an_end_is_not_collected_for_ever() {
    let fake =
        streaming(|_, _| Reply::Stream(vec![Part::Text(format!("data: {}", "x".repeat(128 << 10))), Part::Hang]));
    assert_eq!(follow(&fake, How::Auto).await.expect(&["one", "two"]).switches.len(), 1);
}

#[tokio::test]
async fn a_server_that_restarts_is_waited_for_and_the_stream_goes_on() {
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        (EVENTS, 0) => Reply::Stream(vec![Part::Text(frame(1, &log("one"))), Part::Break]),
        (EVENTS, _) => Reply::Stream(vec![Part::Text(rest(after(request)))]),
        (_, 0) => Reply::Drop,
        (_, 1) => Reply::With(503, &[("retry-after", "0")], problem(503, "SHUTTING_DOWN")),
        (_, _) => Reply::Json(200, deployment(OURS, "RUNNING")),
    });
    assert!(follow(&fake, How::Auto).await.expect(&["one", "two"]).switches.is_empty());
}

#[tokio::test]
async fn polls_ask_behind_the_last_event_until_the_end() {
    let fake = Fake::start(|request, nth| {
        assert!(!is_stream(request));
        let one = |seq: u64, mut event: Value| {
            event["seq"] = json!(seq);
            event["at"] = json!("2026-03-01T12:00:00.000Z");
            json!({"events": [event], "last": seq, "final": seq == 3})
        };
        match nth {
            0 => Reply::Json(200, one(1, log("one"))),
            1 => Reply::Json(200, json!({"events": [], "last": 1, "final": false})),
            2 => Reply::Raw(408, "text/plain", "of a proxy"),
            3 => Reply::Json(200, one(2, log("two"))),
            _ => Reply::Json(200, one(3, complete(&deployment(OURS, "SUCCEEDED")))),
        }
    });
    follow(&fake, How::Polls).await.expect(&["one", "two"]);
    let queries: Vec<_> = fake.requests().into_iter().map(|request| request.query).collect();
    let at = |after: u64| format!("after={after}&maxWaitSeconds=1");
    assert_eq!(queries, [at(0), at(1), at(1), at(1), at(2)]);
}

#[tokio::test]
async fn where_events_cannot_be_read_the_end_is_waited_for() {
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        (EVENTS, _) => Reply::Raw(403, "text/html", "no"),
        ("GET completion", 0) => {
            let mut still = problem(408, "STILL_RUNNING");
            still["deployment"] = deployment(OURS, "RUNNING");
            Reply::Json(408, still)
        }
        ("GET completion", 1) => Reply::Raw(408, "text/plain", "of a proxy"),
        ("GET completion", _) => Reply::Json(200, deployment(OURS, "SUCCEEDED")),
        _ => Reply::Json(200, deployment(OURS, "RUNNING")),
    });
    follow(&fake, How::Auto).await.expect(&[]);
    assert_eq!(fake.of("GET completion").len(), 3);
}

#[tokio::test]
async fn only_the_end_can_be_asked_for() {
    let fake = Fake::start(|_, _| Reply::Json(200, deployment(OURS, "SUCCEEDED")));
    follow(&fake, How::EndOnly).await.expect(&[]);
    assert_eq!(fake.routes(), ["GET completion"]);
}

#[tokio::test]
async fn a_deployment_that_is_not_there_ends_it() {
    for how in [How::Auto, How::Stream, How::Polls, How::EndOnly] {
        let fake = Fake::start(|_, _| Reply::Json(404, problem(404, "NOT_FOUND")));
        let Err(Fault::Refused(refusal)) = follow(&fake, how).await.end else { panic!("{how:?} went on") };
        assert_eq!(refusal.status, 404);
        assert_eq!(fake.requests().len(), 1);
    }
}

/// How streams may be written, by the HTML standard's section on parsing an event stream.
#[tokio::test]
async fn however_a_stream_is_written_it_is_read_the_same() {
    let plain = rest(0);
    // The same JSON on two data lines, which the standard joins by a line feed.
    let split = plain.replace("\"lines\":", "\ndata: \"lines\":");
    let vectors: Vec<(&str, Vec<u8>)> = vec![
        ("line feeds", plain.clone().into_bytes()),
        ("carriage returns and line feeds", plain.replace('\n', "\r\n").into_bytes()),
        ("carriage returns", plain.replace('\n', "\r").into_bytes()),
        ("a byte order mark", format!("\u{feff}{plain}").into_bytes()),
        ("no space after the colon", plain.replace("data: ", "data:").replace("id: ", "id:").into_bytes()),
        ("data in two lines", split.into_bytes()),
        ("fields that are not known", plain.replace("id: ", "extra: 1\nnocolon\n:comment\nid: ").into_bytes()),
        ("a retry time", format!("retry: 10\n\nretry: soon\n\n{plain}").into_bytes()),
        ("an event without data", format!("event: log\nid: 1\n\n{plain}").into_bytes()),
    ];
    for (name, bytes) in vectors {
        for size in [1, 2, 3, 5, 4096] {
            let chunks: Vec<Vec<u8>> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            let fake = streaming(move |_, _| Reply::Stream(chunks.iter().cloned().map(Part::Bytes).collect()));
            let followed = follow(&fake, How::Auto).await;
            assert_eq!(followed.lines, ["one", "two"], "{name} in chunks of {size}");
            assert_eq!(fake.of(EVENTS).len(), 1, "{name} in chunks of {size}");
        }
    }
}

#[tokio::test]
async fn text_of_several_bytes_survives_being_cut_anywhere() {
    let text = [frame(1, &log("grün 🚀")), frame(2, &complete(&deployment(OURS, "SUCCEEDED")))].concat();
    for size in [1, 2, 3] {
        let chunks: Vec<Vec<u8>> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
        let fake = streaming(move |_, _| Reply::Stream(chunks.iter().cloned().map(Part::Bytes).collect()));
        follow(&fake, How::Auto).await.expect(&["grün 🚀"]);
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_do_not_stop_it() {
    let fake = streaming(|_, _| Reply::Stream(vec![Part::Bytes(b"data: \xff\xfe\n\n".to_vec()), Part::Text(rest(0))]));
    follow(&fake, How::Auto).await.expect(&["one", "two"]);
}

#[tokio::test]
async fn a_stream_that_says_that_nothing_more_comes_is_the_end() {
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        // The connection ends just before the last event, and the deployment by the time that it is asked again.
        (EVENTS, 0) => Reply::Stream(vec![Part::Text(frame(1, &log("one"))), Part::Break]),
        (EVENTS, _) => Reply::Raw(204, "text/plain", ""),
        _ => Reply::Json(200, deployment(OURS, "SUCCEEDED")),
    });
    assert!(follow(&fake, How::Auto).await.expect(&["one"]).switches.is_empty());
    assert_eq!(fake.of(EVENTS).len(), 2, "it is not asked for ever");
}
