//! `singletrack deploy` against a real server: the line, the take-over, the interrupt, the restart in the middle.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{DeafPort, Place, SINGLETRACK, TestServer, client::Client, gated_config};

/// A `deploy` of this actor, under way.
fn deploy_of(server: &TestServer, actor: &str, args: &[&str]) -> Client {
    let variables = [("USER", actor), ("SINGLETRACK_URL", &*server.base)];
    Client::start(&variables, &[&["deploy", "--project", "web", "--json"], args].concat())
}

/// One that holds the slot and stands at the gate, and others in line behind it, in the order of their names.
fn line(server: &TestServer, actors: &[&str]) -> Vec<Client> {
    let mut deploys = Vec::new();
    for actor in actors {
        let mut deploy = deploy_of(server, actor, &[]);
        deploy.hears(if deploys.is_empty() { "at the gate" } else { "waiting for" });
        deploys.push(deploy);
    }
    deploys
}

#[test]
fn five_at_once_deploy_one_after_the_other_in_the_order_they_came() {
    let server = TestServer::gated();
    let deploys = line(&server, &["a", "b", "c", "d", "e"]);
    server.open_gate();
    let ends: Vec<_> = deploys.into_iter().map(|deploy| deploy.ended().parts()).collect();
    for (code, _, heard) in &ends {
        assert_eq!(*code, Some(0), "{heard}");
        assert_eq!(heard.matches("has the slot").count(), 1, "{heard}");
    }
    let times: Vec<_> = ends.iter().flat_map(|(_, told, _)| [&told["startedAt"], &told["endedAt"]]).collect();
    assert!(times.iter().all(|time| time.is_string()));
    // Each starts when the one before it has ended; the times sort as text.
    assert!(times.windows(2).all(|pair| pair[0].as_str() <= pair[1].as_str()), "{times:?}");
}

#[test]
fn a_sixth_takes_over_and_the_jobs_of_the_rest_end_with_122_and_name_it() {
    let server = TestServer::gated();
    let deploys = line(&server, &["a", "b", "c"]);
    let mut sixth = deploy_of(&server, "boss", &["--cancel-in-progress-deployment"]);
    sixth.hears("has the slot");
    server.open_gate();
    let (code, told, heard) = sixth.ended().parts();
    assert_eq!(code, Some(0), "{heard}");
    let id = told["id"].as_str().unwrap();
    assert_eq!(told["number"], 4);
    for deploy in deploys {
        let (code, told, heard) = deploy.ended().parts();
        assert_eq!(code, Some(122), "{heard}");
        assert!(heard.contains("was superseded by web#4 of boss"), "{heard}");
        assert_eq!(told["supersededBy"], id);
    }
}

#[tokio::test]
async fn one_that_would_rather_leave_ends_with_122_as_soon_as_a_newer_one_is_before_it() {
    let server = TestServer::gated_with("[projects.web]\nline = \"latest\"");
    let mut deploys = line(&server, &["a"]);
    let holder = deploys.pop().unwrap();
    let mut hasty = deploy_of(&server, "hasty", &["--leave-when-overtaken"]);
    hasty.hears("you are next");
    let patient = deploy_of(&server, "patient", &[]);
    let (code, told, heard) = hasty.ended().parts();
    assert_eq!(code, Some(122), "{heard}");
    assert!(heard.contains("is newer, and supersedes it when it starts"), "{heard}");
    assert_eq!(told["status"], "CANCELLED");
    let view = server.get("/v1/projects/web").await.body;
    assert_eq!(
        (&view["holder"]["actor"], &view["lineLength"]),
        (&Value::from("a"), &Value::from(1)),
        "the others stay"
    );
    server.open_gate();
    assert_eq!(holder.ended().code, Some(0));
    let (code, _, heard) = patient.ended().parts();
    assert_eq!(code, Some(0), "{heard}");
}

#[tokio::test]
async fn an_interrupt_leaves_neither_a_held_slot_nor_a_place_in_line() {
    let server = TestServer::gated();
    let mut deploys = line(&server, &["a", "b"]);
    let (waiting, running) = (deploys.pop().unwrap(), deploys.pop().unwrap());
    waiting.interrupt();
    let (code, told, heard) = waiting.ended().parts();
    assert_eq!((code, &told["status"]), (Some(130), &Value::from("CANCELLED")), "{heard}");
    running.interrupt();
    let (code, told, heard) = running.ended().parts();
    assert_eq!((code, &told["status"]), (Some(130), &Value::from("CANCELLED")), "{heard}");
    let view = server.get("/v1/projects/web").await.body;
    assert_eq!((&view["holder"], &view["lineLength"]), (&Value::Null, &Value::from(0)));
}

#[test]
fn a_restart_in_the_middle_is_survived_by_those_who_wait() {
    let mut server = TestServer::gated();
    let mut deploys = line(&server, &["a", "b"]);
    let (waiting, running) = (deploys.pop().unwrap(), deploys.pop().unwrap());
    server.kill();
    server.boot();
    server.open_gate();
    let (code, told, heard) = running.ended().parts();
    assert_eq!((code, &told["error"]["code"]), (Some(1), &Value::from("WORKER_LOST")), "{heard}");
    let (code, _, heard) = waiting.ended().parts();
    assert_eq!(code, Some(0), "{heard}");
    assert_eq!(heard.matches("has the slot").count(), 1, "{heard}");
}

#[test]
fn queued_it_is_started_by_the_server_and_followed_all_the_same() {
    let server = TestServer::gated();
    let mut deploys = line(&server, &["a"]);
    let mut queued = deploy_of(&server, "b", &["--on-conflict", "queue"]);
    queued.hears("waiting for web#1, a's deploy");
    server.open_gate();
    assert_eq!(deploys.remove(0).ended().code, Some(0));
    let (code, _, heard) = queued.ended().parts();
    assert_eq!(code, Some(0), "{heard}");
    assert!(heard.contains("at the gate"), "{heard}");
}

#[test]
fn every_way_of_following_comes_to_the_same_end() {
    let server = TestServer::gated();
    for how in ["auto", "sse", "poll", "none"] {
        let broken = deploy_of(&server, "a", &["--pipeline", "broken", "--follow", how]);
        let (code, told, heard) = broken.ended().parts();
        assert_eq!((code, &told["error"]["code"]), (Some(1), &Value::from("PHASE_FAILED")), "{how}: {heard}");
        assert_eq!(heard.matches("\nit is broken\n").count(), usize::from(how != "none"), "{how}: {heard}");
    }
}

#[test]
fn the_output_can_be_read_afterwards_and_while_it_runs() {
    let server = TestServer::gated();
    let base = server.base.clone();
    let logs = move |follow: bool| {
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().args(["logs", "--project", "web", "--server", &base]);
        command.args(follow.then_some("--follow")).stdout(Stdio::piped()).spawn().unwrap()
    };
    let deploy = line(&server, &["a"]).remove(0);
    let mut following = logs(true);
    let mut first = String::new();
    let mut stdout = BufReader::new(following.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    assert_eq!(first, "at the gate\n");
    let so_far = logs(false).wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&so_far.stdout), "at the gate\n");
    server.open_gate();
    assert_eq!(deploy.ended().code, Some(0));
    assert_eq!(following.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_deploy_that_gets_two_signals_at_once_still_cancels_its_deployment() {
    let server = TestServer::gated();
    for [first, second] in [
        [Signal::HUP, Signal::HUP],
        [Signal::INT, Signal::TERM],
        [Signal::TERM, Signal::HUP],
        [Signal::TERM, Signal::INT],
    ] {
        let mut deploy = deploy_of(&server, "a", &[]);
        deploy.hears("at the gate");
        deploy.signal(first);
        deploy.signal(second);
        let (code, told, heard) = deploy.ended().parts();
        assert_eq!(code, Some(130), "{first:?}, {second:?}: {heard}");
        assert_eq!(told["status"], "CANCELLED", "{first:?}, {second:?}: {heard}");
        assert_eq!(server.deployments().await[0]["status"], "CANCELLED");
    }
}

#[test]
fn a_log_hears_once_a_minute_what_runs_and_for_how_long() {
    let server = TestServer::gated();
    let mut deploy = deploy_of(&server, "alice", &[]);
    deploy.hears("at the gate");
    deploy.hears("phase gate: running for 1m");
    server.open_gate();
    let (code, _, heard) = deploy.ended().parts();
    assert_eq!(code, Some(0));
    assert!(heard.contains("no output for 1m"), "{heard}");
    assert!(heard.contains("==> gate succeeded in 1m"), "a phase tells how long it took: {heard}");
}

#[tokio::test]
async fn a_cancel_that_waits_for_a_protected_phase_says_for_which() {
    let server = TestServer::gated_with(
        r#"
[[projects.web.pipelines.guarded.phases]]
name = "migrate"
protected = true
run = 'echo "at the gate"; flock --shared "$TEST_DIR/gate" true'
[[projects.web.pipelines.guarded.phases]]
name = "next"
run = "true"
"#,
    );
    server.open_gate();
    let former = server.accepted(serde_json::json!({ "pipeline": "guarded" })).await;
    assert_eq!(server.finished(&former).await["status"], "SUCCEEDED");
    server.close_gate();
    let id = server.accepted(serde_json::json!({ "pipeline": "guarded" })).await;
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    let mut waiting = deploy_of(&server, "b", &[]);
    waiting.hears("you are next");
    server.cancel(&id, serde_json::json!({})).await;
    let says = "the cancel waits until phase \"migrate\" is over";
    server.event(&id, |event| event["message"] == says).await;
    for command in ["why", "status"] {
        let args = [command, "--project", "web"];
        let told = Command::new(SINGLETRACK).env_clear().args(args).args(["--server", &server.base]).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert_eq!(told.matches(says).count(), 1, "{told}");
        assert!(!told.contains("being cancelled"), "{told}");
        // The former run took a moment, which is told in whole seconds.
        assert!(told.contains("is over, which takes about ") && told.contains("s as a rule"), "{told}");
    }
    let told = server.deployment(&id, "").await.body;
    let usual = told["waitsFor"].as_str().unwrap().to_owned();
    assert!(usual.starts_with(says) && usual.ends_with("s as a rule"), "{told}");
    let conflict = server.submit(serde_json::json!({})).await.body;
    assert_eq!(conflict["blocking"]["message"], usual, "{conflict}");
    waiting.hears("s as a rule");
    server.open_gate();
    assert_eq!(server.finished(&id).await["status"], "CANCELLED");
    assert_eq!(waiting.ended().code, Some(0));
}

#[tokio::test]
async fn an_output_is_shown_at_once_and_stays_whatever_becomes_of_the_deployment() {
    let server = TestServer::gated_with(
        r#"
[[projects.web.pipelines.early.phases]]
name = "publish"
run = '''
echo "::singletrack output url=https://early.example::"
echo "at the gate"
flock --shared "$TEST_DIR/gate" true
exit 3
'''
"#,
    );
    let mut deploy = deploy_of(&server, "a", &["--pipeline", "early"]);
    deploy.hears("output url=https://early.example");
    let status = || {
        let args = ["status", "--project", "web", "--server", &server.base];
        let told = Command::new(SINGLETRACK).env_clear().args(args).output().unwrap();
        String::from_utf8(told.stdout).unwrap()
    };
    let running = server.project().await["holder"].clone();
    assert_eq!((&running["status"], &running["outputs"]["url"]), (&"RUNNING".into(), &"https://early.example".into()));
    assert!(status().contains("url=https://early.example"), "{}", status());
    server.open_gate();
    let (code, told, heard) = deploy.ended().parts();
    assert_eq!((code, &told["status"]), (Some(1), &Value::from("FAILED")), "{heard}");
    assert_eq!((&told["outputs"]["url"], &told["result"]), (&Value::from("https://early.example"), &Value::Null));
    assert!(status().contains("url=https://early.example"), "{}", status());
    assert_eq!(heard.matches("output url=").count(), 1, "{heard}");
}

#[test]
fn localhost_finds_a_server_that_listens_on_the_address_of_ipv6_alone() {
    // At the same port of 127.0.0.1 some other program may listen, which would answer first. So that port is kept deaf.
    let started = (0..10).find_map(|_| {
        let server = TestServer::start_at(Place::at("[::1]"), "sqlite:test.db", &gated_config(""));
        let deaf = DeafPort::at(server.base.rsplit(':').next().unwrap().parse().unwrap())?;
        Some((server, deaf))
    });
    let (_server, DeafPort { port, .. }) = started.as_ref().expect("one of ten ports is free");
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", format!("http://localhost:{port}"));
    let output =
        command.args(["deploy", "--project", "web", "--pipeline", "quick"]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
