//! `singletrack run`, the real binary, against a real server.

mod answers;
mod command;
mod ends;
mod inside;
mod kernel;
mod races;
mod stuck;
mod terminal;
mod terraform;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal};

use crate::harness::{SINGLETRACK, TestServer, processes};

/// A server that gives a slot free soon after its lease.
const QUICK: &str = "[limits]\nlock_delay = \"1s\"\n";

/// Holds the witness for as long as this shell, or anything that it started, lives; tells when another one has it.
const WITNESS: &str = r#"exec 9>>"$TEST_DIR/witness.lock"
flock --nonblock 9 || echo overlap >>"$TEST_DIR/overlaps"
"#;

/// `singletrack run --project web FLAGS -- sh -c SCRIPT`. A script has the binary as `$SINGLETRACK`.
fn run(server: &TestServer, flags: &[&str], script: &str) -> Command {
    command(server, flags, &["sh", "-c", script])
}

fn command(server: &TestServer, flags: &[&str], command: &[&str]) -> Command {
    let mut run = of_url(&server.base, flags, command);
    run.env("TEST_DIR", server.dir());
    run
}

/// The same of any server.
fn of_url(url: &str, flags: &[&str], command: &[&str]) -> Command {
    let mut run = Command::new(SINGLETRACK);
    run.arg("run").args(flags).arg("--").args(command);
    run.env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("SINGLETRACK", SINGLETRACK)
        .env("SINGLETRACK_URL", url)
        .env("SINGLETRACK_PROJECT", "web")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    run
}

/// Runs it to its end.
fn ended(mut command: Command) -> Output {
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A run under way, whose command reads what the test writes.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(server: &TestServer, flags: &[&str], script: &str) -> Self {
        Self::from(run(server, flags, script))
    }

    fn from(mut command: Command) -> Self {
        command.stderr(Stdio::inherit());
        Self::spawn(command)
    }

    /// The same with the command's own standard error.
    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Running { child, stdin, stdout }
    }

    /// The next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for this line.
    fn says(&mut self, wanted: &str) {
        assert_eq!(self.line(), wanted);
    }

    /// Lets its command's `read` go on.
    fn go_on(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        processes::signal(&self.child, signal);
    }

    /// The code with which it ends, and what it still prints.
    fn end(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), rest)
    }
}

/// The process with this pid.
fn process(pid: &str) -> Pid {
    Pid::from_raw(pid.parse().unwrap()).unwrap()
}

/// Whether two commands of one project ever overlapped.
fn overlapped(server: &TestServer) -> bool {
    server.path("overlaps").exists()
}
