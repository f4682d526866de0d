//! The worker's routes: a lease with the submit, heartbeats, reports, the end, and everything that is not one's own.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, send};

/// A deployment that this test runs itself.
struct Claimed<'a> {
    server: &'a TestServer,
    id: String,
    secret: String,
}

impl<'a> Claimed<'a> {
    async fn take(server: &'a TestServer, key: &str) -> Self {
        let taken = server.submit_keyed(key, wish()).await;
        assert_eq!(taken.status, 202, "{}", taken.text);
        assert_eq!(taken.body["status"], "RUNNING");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Claimed { server, id: text(&taken.body["id"]), secret: text(&taken.body["lease"]["secret"]) }
    }

    async fn call(&self, below: &str, body: Value) -> Answer {
        self.call_as(&self.secret, below, body).await
    }

    async fn call_as(&self, secret: &str, below: &str, body: Value) -> Answer {
        let path = format!("/v1/projects/web/deployments/{}/{below}", self.id);
        send(self.server.request(Method::POST, &path).header("Singletrack-Lease", secret).json(&body)).await
    }

    async fn now(&self) -> Value {
        self.server.deployment(&self.id, "").await.body
    }
}

fn wish() -> Value {
    json!({ "executor": "client", "claim": true, "leaseSeconds": 60, "onConflict": "wait" })
}

fn log(line: &str) -> Value {
    json!({ "type": "log", "stream": "stdout", "lines": [line] })
}

#[tokio::test]
async fn a_claim_comes_with_the_slot_and_is_told_again_to_who_asks_again() {
    let server = TestServer::gated();
    let first = server.submit_keyed("k", wish()).await;
    let lease = &first.body["lease"];
    assert_eq!((&lease["ttlSeconds"], &lease["fencingToken"]), (&json!(60), &first.body["revision"]));
    let again = server.submit_keyed("k", wish()).await;
    assert_eq!((again.status, &again.body["lease"]), (202, lease));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let rival = server.submit(json!({ "executor": "client", "claim": true })).await;
    assert_eq!((rival.status, rival.body.get("lease")), (409, None));
    let shown = server.deployment(first.body["id"].as_str().unwrap(), "").await;
    assert!(!shown.text.contains(lease["secret"].as_str().unwrap()), "only its holder is told a lease's secret");
}

#[tokio::test]
async fn the_one_resubmit_of_a_ticket_brings_its_lease() {
    let server = TestServer::gated();
    let holder = Claimed::take(&server, "holder").await;
    let waiting = server.submit_keyed("next", wish()).await;
    assert_eq!((waiting.status, waiting.body.get("lease")), (409, None));
    let ticket = waiting.body["ticket"].as_str().unwrap();
    assert_eq!(holder.call("finish", json!({ "status": "SUCCEEDED" })).await.status, 200);
    assert_eq!(server.deployment(ticket, "/turn?maxWaitSeconds=60").await.status, 200);
    let next = Claimed::take(&server, "next").await;
    assert_eq!(next.id, ticket);
    assert!(next.now().await["revision"].as_u64() > holder.now().await["revision"].as_u64());
    assert_eq!(next.call("heartbeat", json!({})).await.body["cancelRequested"], false);
}

#[tokio::test]
async fn a_parked_heartbeat_hears_a_cancel_and_a_lost_lease_at_once() {
    let server = TestServer::gated();
    let claimed = Claimed::take(&server, "k").await;
    let parked = claimed.call("heartbeat?maxWaitSeconds=60", json!({}));
    let cancel = async { server.cancel(&claimed.id, json!({ "reason": "wrong branch" })).await };
    let (parked, cancelled) = tokio::join!(parked, cancel);
    assert_eq!((parked.status, &parked.body["cancelRequested"]), (200, &json!(true)));
    assert_eq!((&parked.body["reason"], cancelled.status), (&json!("wrong branch"), 202));

    let ended = claimed.call("finish", json!({ "status": "CANCELLED" })).await;
    assert_eq!(ended.body["error"], json!({ "code": "CANCELLED", "message": "cancelled: wrong branch" }));
    let other = Claimed::take(&server, "other").await;
    let parked = other.call("heartbeat?maxWaitSeconds=60", json!({}));
    let release =
        async { server.post("/v1/projects/web/release", json!({ "reason": "stuck", "evenIfAlive": true })).await };
    let (parked, released) = tokio::join!(parked, release);
    assert_eq!((parked.status, &parked.body["errorCode"]), (409, &json!("LEASE_LOST")));
    assert_eq!(released.body["released"]["error"]["code"], "RELEASED");
}

#[tokio::test]
async fn reports_are_recorded_once_each_and_in_order() {
    let server = TestServer::gated();
    let claimed = Claimed::take(&server, "k").await;
    let told = |first: u64, reports: Value| json!({ "first": first, "reports": reports });
    let phase = json!({ "type": "phase", "name": "apply", "state": "started" });
    let one = claimed.call("reports", told(1, json!([phase, log("one")]))).await;
    assert_eq!((one.status, &one.body["last"]), (200, &json!(2)));
    let repeat = claimed.call("reports", told(1, json!([phase, log("one"), log("two")]))).await;
    assert_eq!(repeat.body["last"], 3);
    let gap = claimed.call("reports", told(5, json!([log("five")]))).await;
    assert_eq!((gap.status, &gap.body["errorCode"], &gap.body["last"]), (409, &json!("REPORT_GAP"), &json!(3)));
    let rest = json!([{ "type": "progress", "progress": 60 }, { "type": "progress", "progress": 20, "message": "back?" },
        { "type": "output", "name": "url", "value": "https://web.example" }]);
    assert_eq!(claimed.call("reports", told(4, rest)).await.body["last"], 6);
    assert_eq!(claimed.now().await["progress"], 60, "progress never falls");
    let ended = claimed.call("finish", json!({ "status": "SUCCEEDED", "outputs": { "version": "7" } })).await;
    assert_eq!(ended.body["result"]["outputs"], json!({ "url": "https://web.example", "version": "7" }));
    let page = server.deployment(&claimed.id, "/events?maxWaitSeconds=0").await.body;
    let events = page["events"].as_array().unwrap();
    let lines: Vec<_> = events.iter().filter(|event| event["type"] == "log").map(|event| &event["lines"][0]).collect();
    assert_eq!(lines, ["one", "two"]);
    assert_eq!(events.last().unwrap()["type"], "complete");
}

#[tokio::test]
async fn what_is_not_right_is_refused_and_changes_nothing() {
    let server = TestServer::gated();
    let claimed = Claimed::take(&server, "k").await;
    let before = claimed.now().await;
    let long_name = "n".repeat(129);
    let many: Vec<_> = (0..257).map(|_| log("x")).collect();
    for (below, body, names) in [
        ("reports", json!({ "first": 0, "reports": [] }), "numbered from 1"),
        ("reports", json!({ "first": 1, "reports": many }), "at most 256"),
        ("reports", json!({ "first": 1, "reports": [{ "type": "progress", "progress": 101 }] }), "from 0 to 100"),
        ("reports", json!({ "first": 1, "reports": [{ "type": "progress", "progress": -1 }] }), "reports"),
        ("reports", json!({ "first": 1, "reports": [{ "type": "dance" }] }), "reports"),
        (
            "reports",
            json!({ "first": 1, "reports": [{ "type": "phase", "name": long_name, "state": "started" }] }),
            "128",
        ),
        ("reports", json!({ "first": 1, "reports": [{ "type": "output", "name": "", "value": "" }] }), "1 to 128"),
        ("reports", json!({ "first": 1 }), "reports"),
        ("finish", json!({ "status": "RUNNING" }), "SUCCEEDED, FAILED or CANCELLED"),
        ("finish", json!({ "status": "FAILED" }), "with an error"),
        ("finish", json!({ "status": "SUCCEEDED", "error": { "code": "X", "message": "" } }), "FAILED only"),
        ("finish", json!({ "status": "FAILED", "error": { "code": "RELEASED", "message": "" } }), "PHASE_FAILED"),
        ("finish", json!({}), "status"),
    ] {
        let refused = claimed.call(below, body.clone()).await;
        assert_eq!(refused.status, 400, "{below} {body}: {}", refused.text);
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains(names), "{below} {body}: {message}");
    }
    let malformed = claimed.call_as("not a lease", "heartbeat", json!({})).await;
    assert_eq!((malformed.status, &malformed.body["errorCode"]), (400, &json!("INVALID_PARAMETER")));
    for below in ["heartbeat", "reports", "finish"] {
        let body = match below {
            "heartbeat" => json!({}),
            "reports" => json!({ "first": 1, "reports": [log("not mine")] }),
            _ => json!({ "status": "SUCCEEDED" }),
        };
        let foreign = claimed.call_as(&"0".repeat(64), below, body).await;
        assert_eq!((foreign.status, &foreign.body["errorCode"]), (409, &json!("LEASE_LOST")), "{below}");
    }
    let after = claimed.now().await;
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_release_and_the_result_that_comes_after_it_are_on_the_record() {
    let server = TestServer::gated();
    let claimed = Claimed::take(&server, "k").await;
    let refused = server.post("/v1/projects/web/release", json!({})).await;
    assert_eq!(refused.status, 400, "a release without a reason: {}", refused.text);
    assert_eq!(server.audit(&claimed.id), []);
    server.post("/v1/projects/web/release", json!({ "reason": "the runner burned down", "evenIfAlive": true })).await;
    let released = claimed.now().await;
    let late = claimed.call("finish", json!({ "status": "SUCCEEDED", "outputs": { "version": "7" } })).await;
    assert_eq!((late.status, &late.body["errorCode"]), (409, &json!("LEASE_LOST")));
    assert_eq!(claimed.now().await, released, "what is final stays as it is");
    let record = server.audit(&claimed.id);
    let [(release, reason), (late, verdict)] = &record[..] else { panic!("{record:?}") };
    assert_eq!(
        (release.as_str(), reason.as_str(), late.as_str()),
        ("release", "the runner burned down", "late_result")
    );
    assert!(verdict.contains("Succeeded") && verdict.contains('7'), "{verdict}");
}

#[tokio::test]
async fn an_end_is_final_and_told_again_only_to_who_told_it() {
    let server = TestServer::gated();
    let claimed = Claimed::take(&server, "k").await;
    let error = json!({ "code": "PHASE_FAILED", "message": "exit 3", "phase": "apply" });
    let failed = json!({ "status": "FAILED", "error": error });
    let ended = claimed.call("finish", failed.clone()).await;
    assert_eq!((ended.status, &ended.body["error"]), (200, &error));
    assert_eq!(claimed.call("finish", failed).await.body, ended.body);
    let other = claimed.call("finish", json!({ "status": "SUCCEEDED" })).await;
    assert_eq!((other.status, &other.body["errorCode"]), (409, &json!("LEASE_LOST")));
    let late = claimed.call("reports", json!({ "first": 1, "reports": [log("late")] })).await;
    assert_eq!((late.status, &late.body["errorCode"]), (409, &json!("LEASE_LOST")));
    assert_eq!(claimed.call("heartbeat", json!({})).await.status, 409);
    assert_eq!(claimed.now().await, ended.body);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_split_and_nothing_in_it_breaks_out() {
    let server = TestServer::gated();
    let claimed = Claimed::take(&server, "k").await;
    let wild = "\u{0}\u{1b}[31m\r\n\nevent: complete\ndata: {}\n\n\u{1f600}";
    let long = "é".repeat(40_000);
    let reports = json!([{ "type": "log", "stream": "stderr", "phase": "apply", "lines": [wild, long] }]);
    assert_eq!(claimed.call("reports", json!({ "first": 1, "reports": reports })).await.status, 200);
    let event = server.event(&claimed.id, |event| event["type"] == "log").await;
    let lines: Vec<_> = event["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(lines[..5], ["", "", "event: complete", "data: {}", ""]);
    assert_eq!(lines[5], "\u{1f600}");
    assert_eq!(lines[6..].concat().replace('…', ""), long);
    assert!(lines.iter().all(|line| line.len() <= 64 << 10));
}
