//! A line of the log that cannot be written is dropped and counted. It ends and blocks nothing.

use std::{
    fs::{File, OpenOptions},
    io::{PipeReader, PipeWriter, Write as _, pipe},
    process::{Command, Stdio},
};

use rustix::{
    fs::{OFlags, fcntl_setfl},
    process::Signal,
};
use serde_json::json;

use super::{SHORT, check, end_of, lost_worker, metric};
use crate::{
    agent::{TestAgent, by_agents},
    harness::{SINGLETRACK, TestServer, gated_config},
};

/// A file on a disk that is full.
fn full_disk() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe whose reader has gone.
fn closed_pipe() -> PipeWriter {
    pipe().unwrap().1
}

/// A pipe in which there is no more room, and that nobody empties.
fn stuck_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    // Whoever has it next shares this flag, so it is taken away again.
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while writer.write(&vec![b'.'; size]).is_ok() {}
    }
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

/// A server with this standard error.
fn server_logging_to(stderr: impl Into<Stdio>) -> TestServer {
    let mut server = TestServer::start(&gated_config(SHORT));
    assert!(server.terminate().success());
    server.boot_logging_to(stderr.into());
    server
}

async fn frees_lost_slots_and_ends_in_order(mut server: TestServer, end: Signal) {
    // The log has a line for each that is freed.
    for project in ["one", "other", "third"] {
        let id = lost_worker(&server, project).await;
        assert_eq!(end_of(&server, project, &id).await["error"]["code"], "WORKER_LOST");
    }
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, &check(&ready, "reaper")["ok"]), (200, &json!(true)), "{}", ready.text);
    server.signal(end);
    assert_eq!(server.exited().code(), Some(0));
}

#[tokio::test]
async fn a_server_whose_log_is_on_a_full_disk_frees_every_lost_slot_and_counts_the_lines() {
    let server = server_logging_to(full_disk());
    while metric(&server, "singletrack_log_lines_dropped_total").await == 0 {
        tokio::task::yield_now().await;
    }
    frees_lost_slots_and_ends_in_order(server, Signal::TERM).await;
}

#[tokio::test]
async fn a_server_whose_log_nobody_reads_any_more_ends_well_at_ctrl_c() {
    frees_lost_slots_and_ends_in_order(server_logging_to(closed_pipe()), Signal::INT).await;
}

#[tokio::test]
async fn a_server_whose_log_nobody_empties_goes_on() {
    let (_reader, writer) = stuck_pipe();
    frees_lost_slots_and_ends_in_order(server_logging_to(writer), Signal::TERM).await;
}

#[tokio::test]
async fn an_agent_that_cannot_log_runs_what_it_takes() {
    let server = TestServer::start(&by_agents(""));
    let (_reader, stuck) = stuck_pipe();
    for stderr in [Stdio::from(full_disk()), closed_pipe().into(), stuck.into()] {
        let mut agent = TestAgent::start_unready(&server);
        agent.boot_logging_to(stderr);
        for pipeline in ["quick", "broken"] {
            let id = server.accepted(json!({ "pipeline": pipeline })).await;
            let code = &server.finished(&id).await["error"]["code"];
            assert_eq!(*code, if pipeline == "quick" { json!(null) } else { json!("PHASE_FAILED") });
        }
        agent.signal(Signal::TERM);
        assert_eq!(agent.exited().code(), Some(0));
    }
}

#[tokio::test]
async fn commands_that_cannot_say_how_far_they_are_do_their_work() {
    let server = TestServer::gated();
    let (_reader, stuck) = stuck_pipe();
    for stderr in [Stdio::from(full_disk()), closed_pipe().into(), stuck.try_clone().unwrap().into()] {
        let run =
            command(&server, &["run", "--project", "other", "--", "echo", "done"]).stderr(stderr).output().unwrap();
        assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(0), b"done\n".as_slice()));
    }
    for stderr in [Stdio::from(full_disk()), closed_pipe().into(), stuck.into()] {
        let deploy =
            command(&server, &["deploy", "--project", "web", "--pipeline", "broken"]).stderr(stderr).output().unwrap();
        assert_eq!(deploy.status.code(), Some(1));
    }
}

fn command(server: &TestServer, args: &[&str]) -> Command {
    let mut command = Command::new(SINGLETRACK);
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("SINGLETRACK_URL", &server.base)
        .stdin(Stdio::null());
    command
}
