//! A run at which somebody sits: the real binary at a real terminal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use rustix::{
    process::{Pid, Signal},
    termios::{Termios, tcgetattr, tcsetwinsize},
};
use serde_json::json;

use super::run;
use crate::harness::{
    TestServer, processes,
    terminal::{Terminal, size},
};

/// A run at a terminal of the test's.
struct Seated {
    child: Child,
    keyboard: File,
    /// Kept open, so that its modes can be looked at after the run.
    terminal: OwnedFd,
    before: Termios,
    seen: String,
}

impl Seated {
    fn start(server: &TestServer, flags: &[&str], script: &str) -> Self {
        Self::with(run(server, flags, script), None)
    }

    /// The same, with standard output elsewhere, if so.
    fn start_with(server: &TestServer, flags: &[&str], script: &str, stdout: Option<Stdio>) -> Self {
        Self::with(run(server, flags, script), stdout)
    }

    /// The same where a shell runs it, with the output or the input of the run in a pipe: `{}` is the run.
    fn in_a_pipe(server: &TestServer, shell: &str, script: &str) -> Self {
        let run = run(server, &[], script);
        let mut command = Command::new("bash");
        // A shell with job control gives each pipe the terminal's foreground, as at a prompt.
        command.args(["--norc", "--noprofile", "-m", "-c", &shell.replace("{}", r#""$0" "$@""#)]);
        command.arg(run.get_program()).args(run.get_args());
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = run.get_current_dir() {
            command.current_dir(folder);
        }
        Self::with(command, None)
    }

    fn with(command: Command, stdout: Option<Stdio>) -> Self {
        let terminal = Terminal::open(80);
        let before = tcgetattr(&terminal.theirs).unwrap();
        let child = terminal.seat(command, stdout);
        Seated { child, keyboard: terminal.ours, terminal: terminal.theirs, before, seen: String::new() }
    }

    /// Reads what is shown until this is seen; answers what came before it.
    fn sees(&mut self, wanted: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(wanted) {
                let rest = self.seen.split_off(at + wanted.len());
                let mut before = std::mem::replace(&mut self.seen, rest);
                before.truncate(at);
                return before;
            }
            let mut bytes = [0; 1024];
            let count = self.keyboard.read(&mut bytes).unwrap();
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    fn types(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Its exit code; the terminal is as it was.
    fn end(mut self) -> i32 {
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        let after = tcgetattr(&self.terminal).unwrap();
        assert_eq!(format!("{after:?}"), format!("{:?}", self.before), "the modes are others");
        code
    }
}

/// Waits until the server knows of a protected section, and so does the run.
async fn protected(server: &TestServer) {
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    server.event(&id, |event| event["phase"] == "protected" || event["name"] == "protected").await;
}

async fn logged(server: &TestServer, line: &str) {
    let id = server.deployments().await[0]["id"].as_str().unwrap().to_owned();
    server.event(&id, |event| event["lines"].as_array().is_some_and(|lines| lines.contains(&json!(line)))).await;
}

#[tokio::test]
async fn the_command_has_a_terminal_whose_size_follows_and_its_output_is_logged() {
    let server = TestServer::start("");
    let script = "tty; echo at /dev/tty >/dev/tty; stty size
        trap 'stty size; echo changed' WINCH; echo ready; read line; echo \"got $line\"; read line; exit 4";
    let mut seated = Seated::start(&server, &[], script);
    let shown = seated.sees("ready\r\n");
    assert!(shown.contains("/dev/pts/"), "{shown:?}");
    assert!(shown.ends_with("at /dev/tty\r\n24 80\r\n"), "{shown:?}");
    seated.types(b"hello\r");
    assert_eq!(seated.sees("got hello\r\n"), "hello\r\n", "it is echoed once");
    tcsetwinsize(&seated.keyboard, size(50, 132)).unwrap();
    // The shell runs its trap once the `read` that it is in has ended.
    seated.types(b"\r");
    assert_eq!(seated.end(), 4);
    logged(&server, "at /dev/tty").await;
    logged(&server, "got hello").await;
}

#[tokio::test]
async fn a_command_whose_output_goes_to_tee_can_ask_for_a_password_at_the_terminal() {
    let server = TestServer::start("");
    let log = server.path("log");
    let mut tee = Command::new("tee").arg(&log).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let pipe = Stdio::from(tee.stdin.take().unwrap());
    let script =
        "echo output; stty -echo </dev/tty; printf 'Password: ' >/dev/tty; read word </dev/tty; stty echo </dev/tty
        echo \"word $word\"; echo error >&2; exit 5";
    let mut seated = Seated::start_with(&server, &[], script, Some(pipe));
    assert!(!seated.sees("Password: ").contains("output"), "it goes to tee alone");
    seated.types(b"s3cret\r");
    assert!(!seated.sees("error\r\n").contains("s3cret"), "it is not echoed");
    assert_eq!(seated.end(), 5);
    tee.wait().unwrap();
    assert_eq!(std::fs::read_to_string(log).unwrap(), "output\nword s3cret\n");
    logged(&server, "output").await;
}

#[tokio::test]
async fn a_changed_window_reaches_the_command() {
    let server = TestServer::start("");
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut seated = Seated::start(&server, &["--no-logs"], script);
    seated.sees("ready\r\n");
    tcsetwinsize(&seated.keyboard, size(50, 132)).unwrap();
    seated.sees("50 132\r\n");
    assert_eq!(seated.end(), 0);
}

#[tokio::test]
async fn ctrl_c_interrupts_the_command_and_cancels_the_deployment() {
    let server = TestServer::start("");
    let mut seated = Seated::start(&server, &[], "echo ready; exec sleep 600");
    seated.sees("ready\r\n");
    seated.types(b"\x03");
    seated.sees("^C");
    assert_eq!(seated.end(), 130);
    assert_eq!(server.deployments().await[0]["status"], "CANCELLED");
}

#[tokio::test]
async fn a_command_may_take_ctrl_c_as_it_likes() {
    let server = TestServer::start("");
    let mut seated =
        Seated::start(&server, &[], "trap 'echo heard; exit 0' INT; echo ready; while :; do sleep 0.05; done");
    seated.sees("ready\r\n");
    seated.types(b"\x03");
    seated.sees("heard\r\n");
    assert_eq!(seated.end(), 0);
    assert_eq!(server.deployments().await[0]["status"], "SUCCEEDED");
}

#[tokio::test]
async fn the_terminal_comes_back_when_the_run_is_told_to_stop() {
    let server = TestServer::start("");
    let mut seated = Seated::start(&server, &[], "echo ready; exec sleep 600");
    seated.sees("ready\r\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&seated.child), Signal::TERM).unwrap();
    assert_eq!(seated.end(), 130);
}

const PROTECTED: &str = "\"$SINGLETRACK\" protect -- sh -c 'echo ready; read line; echo over'; exec sleep 600";

#[tokio::test]
async fn ctrl_c_waits_for_the_end_of_a_protected_section_and_says_so() {
    let server = TestServer::start("");
    let mut seated = Seated::start(&server, &[], PROTECTED);
    seated.sees("ready\r\n");
    protected(&server).await;
    seated.types(b"\x03");
    seated.sees("stopping once the protected section is over (Ctrl-C again to interrupt it)\r\n");
    seated.types(b"\r");
    seated.sees("over\r\n");
    assert_eq!(seated.end(), 130);
    assert_eq!(server.deployments().await[0]["status"], "CANCELLED");
}

#[tokio::test]
async fn a_second_ctrl_c_interrupts_even_a_protected_section() {
    let server = TestServer::start("");
    let mut seated = Seated::start(&server, &["--grace", "10m"], PROTECTED);
    seated.sees("ready\r\n");
    protected(&server).await;
    seated.types(b"\x03");
    seated.sees("stopping once");
    seated.types(b"\x03");
    seated.sees("^C");
    assert_eq!(seated.end(), 130);
    assert_eq!(server.deployments().await[0]["status"], "CANCELLED");
}

#[tokio::test]
async fn the_terminal_comes_back_when_the_run_is_killed() {
    let server = TestServer::start("");
    let mut seated = Seated::start(&server, &[], "echo ready $$; exec sleep 600");
    seated.sees("ready ");
    let pid = seated.sees("\r\n");
    let raw = tcgetattr(&seated.terminal).unwrap();
    assert_ne!(format!("{raw:?}"), format!("{:?}", seated.before), "it is not raw, so nothing can come back");
    let shim = parent(super::process(&pid));
    rustix::process::kill_process(rustix::process::Pid::from_child(&seated.child), Signal::KILL).unwrap();
    assert!(processes::gone(shim));
    assert_eq!(seated.end(), -1);
}

fn parent(pid: Pid) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    super::process(stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap())
}

#[tokio::test]
async fn whoever_asks_at_the_terminal_is_answered_though_the_output_goes_into_a_pipe() {
    let server = TestServer::start("");
    let script = "printf 'password: ' >/dev/tty; read -r answer </dev/tty; echo \"got $answer\"; exit 3";
    let mut seated = Seated::in_a_pipe(&server, "set -o pipefail; {} | tee copy", script);
    seated.sees("password: ");
    seated.types(b"open sesame\r");
    seated.sees("got open sesame");
    assert_eq!(seated.end(), 3);
    logged(&server, "got open sesame").await;
}

#[tokio::test]
async fn whoever_asks_at_the_terminal_is_answered_though_the_input_comes_from_a_pipe() {
    let server = TestServer::start("");
    let script = "cat; printf 'password: ' >/dev/tty; read -r answer </dev/tty; echo \"got $answer\"; exit 3";
    let mut seated = Seated::in_a_pipe(&server, "echo from the pipe | {}", script);
    seated.sees("from the pipe");
    seated.sees("password: ");
    seated.types(b"open sesame\r");
    seated.sees("got open sesame");
    assert_eq!(seated.end(), 3);
}

#[tokio::test]
async fn what_is_typed_is_the_shells_while_a_run_is_in_its_background() {
    let server = TestServer::start("");
    let shell = "{} & read -r line; echo \"the shell got $line\"; wait %1; exit $?";
    let mut seated = Seated::in_a_pipe(&server, shell, "cat; echo the end of input; exit 5");
    seated.sees("the end of input");
    seated.types(b"a line\r");
    seated.sees("the shell got a line");
    assert_eq!(seated.end(), 5);
}
