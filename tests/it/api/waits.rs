//! `completion` and `turn`: parked until what they wait for is true, and never answered early.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{io::AsyncWriteExt as _, task::JoinSet};

use crate::harness::{
    TestServer, a_token, client_with,
    raw::{read_one, read_to_end},
};

/// Far more than a wake-up needs, far less than a window: between them lies the proof that nobody waited for its end.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_window_is_waited_out_and_one_of_zero_is_none() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let waiting = server.ticket("key-1").await;
    for (id, below, code, status) in
        [(&id, "completion", "STILL_RUNNING", "RUNNING"), (&waiting, "turn", "STILL_WAITING", "PENDING")]
    {
        for seconds in [0, 1] {
            let asked = Instant::now();
            let still = server.deployment(id, &format!("/{below}?maxWaitSeconds={seconds}")).await;
            let waited = asked.elapsed();
            assert_eq!(still.refusal(), (408, code), "{}", still.text);
            assert_eq!(still.header("singletrack-status"), status);
            assert_eq!(still.body["deployment"]["id"], **id);
            assert_eq!(still.body["deployment"]["status"], status);
            assert_eq!(still.body["retryable"], true);
            let window = Duration::from_secs(seconds);
            assert!(waited >= window && waited < window + AT_ONCE, "{below} of {seconds} s took {waited:?}");
        }
    }
    let still = server.deployment(&waiting, "/turn?maxWaitSeconds=0").await;
    assert_eq!((&still.body["deploymentId"], &still.body["queuePosition"]), (&json!(id), &json!(1)));
    // Who holds the slot, or had it, does not wait for its turn.
    let turn = server.deployment(&id, "/turn").await;
    assert_eq!((turn.status, &turn.body["status"]), (200, &json!("RUNNING")));
}

#[tokio::test]
async fn a_parked_completion_is_answered_when_the_deployment_ends() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let asked = Instant::now();
    let (completion, ()) = tokio::join!(server.deployment(&id, "/completion?maxWaitSeconds=60"), async {
        server.parked(1).await;
        server.open_gate();
    });
    assert_eq!((completion.status, &completion.body["status"]), (200, &json!("SUCCEEDED")));
    assert!(asked.elapsed() < Duration::from_secs(30), "the wake-up was lost");
    let again = server.deployment(&id, "/completion").await;
    assert_eq!((again.status, &again.body), (200, &completion.body), "a final deployment never changes");
}

#[tokio::test]
async fn a_thousand_parked_completions_are_all_answered() {
    const POLLS: usize = 1000;
    allow_many_files();
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let head = format!(
        "GET /v1/projects/web/deployments/{id}/completion?maxWaitSeconds=60 HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        server.authority()
    );
    let mut polls = JoinSet::new();
    for _ in 0..POLLS {
        let mut connection = server.connect().await;
        connection.write_all(head.as_bytes()).await.unwrap();
        polls.spawn(async move { read_to_end(&mut connection).await });
    }
    server.parked(POLLS).await;
    server.open_gate();
    let opened = Instant::now();
    let ended = server.finished(&id).await;
    let answers = polls.join_all().await;
    let took = opened.elapsed();
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == ended));
    assert!(took < Duration::from_secs(20), "{took:?}");
    server.parked(0).await;
}

#[tokio::test]
async fn a_ticket_lives_as_long_as_it_is_polled_and_no_longer() {
    let server = TestServer::gated_with("[limits]\nattendance = \"1s\"\nfallback_poll = \"200ms\"");
    let holder = server.at_the_gate().await;
    let polled = server.ticket("polled").await;
    let left = server.ticket("left").await;
    let (since, ended) = tokio::join!(
        async {
            let since = Instant::now();
            for _ in 0..2 {
                let still = server.deployment(&polled, "/turn?maxWaitSeconds=2").await;
                assert_eq!(still.refusal(), (408, "STILL_WAITING"), "{}", still.text);
            }
            since.elapsed()
        },
        server.finished(&left)
    );
    assert!(since >= Duration::from_secs(4), "it was answered early: {since:?}");
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("CANCELLED"), &json!("ABANDONED")));
    assert_eq!(ended["startedAt"], json!(null));
    // Its turn comes never again, and says so.
    let turn = server.deployment(&left, "/turn").await;
    assert_eq!((turn.status, &turn.body), (200, &ended));
    let again = server.submit_keyed("left", json!({ "onConflict": "wait", "pipeline": "quick" })).await;
    assert_eq!((again.status, &again.body), (202, &ended), "one key, one deployment, ever");
    // Nor is the other one kept for ever.
    assert_eq!(server.finished(&polled).await["error"]["code"], "ABANDONED");
    assert_eq!(server.project().await["lineLength"], 0);
    assert_eq!(server.project().await["holder"]["id"], *holder);
}

#[tokio::test]
async fn a_parked_turn_that_hangs_up_is_silent_from_then_on() {
    let server = TestServer::gated_with("[limits]\nattendance = \"1s\"\nfallback_poll = \"200ms\"");
    server.at_the_gate().await;
    let ticket = server.ticket("key").await;
    let mut connection = server.connect().await;
    let path = format!("/v1/projects/web/deployments/{ticket}/turn?maxWaitSeconds=60");
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", server.authority());
    connection.write_all(head.as_bytes()).await.unwrap();
    server.parked(1).await;
    drop(connection);
    let hung_up = Instant::now();
    assert_eq!(server.finished(&ticket).await["error"]["code"], "ABANDONED");
    assert!(hung_up.elapsed() < Duration::from_secs(20), "its window was waited out");
}

#[tokio::test]
async fn a_connection_goes_on_behind_a_parked_poll() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let request = |below: &str, more: &str| {
        format!("GET /v1/projects/web/deployments/{id}{below} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", server.authority())
    };
    let poll = |seconds: u64| request(&format!("/completion?maxWaitSeconds={seconds}"), "Connection: keep-alive\r\n");
    let mut connection = server.connect().await;
    // One after the other, and some of them before the answer to the one before: each is answered in its turn.
    connection.write_all(poll(1).as_bytes()).await.unwrap();
    let still = read_one(&mut connection).await;
    assert_eq!((still.refusal(), still.header("connection")), ((408, "STILL_RUNNING"), ""), "{}", still.text);
    assert!(still.header("date").ends_with(" GMT"), "{:?}", still.headers);
    let rest = [poll(60), request("", ""), poll(60), request("/completion", "Connection: close\r\n")];
    connection.write_all(rest.concat().as_bytes()).await.unwrap();
    server.parked(1).await;
    server.open_gate();
    for _ in 0..rest.len() - 1 {
        let ended = read_one(&mut connection).await;
        assert_eq!((ended.status, &ended.body["status"]), (200, &json!("SUCCEEDED")), "{}", ended.text);
        assert_eq!((ended.header("connection"), ended.header("content-type")), ("", "application/json"));
    }
    let last = read_to_end(&mut connection).await;
    assert_eq!((last.status, &last.body["status"]), (200, &json!("SUCCEEDED")));
    assert_eq!(last.header("connection"), "close");
}

#[tokio::test]
async fn a_parked_poll_of_an_older_client_is_answered_as_it_asks() {
    // Without tokens HTTP/1.0 is not answered: proxies speak it.
    let (token, table) = a_token();
    let mut server = TestServer::gated_with(&table);
    server.client = client_with(&token);
    let id = server.at_the_gate().await;
    let path = format!("/v1/projects/web/deployments/{id}/completion?maxWaitSeconds=60");
    let mut connection = server.connect().await;
    let shown = format!("Host: {}\r\nAuthorization: Bearer {token}", server.authority());
    let head = format!("GET {path} HTTP/1.0\r\n{shown}\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut other = server.connect().await;
    let head = format!("HEAD {path} HTTP/1.1\r\n{shown}\r\nConnection: close\r\n\r\n");
    other.write_all(head.as_bytes()).await.unwrap();
    server.parked(2).await;
    server.open_gate();
    let ended = read_to_end(&mut connection).await;
    assert_eq!((ended.status, &ended.body["status"]), (200, &json!("SUCCEEDED")));
    let ended = read_to_end(&mut other).await;
    assert_eq!((ended.status, ended.text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_parked_completion_that_hangs_up_is_let_go() {
    let server = TestServer::gated();
    let id = server.at_the_gate().await;
    let path = format!("/v1/projects/web/deployments/{id}/completion?maxWaitSeconds=60");
    let mut connection = server.connect().await;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", server.authority());
    connection.write_all(head.as_bytes()).await.unwrap();
    server.parked(1).await;
    drop(connection);
    let hung_up = Instant::now();
    server.parked(0).await;
    assert!(hung_up.elapsed() < Duration::from_secs(20), "its window was waited out");
}

#[tokio::test]
async fn a_slot_is_kept_for_a_ticket_and_then_for_the_next() {
    let server = TestServer::gated_with("[limits]\nreserve = \"1s\"");
    let holder = server.at_the_gate().await;
    let (dead, next) = (server.ticket("dead").await, server.ticket("next").await);
    let turn = server.deployment(&next, "/turn?maxWaitSeconds=60");
    let (turn, ()) = tokio::join!(turn, async {
        server.parked(1).await;
        server.open_gate();
        server.finished(&holder).await;
        let reserved = server.deployment(&dead, "/turn?maxWaitSeconds=60").await;
        assert_eq!((reserved.status, &reserved.body["status"]), (200, &json!("PENDING")));
        let kept = Instant::now();
        let ended = server.finished(&dead).await;
        assert_eq!(ended["error"]["code"], "ABANDONED");
        assert!(kept.elapsed() >= Duration::from_millis(500), "the slot was not kept");
    });
    assert_eq!((turn.status, &turn.body["queuePosition"]), (200, &json!(0)));
    let taken = server.submit_keyed("next", json!({ "onConflict": "wait", "pipeline": "quick" })).await;
    assert_eq!((taken.status, &taken.body["id"]), (202, &json!(next)));
    assert_eq!(taken.header("idempotency-replayed"), "");
    assert_eq!(server.finished(&next).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn a_server_that_stops_answers_whoever_waits() {
    let mut server = TestServer::gated();
    let id = server.at_the_gate().await;
    let ticket = server.ticket("key").await;
    let mut stream = server.stream(&id, None).await;
    assert_eq!(stream.next().await.unwrap().name, "progress");
    let asked = Instant::now();
    let events = format!("/events?after={}&maxWaitSeconds=60", last_event(&server, &id).await);
    let (completion, turn, page, frames, ()) = tokio::join!(
        server.deployment(&id, "/completion?maxWaitSeconds=60"),
        server.deployment(&ticket, "/turn?maxWaitSeconds=60"),
        server.deployment(&id, &events),
        stream.rest(),
        async {
            server.parked(4).await;
            server.signal(rustix::process::Signal::TERM);
        }
    );
    assert!(asked.elapsed() < Duration::from_secs(20), "they were not answered at once");
    assert_eq!(completion.refusal(), (408, "STILL_RUNNING"));
    assert_eq!(completion.header("singletrack-status"), "RUNNING");
    assert_eq!(turn.refusal(), (408, "STILL_WAITING"));
    assert_eq!(turn.header("singletrack-status"), "PENDING");
    assert_eq!((page.status, &page.body["events"], &page.body["final"]), (200, &json!([]), &json!(false)));
    assert!(frames.iter().all(|frame| frame.name != "complete"), "it has not ended: {frames:?}");
    server.open_gate();
    assert_eq!(server.exited().code(), Some(0));
    // What ran was let finish, and whoever waited finds it so.
    server.boot();
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
    let turn = server.deployment(&ticket, "/turn?maxWaitSeconds=60").await;
    assert_eq!((turn.status, &turn.body["status"]), (200, &json!("PENDING")));
}

async fn last_event(server: &TestServer, id: &str) -> u64 {
    server.deployment(id, "/events?maxWaitSeconds=0").await.body["last"].as_u64().unwrap()
}

/// A thousand connections are more open files than a shell allows at first.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

#[tokio::test]
async fn a_ticket_lives_as_long_as_any_poll_of_it_is_parked() {
    let server = TestServer::gated_with("[limits]\nattendance = \"2s\"");
    server.at_the_gate().await;
    let ticket = server.ticket("key").await;
    let parked = server.deployment(&ticket, "/turn?maxWaitSeconds=9");
    let (parked, ()) = tokio::join!(parked, async {
        server.parked(1).await;
        let short = server.deployment(&ticket, "/turn?maxWaitSeconds=0").await;
        assert_eq!(short.refusal(), (408, "STILL_WAITING"));
    });
    assert_eq!(parked.refusal(), (408, "STILL_WAITING"), "{}", parked.text);
}
