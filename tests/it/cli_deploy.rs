//! `singletrack deploy`, the real binary, against scripted servers: what it sends, what it says, and how it ends.

use std::{
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    fake::{
        Fake, HOLDER, OURS, Part, Reply, Request, SUCCESSOR, complete, conflict, deployment, ended, frame, log,
        problem, still_waiting, stream_to,
    },
    harness::{DeafPort, SINGLETRACK},
};

const SUBMIT: &str = "POST deployments";
const TURN: &str = "GET turn";
const CANCEL: &str = "POST cancel";
const EVENTS: &str = "GET events";

/// The binary, knowing nothing of the machine that runs the test.
fn singletrack(fake: &Fake, args: &[&str]) -> Command {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", &fake.url).env("USER", "tester");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn deploy(fake: &Fake, args: &[&str]) -> Ended {
    Ended::of(singletrack(fake, &[&["deploy", "--project", "web"], args].concat()).output().expect("it runs"))
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
        Ended { code: output.status.code(), stdout, stderr }
    }

    #[track_caller]
    fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn says(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "{text:?} is not in:\n{}", self.stderr);
        self
    }
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("it runs");
}

/// A server on which the slot is free and a deployment ends like this.
fn free_until(last: Value) -> Fake {
    Fake::start(move |request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(202, deployment(OURS, "PENDING")),
        EVENTS => stream_to(&last),
        other => panic!("unexpected: {other}"),
    })
}

/// A server that keeps the slot from us until `turn` was asked twice.
fn held_then_ours() -> Fake {
    Fake::start(|request, nth| match (request.route().as_str(), nth) {
        (SUBMIT, 0) => Reply::Json(409, conflict()),
        (TURN, 0) => Reply::Json(408, still_waiting()),
        (TURN, 1) => Reply::Json(200, deployment(OURS, "PENDING")),
        (SUBMIT, 1) => Reply::Json(202, deployment(OURS, "PENDING")),
        (EVENTS, 0) => stream_to(&deployment(OURS, "SUCCEEDED")),
        (CANCEL, 0) => Reply::Json(202, deployment(HOLDER, "RUNNING")),
        other => panic!("unexpected: {other:?}"),
    })
}

#[track_caller]
fn same_twice(submits: &[Request]) {
    assert_eq!(submits.len(), 2, "one submit and one re-submit");
    assert_eq!(submits[0].body, submits[1].body);
    assert!(submits[0].header("idempotency-key").is_some());
    assert_eq!(submits[0].header("idempotency-key"), submits[1].header("idempotency-key"));
}

#[test]
fn a_held_slot_is_waited_for_and_asked_for_once_more_with_the_same_body_and_key() {
    let fake = held_then_ours();
    let ended = deploy(&fake, &["--input", "color=blue", "--timeout", "5m"]);
    ended.expect(0);
    assert_eq!(fake.routes(), [SUBMIT, TURN, TURN, SUBMIT, EVENTS]);
    let submits = fake.of(SUBMIT);
    same_twice(&submits);
    let body = submits[0].json();
    assert_eq!(body["onConflict"], "wait");
    assert_eq!(body["deadlineSeconds"], 300);
    assert_eq!(body["inputs"], json!({"color": "blue"}));
    assert_eq!(body["actor"], "tester");
    assert!(fake.of(TURN)[0].path.ends_with(&format!("/{OURS}/turn")));
    assert_eq!(fake.of(TURN)[0].query, "maxWaitSeconds=3", "those at the front ask often");
    // For whom, how far, how long yet, the own place.
    ended.says("waiting for alice's deploy of main").says("phase migrate, 40 %").says("about 1m00s left");
    ended.says("you are next").says("https://ci.example/17");
    assert_eq!(ended.stdout, "url=https://web.example\n", "only the result");
}

#[test]
fn a_server_that_is_stopped_costs_nobody_the_turn() {
    // Behind a load balancer the next attempt reaches another server, and the slot is kept for ten seconds.
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        (SUBMIT, 0) => Reply::Json(409, conflict()),
        (TURN, 0) | (SUBMIT, 1) => Reply::Hang,
        (TURN, 1) => Reply::Json(200, deployment(OURS, "PENDING")),
        (SUBMIT, 2) => Reply::Json(202, deployment(OURS, "PENDING")),
        (EVENTS, 0) => stream_to(&deployment(OURS, "SUCCEEDED")),
        other => panic!("unexpected: {other:?}"),
    });
    let mut deploy = singletrack(&fake, &["deploy", "--project", "web"]).spawn().expect("it runs");
    fake.asked(TURN, 1);
    let parked = Instant::now();
    fake.asked(TURN, 2);
    assert!(parked.elapsed() < Duration::from_secs(8), "its turn may have come and gone");
    let looked = Instant::now();
    fake.asked(SUBMIT, 3);
    assert!(looked.elapsed() < Duration::from_secs(5), "the slot may have been given to the next");
    assert!(deploy.wait().expect("it ends").success());
    assert_eq!(fake.of(TURN)[1].query, "maxWaitSeconds=0", "it only looks");
}

#[test]
fn the_predecessor_is_cancelled_in_favour_of_the_own_ticket() {
    let fake = held_then_ours();
    deploy(&fake, &["--cancel-in-progress-deployment"]).expect(0);
    assert_eq!(fake.routes(), [SUBMIT, CANCEL, TURN, TURN, SUBMIT, EVENTS]);
    same_twice(&fake.of(SUBMIT));
    let cancel = &fake.of(CANCEL)[0];
    assert!(cancel.path.ends_with(&format!("/{HOLDER}/cancel")));
    assert_eq!(cancel.json(), json!({"supersededBy": OURS, "reason": "superseded by tester", "actor": "tester"}));
}

#[test]
fn where_the_predecessor_may_finish_it_is_said_and_waited_for() {
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        (SUBMIT, 0) => Reply::Json(409, conflict()),
        (CANCEL, 0) => Reply::Json(409, problem(409, "PREEMPTION_REFUSED")),
        (TURN, 0) => Reply::Json(200, deployment(OURS, "PENDING")),
        (SUBMIT, 1) => Reply::Json(202, deployment(OURS, "PENDING")),
        (EVENTS, 0) => stream_to(&deployment(OURS, "SUCCEEDED")),
        other => panic!("unexpected: {other:?}"),
    });
    deploy(&fake, &["--cancel-in-progress-deployment"]).expect(0).says("PREEMPTION_REFUSED; waiting for it");
    same_twice(&fake.of(SUBMIT));
}

#[test]
fn each_end_has_its_exit_code() {
    for (last, code, says) in [
        (deployment(OURS, "SUCCEEDED"), 0, "succeeded"),
        (ended("FAILED", "PHASE_FAILED", None), 1, "failed (PHASE_FAILED): as the test says"),
        (ended("FAILED", "WORKER_LOST", None), 1, "WORKER_LOST"),
        (ended("CANCELLED", "CANCELLED", None), 122, "was cancelled"),
        (ended("CANCELLED", "RELEASED", None), 122, "RELEASED"),
        (ended("CANCELLED", "SUPERSEDED", Some(SUCCESSOR)), 122, SUCCESSOR),
        (ended("CANCELLED", "ABANDONED", None), 121, "lost its place in line"),
        (ended("CANCELLED", "EXPIRED", None), 121, "still waiting for the slot"),
    ] {
        let fake = free_until(last.clone());
        deploy(&fake, &[]).expect(code).says(says);
        // A ticket that ends in line ends the same way.
        if last["status"] == "CANCELLED" {
            let fake = Fake::start(move |request, _| match request.route().as_str() {
                SUBMIT => Reply::Json(409, conflict()),
                TURN => Reply::Json(200, last.clone()),
                other => panic!("unexpected: {other}"),
            });
            deploy(&fake, &[]).expect(code).says(says);
            assert_eq!(fake.routes(), [SUBMIT, TURN]);
        }
    }
}

#[test]
fn a_refusal_is_never_tried_again() {
    for (status, error_code, code, says) in [
        (400, "UNKNOWN_PIPELINE", 2, "singletrack why"),
        (400, "INVALID_BODY", 2, "docs/limits.md"),
        (413, "BODY_TOO_LARGE", 2, "--artifact"),
        (401, "UNAUTHORIZED", 125, "SINGLETRACK_TOKEN"),
        (404, "NOT_FOUND", 2, "singletrack list"),
        (409, "OUTDATED", 122, "--rollback"),
        (409, "DEADLINE_PASSED", 121, "--timeout"),
        (409, "PROJECT_PAUSED", 121, "paused"),
        (409, "LINE_FULL", 121, "singletrack why"),
        (422, "KEY_REUSED", 2, "--idempotency-key"),
        (500, "INTERNAL", 125, "INTERNAL"),
        (418, "A_CODE_OF_THE_FUTURE", 125, "A_CODE_OF_THE_FUTURE"),
    ] {
        let fake = Fake::start(move |_, _| Reply::Json(status, problem(status, error_code)));
        let ended = deploy(&fake, &[]);
        ended.expect(code).says("error: the server says").says(says);
        assert_eq!(fake.routes(), [SUBMIT], "{error_code}");
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn what_passes_is_tried_again_with_the_same_key() {
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        (SUBMIT, 0) => Reply::Drop,
        (SUBMIT, 1) => Reply::With(503, &[("retry-after", "0")], problem(503, "SHUTTING_DOWN")),
        (SUBMIT, 2) => Reply::Raw(502, "text/html", "<h1>Bad Gateway</h1>"),
        // Of a proxy: without our code it is no answer.
        (SUBMIT, 3) => Reply::Raw(408, "text/plain", "too slow"),
        (SUBMIT, 4) => Reply::Json(202, deployment(OURS, "PENDING")),
        (EVENTS, _) => stream_to(&deployment(OURS, "SUCCEEDED")),
        other => panic!("unexpected: {other:?}"),
    });
    deploy(&fake, &[]).expect(0).says("trying again");
    let submits = fake.of(SUBMIT);
    assert_eq!(submits.len(), 5);
    assert!(submits.iter().all(|submit| submit.body == submits[0].body));
    let key = submits[0].header("idempotency-key");
    assert!(submits.iter().all(|submit| submit.header("idempotency-key") == key));
}

#[test]
fn a_server_that_goes_away_in_the_middle_of_a_wait_is_waited_for() {
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        (SUBMIT, 0) => Reply::Json(409, conflict()),
        (TURN, 0) => Reply::Drop,
        (TURN, 1) => Reply::Raw(408, "text/plain", "too slow"),
        (TURN, 2) => Reply::Json(200, deployment(OURS, "PENDING")),
        (SUBMIT, 1) => Reply::Json(202, deployment(OURS, "PENDING")),
        (EVENTS, 0) => stream_to(&deployment(OURS, "SUCCEEDED")),
        other => panic!("unexpected: {other:?}"),
    });
    deploy(&fake, &[]).expect(0);
    same_twice(&fake.of(SUBMIT));
}

#[test]
fn who_does_not_want_to_wait_is_told_who_holds_the_slot() {
    let fake = Fake::start(|_, _| {
        let mut body = conflict();
        body.as_object_mut().expect("an object").remove("ticket");
        Reply::Json(409, body)
    });
    let ended = deploy(&fake, &["--on-conflict", "fail", "--json"]);
    ended.expect(121).says("the slot is held by alice's deploy of main").says("hint: ");
    assert_eq!(fake.routes(), [SUBMIT]);
    assert_eq!(fake.of(SUBMIT)[0].json()["onConflict"], "refuse");
    let told: Value = serde_json::from_str(&ended.stdout).expect("the problem, whole");
    assert_eq!(told["deploymentId"], HOLDER);
}

#[test]
fn a_command_does_not_wait_for_the_deployment_that_runs_it() {
    let fake = Fake::start(|request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(409, conflict()),
        CANCEL => Reply::Json(202, deployment(OURS, "CANCELLED")),
        other => panic!("unexpected: {other}"),
    });
    let mut command = singletrack(&fake, &["deploy", "--project", "web"]);
    let ended = Ended::of(command.env("SINGLETRACK_DEPLOYMENT_ID", HOLDER).output().expect("it runs"));
    ended.expect(121).says("would wait for itself");
    assert_eq!(fake.routes(), [SUBMIT, CANCEL]);
    assert!(fake.of(CANCEL)[0].path.ends_with(&format!("/{OURS}/cancel")), "the place in line is given back");
}

#[test]
fn at_the_deadline_in_line_the_place_is_given_back() {
    let fake = Fake::start(|request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(409, conflict()),
        TURN => Reply::Hang,
        CANCEL => Reply::Json(202, deployment(OURS, "CANCELLED")),
        other => panic!("unexpected: {other}"),
    });
    deploy(&fake, &["--timeout", "1s"]).expect(121).says("still waiting for the slot at the deadline");
    assert_eq!(fake.routes(), [SUBMIT, TURN, CANCEL]);
    assert_eq!(fake.of(TURN)[0].query, "maxWaitSeconds=1");
    assert!(fake.of(CANCEL)[0].path.ends_with(&format!("/{OURS}/cancel")));
}

#[test]
fn at_the_deadline_the_own_deployment_is_cancelled_and_its_end_awaited() {
    for (last, code) in [("CANCELLED", 124), ("FAILED", 124), ("SUCCEEDED", 0)] {
        let fake = Fake::start(move |request, _| match request.route().as_str() {
            SUBMIT => Reply::Json(202, deployment(OURS, "RUNNING")),
            EVENTS => Reply::Stream(vec![Part::Text(frame(1, &log("it runs"))), Part::Hang]),
            CANCEL => Reply::Json(202, deployment(OURS, "RUNNING")),
            "GET completion" => Reply::Json(200, deployment(OURS, last)),
            other => panic!("unexpected: {other}"),
        });
        deploy(&fake, &["--timeout", "1s"]).expect(code).says("it runs");
        assert_eq!(fake.routes(), [SUBMIT, EVENTS, CANCEL, "GET completion"], "{last}");
    }
}

#[test]
fn an_interrupt_cancels_the_own_deployment_first() {
    let fake = Fake::start(|request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(202, deployment(OURS, "RUNNING")),
        EVENTS => Reply::Stream(vec![Part::Hang]),
        CANCEL => Reply::Json(202, deployment(OURS, "RUNNING")),
        "GET completion" => Reply::Json(200, deployment(OURS, "CANCELLED")),
        other => panic!("unexpected: {other}"),
    });
    let child = singletrack(&fake, &["deploy", "--project", "web"]).spawn().expect("it runs");
    fake.wait_for(EVENTS);
    interrupt(&child);
    Ended::of(child.wait_with_output().expect("it ends")).expect(130).says("interrupted").says("it is cancelled");
    assert!(fake.of(CANCEL)[0].path.ends_with(&format!("/{OURS}/cancel")));
}

#[test]
fn an_interrupt_in_line_gives_the_place_back() {
    let fake = Fake::start(|request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(409, conflict()),
        TURN => Reply::Hang,
        CANCEL => Reply::Json(202, deployment(OURS, "CANCELLED")),
        other => panic!("unexpected: {other}"),
    });
    let child = singletrack(&fake, &["deploy", "--project", "web"]).spawn().expect("it runs");
    fake.wait_for(TURN);
    interrupt(&child);
    Ended::of(child.wait_with_output().expect("it ends")).expect(130);
    assert!(fake.of(CANCEL)[0].path.ends_with(&format!("/{OURS}/cancel")));
}

#[test]
fn what_a_submit_made_while_the_interrupt_came_is_cancelled_too() {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let fake = Fake::start(move |request, _| match request.route().as_str() {
        SUBMIT => {
            // The answer is on its way when the signal comes.
            released.lock().unwrap().recv().expect("the test says when");
            Reply::Json(202, deployment(OURS, "PENDING"))
        }
        CANCEL => Reply::Json(202, deployment(OURS, "CANCELLED")),
        other => panic!("unexpected: {other}"),
    });
    let child = singletrack(&fake, &["deploy", "--project", "web"]).spawn().expect("it runs");
    fake.wait_for(SUBMIT);
    interrupt(&child);
    release.send(()).expect("the server waits");
    Ended::of(child.wait_with_output().expect("it ends")).expect(130);
    assert_eq!(fake.routes(), [SUBMIT, CANCEL]);
}

#[test]
fn a_second_interrupt_ends_it_at_once() {
    let fake = Fake::start(|request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(202, deployment(OURS, "RUNNING")),
        EVENTS => Reply::Stream(vec![Part::Hang]),
        CANCEL => Reply::Hang,
        other => panic!("unexpected: {other}"),
    });
    let child = singletrack(&fake, &["deploy", "--project", "web"]).spawn().expect("it runs");
    fake.wait_for(EVENTS);
    interrupt(&child);
    fake.wait_for(CANCEL);
    interrupt(&child);
    let ended = Ended::of(child.wait_with_output().expect("it ends"));
    ended.expect(130);
    assert!(!ended.stderr.contains("error:"), "it did not wait for the cancel: {}", ended.stderr);
}

#[test]
fn without_a_server_it_is_said_what_to_check() {
    let deaf = DeafPort::take();
    let server = format!("http://127.0.0.1:{}", deaf.port);
    let args = ["deploy", "--project", "web", "--timeout", "1s", "--server", &server, "--json"];
    let mut command = Command::new(SINGLETRACK);
    let begun = Instant::now();
    let ended = Ended::of(command.env_clear().args(args).output().expect("it runs"));
    ended.expect(125).says("trying again for up to 1s").says("refused").says("hint: check --server");
    // Nothing was sent, so no answer is waited for past the deadline.
    assert!(begun.elapsed() < Duration::from_millis(3_900), "{:?}", begun.elapsed());
    let told: Value = serde_json::from_str(&ended.stdout).expect("JSON for who asked for it");
    assert_eq!(told["exitCode"], 125);
}

#[test]
fn without_a_server_the_timeout_is_not_used_up() {
    let deaf = DeafPort::take();
    // By name, which may stand for more than one address.
    let server = format!("http://localhost:{}", deaf.port);
    let begun = Instant::now();
    let mut command = Command::new(SINGLETRACK);
    let ended = Ended::of(
        command.env_clear().args(["deploy", "--project", "web", "--server", &server]).output().expect("it runs"),
    );
    ended.expect(125).says("trying again for up to 15s").says("hint: check --server");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(14) && took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn what_is_not_singletrack_is_no_success() {
    for reply in [(200, "text/html", "<h1>Welcome</h1>"), (404, "text/html", "nothing here"), (200, "text/json", "{}")]
    {
        let fake = Fake::start(move |_, _| Reply::Raw(reply.0, reply.1, reply.2));
        deploy(&fake, &[]).expect(125).says("is not Singletrack");
        assert_eq!(fake.routes(), [SUBMIT], "{reply:?}");
    }
}

#[test]
fn once_the_server_has_answered_what_is_not_its_own_is_waited_out() {
    // What stands in for a container that is restarted, for a server that is not reached, for one that wants a login.
    let strange = [
        (404, "text/plain", "404 page not found\n"),
        (521, "text/html", "<h1>Web server is down</h1>"),
        (200, "text/html", "<h1>Welcome</h1>"),
        (403, "text/html", "<h1>Forbidden</h1>"),
        (301, "text/html", "moved"),
        (404, "application/json", "{\"message\": \"no Route matched with those values\"}"),
    ];
    let end = || {
        let mut last = complete(&deployment(OURS, "SUCCEEDED"));
        last["seq"] = json!(1);
        last["at"] = json!("2026-03-01T12:00:00.000Z");
        Reply::Json(200, json!({ "events": [last], "last": 1, "final": true }))
    };
    let route = format!("GET {OURS}");
    let fake = Fake::start(move |request, nth| match (request.route(), nth, strange.get(nth)) {
        (asked, _, _) if asked == SUBMIT => Reply::Json(202, deployment(OURS, "RUNNING")),
        // Here it is seen first, and there it is waited out.
        (asked, 0, _) if asked == EVENTS => Reply::Raw(404, "text/plain", "404 page not found\n"),
        (asked, _, Some(reply)) if asked == route => Reply::Raw(reply.0, reply.1, reply.2),
        (asked, _, _) if asked == route => Reply::Json(200, deployment(OURS, "RUNNING")),
        _ => end(),
    });
    deploy(&fake, &["--follow", "poll"]).expect(0);
    assert_eq!((fake.of(EVENTS).len(), fake.of(&format!("GET {OURS}")).len()), (2, strange.len() + 1));
}

#[test]
fn a_proxy_that_refuses_a_large_body_is_named_with_what_to_do() {
    for is_known in [false, true] {
        let fake = Fake::start(move |request, _| match request.method.as_str() {
            "HEAD" | "GET" if is_known => Reply::With(404, &[("singletrack-upload-offset", "0")], json!(null)),
            "HEAD" => Reply::With(404, &[("singletrack-upload-offset", "0")], problem(404, "NOT_FOUND")),
            _ => Reply::Raw(413, "text/html", "<h1>413 Request Entity Too Large</h1>"),
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "content").unwrap();
        let ended = deploy(&fake, &["--artifact", file.path().to_str().unwrap()]);
        ended.expect(125).says("HTTP 413").says("client_max_body_size");
        assert!(!ended.stderr.contains("is not Singletrack"), "{}", ended.stderr);
        assert_eq!(fake.requests().iter().filter(|request| request.method == "PUT").count(), 1, "it does not pass");
    }
}

#[test]
fn the_token_goes_to_the_server_and_nowhere_else() {
    let fake = free_until(deployment(OURS, "SUCCEEDED"));
    let mut command = singletrack(&fake, &["deploy", "--project", "web"]);
    let ended = Ended::of(command.env("SINGLETRACK_TOKEN", "st_secret").output().expect("it runs"));
    ended.expect(0);
    assert!(fake.requests().iter().all(|request| request.header("authorization") == Some("Bearer st_secret")));
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("st_secret"));

    let elsewhere = Fake::start(|_, _| Reply::Drop);
    let location: &'static str = Box::leak(elsewhere.url.clone().into_boxed_str());
    let headers: &'static [(&str, &str)] = Box::leak(Box::new([("location", location)]));
    let fake = Fake::start(move |_, _| Reply::With(307, headers, json!({})));
    let mut command = singletrack(&fake, &["deploy", "--project", "web"]);
    let ended = Ended::of(command.env("SINGLETRACK_TOKEN", "st_secret").output().expect("it runs"));
    ended.expect(125).says("follows no redirects").says(location);
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn detached_it_prints_the_id_and_goes() {
    let fake = Fake::start(|_, _| {
        let mut queued = deployment(OURS, "PENDING");
        queued["queuePosition"] = json!(3);
        Reply::Json(202, queued)
    });
    let ended = deploy(&fake, &["--detach"]);
    ended.expect(0).says("number 3 in line");
    assert_eq!(ended.stdout, format!("{OURS}\n"));
    assert_eq!(fake.of(SUBMIT)[0].json()["onConflict"], "queue");
    assert_eq!(fake.routes(), [SUBMIT]);
}

#[test]
fn json_is_the_final_deployment_and_nothing_else() {
    let fake = free_until(deployment(OURS, "SUCCEEDED"));
    let ended = deploy(&fake, &["--json"]);
    ended.expect(0);
    let told: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(told, deployment(OURS, "SUCCEEDED"));
}

#[test]
fn a_step_that_is_repeated_in_its_job_finds_its_running_deployment_again() {
    let run = |attempt: &str| {
        let fake = Fake::start(|request, _| match request.route().as_str() {
            SUBMIT => Reply::With(202, &[("idempotency-replayed", "true")], deployment(OURS, "RUNNING")),
            EVENTS => stream_to(&ended("FAILED", "PHASE_FAILED", None)),
            other => panic!("unexpected: {other}"),
        });
        let mut command = singletrack(&fake, &["deploy", "--project", "web"]);
        command.envs([("GITHUB_ACTIONS", "true"), ("GITHUB_RUN_ID", "7"), ("GITHUB_JOB", "deploy")]);
        command.envs([("GITHUB_RUN_ATTEMPT", attempt), ("GITHUB_RUN_NUMBER", "12"), ("GITHUB_SHA", "abc")]);
        let ended = Ended::of(command.output().expect("it runs"));
        ended.expect(1).says("from an earlier run of this job");
        assert_eq!(fake.of(SUBMIT).len(), 1);
        let submit = fake.of(SUBMIT).remove(0);
        assert_eq!(submit.json()["order"], 12);
        assert_eq!(submit.json()["commit"], "abc");
        submit.header("idempotency-key").expect("a key").to_owned()
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn a_key_that_was_given_is_strict_and_one_that_was_made_up_goes_on_from_what_is_over() {
    let over = || Reply::With(202, &[("idempotency-replayed", "true")], ended("FAILED", "PHASE_FAILED", None));
    let job = [("GITHUB_ACTIONS", "true"), ("GITHUB_RUN_ID", "7"), ("GITHUB_RUN_ATTEMPT", "1")];
    let fake = Fake::start(move |request, _| match request.route().as_str() {
        SUBMIT => over(),
        other => panic!("unexpected: {other}"),
    });
    let mut given = singletrack(&fake, &["deploy", "--project", "web", "--idempotency-key", "mine"]);
    Ended::of(given.envs(job).output().expect("it runs")).expect(1).says("--idempotency-key");
    assert_eq!(fake.of(SUBMIT).len(), 1);

    let keys = || {
        let fake = Fake::start(move |request, nth| match (request.route().as_str(), nth) {
            (SUBMIT, 0) => over(),
            (SUBMIT, 1) => Reply::Json(409, problem(409, "DEADLINE_PASSED")),
            (SUBMIT, 2) => Reply::Json(202, deployment(OURS, "PENDING")),
            (EVENTS, _) => stream_to(&deployment(OURS, "SUCCEEDED")),
            other => panic!("unexpected: {other:?}"),
        });
        let mut made = singletrack(&fake, &["deploy", "--project", "web"]);
        Ended::of(made.envs(job).output().expect("it runs")).expect(0);
        let submits = fake.of(SUBMIT);
        assert!(submits.iter().all(|submit| submit.body == submits[0].body), "another body is another request");
        submits.iter().map(|submit| submit.header("idempotency-key").expect("a key").to_owned()).collect::<Vec<_>>()
    };
    let (one, other) = (keys(), keys());
    assert_eq!(one, other, "two racing repetitions make one deployment");
    assert_eq!(one.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{one:?}");
}

#[test]
fn what_this_very_process_may_have_made_is_not_deployed_a_second_time() {
    // The first attempt is read and not answered; the second finds what it made, which is over by now.
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        (SUBMIT, 0) => Reply::Drop,
        (SUBMIT, 1) => Reply::With(202, &[("idempotency-replayed", "true")], deployment(OURS, "SUCCEEDED")),
        other => panic!("unexpected: {other:?}"),
    });
    deploy(&fake, &[]).expect(0);
    assert_eq!(fake.of(SUBMIT).len(), 2);
}

#[test]
fn a_message_is_told_once_and_not_again_for_a_later_phase() {
    let progress = |percent: u8, message: &str| json!({"type": "progress", "status": "RUNNING", "progress": percent, "message": message});
    let fake = Fake::start(move |request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(202, deployment(OURS, "PENDING")),
        EVENTS => Reply::Stream(vec![
            Part::Text(frame(1, &json!({"type": "phase", "name": "upload", "state": "started"}))),
            Part::Text(frame(2, &progress(0, "Uploading"))),
            Part::Text(frame(3, &progress(33, "Uploading"))),
            Part::Text(frame(4, &json!({"type": "phase", "name": "switch", "state": "started"}))),
            Part::Text(frame(5, &progress(66, "Uploading"))),
            Part::Text(frame(6, &progress(80, "Switching"))),
            Part::Text(frame(7, &complete(&deployment(OURS, "SUCCEEDED")))),
        ]),
        other => panic!("unexpected: {other}"),
    });
    let told = "==> upload\n      0 % Uploading\n     33 %\n==> switch\n     66 %\n     80 % Switching\n";
    deploy(&fake, &[]).expect(0).says(told);
}

#[test]
fn output_is_passed_on_as_plain_lines_and_cannot_steer_the_terminal() {
    let fake = Fake::start(|request, _| {
        match request.route().as_str() {
        SUBMIT => Reply::Json(202, deployment(OURS, "PENDING")),
        EVENTS => Reply::Stream(vec![
            Part::Text("event: progress\ndata: {\"type\":\"progress\",\"status\":\"RUNNING\",\"progress\":0,\"message\":null}\n\n".to_owned()),
            Part::Text(frame(1, &json!({"type": "phase", "name": "build", "state": "started"}))),
            Part::Text(frame(2, &log("compiling \u{1b}[31mred\u{1b}[2J"))),
            Part::Text(frame(3, &json!({"type": "somethingNew", "value": 1}))),
            Part::Text(frame(4, &complete(&deployment(OURS, "SUCCEEDED")))),
        ]),
        other => panic!("unexpected: {other}"),
    }
    });
    let ended = deploy(&fake, &[]);
    ended.expect(0).says("==> build\ncompiling red\n");
    assert!(!ended.stderr.contains('\u{1b}'), "{:?}", ended.stderr);
    assert_eq!(fake.of(EVENTS).len(), 1);
}
