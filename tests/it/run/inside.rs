//! What a command asks of the run around it: `fence check`, `protect`, and a run within a run.

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::{Running, ended, process, run, text};
use crate::harness::{TestServer, processes};

#[tokio::test]
async fn a_script_can_ask_whether_it_still_holds_the_slot() {
    let mut server = TestServer::start("");
    let output = ended(run(&server, &[], "\"$SINGLETRACK\" fence check"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    // A script that has forgotten its run asks the server itself.
    let alone = "unset SINGLETRACK_RUN_SOCKET; \"$SINGLETRACK\" fence check";
    assert_eq!(ended(run(&server, &[], alone)).status.code(), Some(0));
    let older = format!("export SINGLETRACK_FENCING_TOKEN=1; {alone}");
    assert_eq!(ended(run(&server, &[], &older)).status.code(), Some(123));

    let mut running = Running::start(&server, &[], "echo up; read line; \"$SINGLETRACK\" fence check; echo $?");
    running.says("up");
    server.kill();
    running.go_on();
    running.says("125");
    server.boot();
    assert_eq!(running.end().0, 0);
}

#[tokio::test]
async fn after_a_release_the_fence_is_gone() {
    let server = TestServer::start("");
    let script = "trap '' TERM; echo up; read line; \"$SINGLETRACK\" fence check; echo $?";
    let mut running = Running::start(&server, &["--lease", "60s"], script);
    running.says("up");
    let released = server.post("/v1/projects/web/release", json!({ "reason": "a test", "evenIfAlive": true })).await;
    assert_eq!(released.status, 200, "{}", released.text);
    running.go_on();
    let (code, printed) = running.end();
    assert_eq!((code, printed.as_str()), (123, "123\n"));
}

#[tokio::test]
async fn outside_of_a_run_there_is_no_fence_and_nothing_to_protect() {
    let server = TestServer::start("");
    for (args, code) in [(&["fence", "check"][..], 125), (&["protect", "--", "true"], 2)] {
        let mut command = run(&server, &[], "true");
        command = {
            let mut other = std::process::Command::new(command.get_program());
            other.args(args).env("SINGLETRACK_URL", &server.base).env("SINGLETRACK_PROJECT", "web");
            other
        };
        assert_eq!(ended(command).status.code(), Some(code), "{args:?}");
    }
}

/// Says that a cancel has come and waits.
fn waits(event: &Value) -> bool {
    event["lines"][0] == "singletrack: asked to stop: that waits until the protected section is over"
}

#[tokio::test]
async fn a_cancel_waits_for_a_protected_command_and_the_canceller_is_told() {
    let server = TestServer::start("");
    let script = "\"$SINGLETRACK\" protect -- sh -c 'echo up; read line; echo safe; exit 4'; echo code $?; sleep 600";
    let mut running = Running::start(&server, &[], script);
    running.says("up");
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    let told = server.event(&id, |event| event["type"] == "phase" && event["name"] == "protected").await;
    assert_eq!(told["message"], "protected: a cancel waits until it is over", "{told}");
    server.cancel(&id, json!({})).await;
    server.event(&id, waits).await;
    running.go_on();
    running.says("safe");
    let (code, _) = running.end();
    assert_eq!(code, 122);
    assert_eq!(server.finished(&id).await["status"], "CANCELLED");
}

#[tokio::test]
async fn lines_of_the_command_protect_as_well() {
    let server = TestServer::start("");
    let script = "trap 'echo stopped; exit 5' TERM
        echo '::singletrack protect::'; echo up; read line; echo safe; echo '::singletrack unprotect::'
        while :; do sleep 0.1; done";
    let mut running = Running::start(&server, &[], script);
    running.says("::singletrack protect::");
    running.says("up");
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    server.event(&id, |event| event["type"] == "phase" && event["name"] == "protected").await;
    server.cancel(&id, json!({})).await;
    server.event(&id, waits).await;
    running.go_on();
    running.says("safe");
    running.says("::singletrack unprotect::");
    assert_eq!(running.end(), (122, "stopped\n".to_owned()));
}

#[tokio::test]
async fn a_run_within_a_run_takes_part_in_its_slot() {
    let server = TestServer::start("");
    let inner = "\"$SINGLETRACK\" run -- sh -c 'echo inner; exit 9'";
    let output = ended(run(&server, &[], inner));
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(9), "inner\n"));
    assert_eq!(server.deployments().await.len(), 1);

    // Of another project it takes that one's slot; and a variable that has outlived its run means nothing.
    let other = "\"$SINGLETRACK\" run --project other -- sh -c 'echo $SINGLETRACK_PROJECT'";
    assert_eq!(text(&ended(run(&server, &[], other)).stdout), "other\n");
    let mut stale = run(&server, &[], "echo $SINGLETRACK_DEPLOYMENT_ID");
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    stale.env("SINGLETRACK_DEPLOYMENT_ID", &id).env("SINGLETRACK_FENCING_TOKEN", "1");
    let output = ended(stale);
    assert_eq!(output.status.code(), Some(0));
    assert_ne!(text(&output.stdout).trim(), id);
}

/// A protected command that tells its parent's pid and what it hears.
const PROTECTED: &str = r#""$SINGLETRACK" protect -- sh -c '
    trap "echo heard; exit 4" TERM HUP USR1 USR2; trap "echo no" INT QUIT
    echo $PPID; while :; do sleep 0.05; done'; echo code $?"#;

#[tokio::test]
async fn protect_passes_signals_on_and_lasts_as_long_as_its_command() {
    let server = TestServer::start("");
    for signal in [Signal::TERM, Signal::HUP, Signal::USR1, Signal::USR2] {
        let mut running = Running::start(&server, &[], PROTECTED);
        let protect = process(&running.line());
        // A terminal sends these to the command by itself.
        kill_process(protect, Signal::INT).unwrap();
        kill_process(protect, Signal::QUIT).unwrap();
        kill_process(protect, signal).unwrap();
        assert_eq!(running.end(), (0, "heard\ncode 4\n".to_owned()), "{signal:?}");
    }
}

#[tokio::test]
async fn a_protect_that_is_killed_takes_its_command_along() {
    let server = TestServer::start("");
    let script = "\"$SINGLETRACK\" protect -- sh -c 'echo $$ $PPID; exec sleep 600'; echo code $?";
    let mut running = Running::start(&server, &[], script);
    let pids = running.line();
    let (command, protect) = pids.split_once(' ').unwrap();
    kill_process(process(protect), Signal::KILL).unwrap();
    assert!(processes::gone(process(command)));
    assert_eq!(running.end().1, "code 137\n");
}
