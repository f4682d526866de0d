//! What SIGHUP does, and what it never does.

use std::{fs, os::unix::process::CommandExt as _, process::Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{SINGLETRACK, TestServer, gated_config, terminal::Terminal};

#[tokio::test]
async fn a_hundred_signals_while_deployments_race_lose_nothing() {
    let more = |word: &str| {
        format!(
            r#"
[[projects.race.pipelines.deploy.phases]]
name = "only"
run = """
mkdir "$TEST_DIR/held"
echo {word} >> "$TEST_DIR/witness"
rmdir "$TEST_DIR/held"
"""
"#
        )
    };
    let server = TestServer::start(&gated_config(&more("start")));
    let path = "/v1/projects/race/deployments";
    let racing = async {
        let mut ids = Vec::new();
        for _ in 0..20 {
            let answer = server.post(path, json!({ "onConflict": "queue" })).await;
            assert_eq!(answer.status, 202, "{}", answer.text);
            ids.push(answer.id());
        }
        for id in &ids {
            let ended = server.get(&format!("{path}/{id}/completion?maxWaitSeconds=60")).await;
            assert_eq!(ended.body["status"], "SUCCEEDED", "{}", ended.text);
        }
        ids.len()
    };
    let signals = async {
        for count in 0..100 {
            // Each second one is bad.
            let bad = if count % 2 == 0 { "" } else { "nonsense = 1\n" };
            server.configure(&gated_config(&format!("{bad}{}", more(&format!("at{count}")))));
            server.signal(Signal::HUP);
            tokio::task::yield_now().await;
        }
    };
    let (count, ()) = tokio::join!(racing, signals);
    assert_eq!(fs::read_to_string(server.path("witness")).unwrap().lines().count(), count, "each ran once");
    assert_eq!(server.get("/readyz").await.status, 200);
}

/// A server's command with a configuration of one project, in a folder of its own.
fn serve(folder: &std::path::Path) -> std::process::Command {
    fs::write(folder.join("singletrack.toml"), "[projects.web]\n").unwrap();
    let mut command = std::process::Command::new(SINGLETRACK);
    command.args(["serve", "--listen", "127.0.0.1:0", "--store", "memory:"]).current_dir(folder);
    command.env_remove("SINGLETRACK_LOG");
    command
}

fn wait_for(path: &std::path::Path, words: &str) {
    while !fs::read_to_string(path).unwrap_or_default().contains(words) {
        std::thread::yield_now();
    }
}

#[test]
fn the_end_of_its_terminal_stops_a_server_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let terminal = Terminal::open(80);
    let log = folder.path().join("log");
    let mut command = serve(folder.path());
    command.env("LOG", &log);
    // Its log goes to a file, so that it can be read when the terminal is gone.
    let mut seated = std::process::Command::new("sh");
    seated.args(["-c", "exec \"$@\" 2>\"$LOG\"", "sh"]).arg(command.get_program()).args(command.get_args());
    seated.current_dir(folder.path()).env("LOG", &log).env_remove("SINGLETRACK_LOG");
    let mut server = terminal.seat(seated, Some(Stdio::null()));
    wait_for(&log, "ready");
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    wait_for(&log, "the configuration was read again");
    assert!(server.try_wait().unwrap().is_none(), "its terminal is there, so this is a reload");
    drop(terminal);
    assert_eq!(server.wait().unwrap().code(), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("the terminal was closed") && log.contains("stopped"), "{log}");
}

#[test]
fn under_nohup_a_server_outlives_its_terminal_and_still_reads_its_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let terminal = Terminal::open(80);
    let log = folder.path().join("log");
    let command = serve(folder.path());
    let mut seated = std::process::Command::new("sh");
    // The shell ends with its terminal, and the server becomes an orphan.
    seated.args(["-c", "nohup \"$@\" >/dev/null 2>\"$LOG\" </dev/null & echo $! >\"$PID\"; wait", "sh"]);
    seated.arg(command.get_program()).args(command.get_args());
    let pid_file = folder.path().join("pid");
    seated.current_dir(folder.path()).env("LOG", &log).env("PID", &pid_file).env_remove("SINGLETRACK_LOG");
    let mut shell = terminal.seat(seated, Some(Stdio::null()));
    wait_for(&log, "ready");
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    drop(terminal);
    shell.wait().unwrap();
    fs::write(folder.path().join("singletrack.toml"), "[projects.web]\n[projects.api]\n").unwrap();
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    wait_for(&log, "projects_added=api");
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    wait_for(&log, "stopped");
}

#[test]
fn a_server_that_waits_for_its_database_is_not_ended_by_a_signal_to_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(folder.path().join("singletrack.toml"), "").unwrap();
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("postgres://nobody@{}/nothing", deaf.local_addr().unwrap());
    drop(deaf);
    let mut command = std::process::Command::new(SINGLETRACK);
    command.args(["serve", "--listen", "127.0.0.1:0", "--store", &store]).current_dir(folder.path());
    command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).env_remove("SINGLETRACK_LOG");
    command.process_group(0);
    let mut server = command.spawn().unwrap();
    wait_for(&log, "waiting for it");
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    wait_for(&log, "the configuration was read again");
    assert!(server.try_wait().unwrap().is_none());
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(server.wait().unwrap().code(), Some(0));
}
