//! What the commands say is true, and the commands that they name work.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{SINGLETRACK, TestServer};

const MORE: &str = r#"
[projects.still]
paused = true
[projects.other]
[[projects.other.pipelines.destroy.phases]]
name = "only"
run = "true"
"#;

fn command(server: &str) -> Command {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("USER", "alice").env("SINGLETRACK_URL", server).stdin(Stdio::null());
    command
}

/// Standard output of a command that goes well.
fn prints(server: &TestServer, args: &[&str]) -> String {
    let output = command(&server.base).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn why_names_a_command_that_works_for_the_project() {
    let server = TestServer::gated_with(MORE);
    prints(&server, &["run", "--project", "web2", "--", "/bin/true"]);
    for (project, next) in [
        ("web", "singletrack deploy --project web"),
        ("other", "singletrack deploy --project other --pipeline destroy"),
        ("web2", "singletrack run --project web2 -- COMMAND"),
    ] {
        let why = prints(&server, &["why", "--project", project]);
        assert!(why.lines().any(|line| line == format!("  deploy: {next}")), "{project}: {why}");
    }
}

#[tokio::test]
async fn a_paused_project_is_listed_as_paused() {
    let server = TestServer::gated_with(MORE);
    let listed = prints(&server, &["list"]);
    let slot = |project: &str| {
        let row = listed.lines().find(|line| line.starts_with(project)).unwrap_or_else(|| panic!("{listed}"));
        row.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!((slot("still"), slot("other")), ("paused".to_owned(), "free".to_owned()), "{listed}");
    let whole: Value = serde_json::from_str(&prints(&server, &["list", "--json"])).unwrap();
    let paused: Vec<_> = whole["projects"].as_array().unwrap().iter().map(|project| &project["paused"]).collect();
    assert_eq!(paused, [false, true, false], "{whole}");
}

#[tokio::test]
async fn a_server_that_drains_is_said_to_be_stopped_or_restarted_and_is_waited_for() {
    let mut server = TestServer::gated_with("shutdown_grace = \"60s\"");
    server.at_the_gate().await;
    server.signal(Signal::TERM);
    while server.get("/readyz").await.status != 503 {
        tokio::task::yield_now().await;
    }
    let mut deploy = command(&server.base);
    deploy.args(["deploy", "--project", "web", "--pipeline", "quick"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut deploy = deploy.spawn().unwrap();
    let mut told = String::new();
    BufReader::new(deploy.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert!(told.contains("is being stopped or restarted; waiting for it until the deadline"), "{told}");
    server.open_gate();
    server.exited();
    server.boot();
    assert!(deploy.wait().unwrap().success(), "the server that has started again is asked");
}

#[test]
fn a_server_is_called_silent_only_once_it_was_silent_for_longer_than_a_slow_one_is() {
    // Connections are taken by the kernel and never answered.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", mute.local_addr().unwrap());
    let asked = command(&server).args(["status", "--project", "web"]).output().unwrap();
    let told = String::from_utf8(asked.stderr).unwrap();
    assert!(told.starts_with("error: no answer from") && !told.contains("trying again"), "{told}");
    let mut deploy = command(&server);
    deploy.args(["deploy", "--project", "web", "--timeout", "1m"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut deploy = deploy.spawn().unwrap();
    let mut told = String::new();
    BufReader::new(deploy.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert!(told.contains("does not answer (nothing came for "), "{told}");
    deploy.kill().unwrap();
    deploy.wait().unwrap();
}
