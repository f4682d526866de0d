//! Agents: the claims route, and the real binary on a machine of its own (a folder of its own, here).

mod apart;
mod claims;
mod ends;
mod replicas;
mod runs;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal},
};
use tempfile::TempDir;

use crate::harness::{SINGLETRACK, TestServer, processes};

/// A server's configuration whose projects are run by agents.
pub fn by_agents(more: &str) -> String {
    format!(
        r#"
{more}
[projects.web]
run_by = "agents"
[projects.api]
run_by = "agents"
[projects.strict]
run_by = "agents"
without_agent = "refuse"
[projects.impatient]
run_by = "agents"
unclaimed_timeout = "1s"
[projects.here.pipelines.deploy]
timeout = "5m"
[[projects.here.pipelines.deploy.phases]]
name = "only"
run = "echo here"
"#
    )
}

/// Limits so short that what is lost is soon known to be.
pub const SHORT: &str = r#"
[limits]
lease = "3s"
kill_budget = "1s"
lock_delay = "1s"
cancel_grace = "2s"
"#;

/// An agent's configuration: `web` and `api` with a pipeline that waits at a gate, and others.
fn pipelines() -> String {
    let project = |name: &str| {
        format!(
            r#"
[[projects.{name}.pipelines.deploy.phases]]
name = "gate"
run = '''
echo $$ > "$AGENT_DIR/{name}.pid"
echo "at the gate, with $INPUT_COLOR"
echo "under $SINGLETRACK_FENCING_TOKEN for $SINGLETRACK_PROJECT"
flock --shared "$AGENT_DIR/gate" true
echo "::singletrack output url=https://{name}.example::"
'''
[[projects.{name}.pipelines.quick.phases]]
name = "first"
run = "echo one; echo two >&2"
[[projects.{name}.pipelines.show.phases]]
name = "show"
run = "cat site/index.html"
[[projects.{name}.pipelines.broken.phases]]
name = "only"
run = "exit 3"
"#
        )
    };
    format!("{}{}", project("web"), project("api"))
}

/// A running `singletrack agent`.
pub struct TestAgent {
    dir: TempDir,
    server: String,
    child: Option<Child>,
    gate: Option<File>,
    pub args: Vec<&'static str>,
}

impl TestAgent {
    /// An agent of this server, connected, whose gate is closed.
    pub fn start(server: &TestServer) -> Self {
        Self::start_with(server, "", &[])
    }

    pub fn start_with(server: &TestServer, more: &str, args: &[&'static str]) -> Self {
        let mut agent = Self::prepare(server, more, args);
        agent.boot();
        agent
    }

    /// One that is not started.
    pub fn start_unready(server: &TestServer) -> Self {
        Self::prepare(server, "", &[])
    }

    fn prepare(server: &TestServer, more: &str, args: &[&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.toml"), format!("pass_env = [\"AGENT_DIR\"]\n{more}\n{}", pipelines()))
            .unwrap();
        let mut agent = TestAgent { dir, server: server.base.clone(), child: None, gate: None, args: args.to_vec() };
        let gate = File::create(agent.path("gate")).unwrap();
        flock(&gate, FlockOperation::LockExclusive).unwrap();
        agent.gate = Some(gate);
        agent
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(SINGLETRACK);
        command
            .args(["agent", "--name", "builder-1", "--work-dir", "work", "--server", &self.server])
            .args(&self.args)
            .current_dir(self.dir.path())
            .env("AGENT_DIR", self.dir.path())
            .env_remove("SINGLETRACK_TOKEN")
            .env_remove("SINGLETRACK_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Starts it, again if need be, in the same folder.
    pub fn boot(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.path("agent.log")).unwrap();
        self.boot_logging_to(log.into());
    }

    /// The same with something else than `agent.log` as its standard error.
    pub fn boot_logging_to(&mut self, stderr: Stdio) {
        let mut child = self.command().stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with("agent builder-1 takes work from "), "{line:?}\n{}", self.log());
        thread::spawn(move || _ = stdout.read_to_end(&mut Vec::new()));
        self.child = Some(child);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    pub fn open_gate(&mut self) {
        self.gate = None;
    }

    /// What is left in its journals.
    pub fn journals(&self) -> usize {
        fs::read_dir(self.path("work/journals")).unwrap().count()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        processes::signal(self.child.as_ref().expect("it runs"), signal);
    }

    /// Its end, which it comes to by itself.
    pub fn exited(&mut self) -> ExitStatus {
        self.child.take().expect("it runs").wait().unwrap()
    }

    /// The process that waits at a project's gate.
    pub fn at_the_gate(&self, project: &str) -> Pid {
        let text = fs::read_to_string(self.path(&format!("{project}.pid"))).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    fn nothing_left(&self) -> bool {
        processes::all_gone(&format!("AGENT_DIR={}", self.dir.path().display()))
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = self.log();
        if thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the agent's log:\n{log}");
            return;
        }
        assert!(!log.contains("panicked"), "the agent panicked:\n{log}");
        assert!(self.nothing_left(), "processes outlived their agent:\n{log}");
    }
}
