//! Kernels and profiles that do not have, or forbid, what a run likes to use; and commands that cannot be started.

use std::os::unix::fs::PermissionsExt as _;

use super::{command, ended, run, text};
use crate::harness::{TestServer, forbid::forbid};

async fn lines(server: &TestServer) -> Vec<String> {
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    let events = server.deployment(&id, "/events?after=0&maxWaitSeconds=0").await.body;
    let lines = events["events"].as_array().unwrap().iter().filter_map(|event| event["lines"].as_array());
    lines.flatten().map(|line| line.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_kernel_without_handles_of_processes_runs_a_command_to_its_end() {
    let server = TestServer::start("");
    for error in [libc::ENOSYS, libc::EPERM] {
        let mut old = run(&server, &[], "sleep 600 >&- 2>&- & echo out; exit 3");
        forbid(&mut old, &[libc::SYS_pidfd_open], error);
        let output = ended(old);
        assert_eq!(
            (output.status.code(), text(&output.stdout).as_str()),
            (Some(3), "out\n"),
            "{}",
            text(&output.stderr)
        );
        assert!(lines(&server).await.contains(&"out".to_owned()));
    }
}

#[tokio::test]
async fn where_no_thread_is_to_be_had_that_is_said_before_the_slot_is_taken() {
    let server = TestServer::start("");
    let mut profiled = run(&server, &[], "echo out");
    forbid(&mut profiled, &[libc::SYS_clone3], libc::EPERM);
    let output = ended(profiled);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(said.contains("no thread can be started") && said.contains(release.trim()), "{said}");
    assert_eq!(server.get("/v1/projects/web").await.status, 404, "a deployment was made");

    let mut profiled = run(&server, &["--no-logs"], "echo out; exit 4");
    forbid(&mut profiled, &[libc::SYS_clone3], libc::EPERM);
    let output = ended(profiled);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(4), "out\n"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn without_a_path_commands_are_found_where_the_system_looks() {
    let server = TestServer::start("");
    let mut bare = command(&server, &[], &["ls", "/"]);
    bare.env_remove("PATH");
    let output = ended(bare);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("usr"));
}

#[tokio::test]
async fn a_script_whose_interpreter_is_not_there_takes_no_slot() {
    let server = TestServer::start("");
    for (first_line, says) in [
        ("#!/bin/sh\r", "has the line ends of Windows, so its interpreter is not found"),
        ("#!/usr/bin/env bash\r", "has the line ends of Windows"),
        ("#! /no/such/python3 -u", "its interpreter /no/such/python3 is not there"),
        ("#!/etc/passwd", "its interpreter /etc/passwd is not executable"),
    ] {
        let script = server.path("deploy.sh");
        std::fs::write(&script, format!("{first_line}\necho started\n")).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = ended(command(&server, &[], &[script.to_str().unwrap()]));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(126), "{first_line:?}: {said}");
        assert!(said.contains(says), "{said}");
    }
    assert_eq!(server.get("/v1/projects/web").await.status, 404, "a deployment was made");
}

#[tokio::test]
async fn what_the_command_leaves_running_is_named_with_the_way_to_keep_it() {
    let server = TestServer::start("");
    let script = "nohup sleep 600 >/dev/null 2>&1 & while [ \"$(cat /proc/$!/comm)\" != sleep ]; do sleep 0.05; done";
    let output = ended(run(&server, &[], script));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let wanted = "the command left something running, which was ended with it: sleep (process ";
    assert!(said.contains(wanted) && said.contains("`systemd-run`"), "{said}");
    assert!(lines(&server).await.iter().any(|line| line.contains(wanted)));
    // The reader of a pipe of the command's own ends by itself.
    let script =
        "exec > >(: >\"$TEST_DIR/up\"; exec cat); while ! [ -e \"$TEST_DIR/up\" ]; do sleep 0.05; done; echo out";
    let output = ended(command(&server, &[], &["bash", "-c", script]));
    assert!(!text(&output.stderr).contains("left something running"), "{}", text(&output.stderr));
}
