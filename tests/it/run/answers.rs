//! What a run makes of a server's answers, which a scripted server gives.

use serde_json::{Value, json};

use super::{ended, of_url, text};
use crate::fake::{Fake, OURS, Reply, Request, deployment, problem};

fn granted() -> Reply {
    let mut granted = deployment(OURS, "RUNNING");
    granted["lease"] = json!({ "secret": "ab".repeat(32), "fencingToken": 3, "ttlSeconds": 60 });
    Reply::Json(202, granted)
}

/// Takes reports as a server does.
fn recorded(request: &Request) -> Reply {
    let told = request.json();
    let last = told["first"].as_u64().unwrap() + told["reports"].as_array().unwrap().len() as u64 - 1;
    Reply::Json(200, json!({ "last": last }))
}

fn beaten() -> Reply {
    Reply::Json(200, json!({ "cancelRequested": false, "reason": null, "supersededBy": null, "ttlSeconds": 60 }))
}

#[test]
fn a_run_rides_through_a_fault_of_the_server_at_its_end() {
    let server = Fake::start(|request, nth| match (&*request.route(), nth) {
        ("POST deployments", _) => granted(),
        ("POST heartbeat", _) => beaten(),
        ("POST reports" | "POST finish", 0) => Reply::Json(500, problem(500, "INTERNAL")),
        ("POST reports", _) => recorded(request),
        ("POST finish", _) => Reply::Json(200, deployment(OURS, "SUCCEEDED")),
        (route, _) => panic!("{route} is not asked for"),
    });
    let run = ended(of_url(&server.url, &[], &["echo", "one"]));
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let reports = server.of("POST reports");
    assert!(
        reports.len() >= 2 && reports[0].json() == reports[1].json(),
        "what has no answer is told again: {reports:#?}"
    );
    let told = server.of("POST finish").iter().map(Request::json).collect::<Vec<_>>();
    assert_eq!(told, vec![json!({ "status": "SUCCEEDED" }); 2]);
}

#[test]
fn a_report_that_a_server_refuses_loses_its_text_and_holds_up_nothing() {
    let has_secret = |told: &Value| told.to_string().contains("refused");
    let server = Fake::start(move |request, _| match &*request.route() {
        "POST deployments" => granted(),
        "POST heartbeat" => beaten(),
        "POST reports" if has_secret(&request.json()) => Reply::Json(400, problem(400, "INVALID_BODY")),
        "POST reports" => recorded(request),
        "POST finish" => Reply::Json(200, deployment(OURS, "SUCCEEDED")),
        route => panic!("{route} is not asked for"),
    });
    let run =
        ended(of_url(&server.url, &[], &["sh", "-c", "echo before; sleep 0.3; echo refused; sleep 0.3; echo after"]));
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let taken =
        server.of("POST reports").iter().map(Request::json).filter(|told| !has_secret(told)).collect::<Vec<_>>();
    let lines = taken.iter().flat_map(|told| told["reports"].as_array().unwrap().clone());
    let lines = lines.flat_map(|report| report["lines"].as_array().unwrap().clone()).collect::<Vec<_>>();
    assert_eq!(lines, ["before", "[singletrack: 1 lines could not be kept by the store]", "after"]);
}
