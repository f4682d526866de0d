//! A command and everything that it starts, from the worker's side: started, told to stop, and waited for through the
//! shim.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    contract::{ARGUMENT, ExitKind, StoppedBy},
    inherited::open_files_before,
    leftovers::{MARK_VARIABLE, end_below, end_marked, mark},
};
use crate::clock::{BootInstant, Clock, SystemClock};

/// How long after the kill deadline the shim may take to report that everything was killed. After that it counts as
/// stopped or stuck, and the worker does its work. This is early enough to be over long before the server gives the
/// slot to another deployment.
const HEED_LIMIT: Duration = Duration::from_millis(500);

/// How long a shim that was only slow may take for its last report, once no process is left.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// The program that is started as the shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimProgram(pub PathBuf);

impl Default for ShimProgram {
    /// This very program, even if its file has been replaced by another version since its start.
    fn default() -> Self {
        ShimProgram(PathBuf::from("/proc/self/exe"))
    }
}

/// A script to be run.
#[derive(Debug)]
pub struct Script<'a> {
    /// The script's text, for `sh -ec`.
    pub text: &'a str,
    /// The working directory.
    pub directory: &'a Path,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The file that the shim keeps locked until no process of the script is left.
    pub lock: &'a Path,
    /// How long everything may take to stop when the worker is gone, or before its deadline.
    pub kill_budget: Duration,
    /// When the lease ends unless renewed, if there is a lease. The shim gets it before the command starts, because the
    /// worker may be stopped (SIGSTOP) at any moment after that.
    pub deadline: Option<BootInstant>,
}

/// How a command ended. No process of it runs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandExit {
    /// How the command itself ended.
    pub kind: ExitKind,
    /// The cause of its end.
    pub stopped_by: StoppedBy,
    /// How many processes could not be killed: stuck in the kernel, or another user's. Zero otherwise.
    pub left_count: u32,
}

impl From<std::process::ExitStatus> for ExitKind {
    fn from(status: std::process::ExitStatus) -> Self {
        status.code().map(ExitKind::Code).or(status.signal().map(ExitKind::Signal)).unwrap_or(ExitKind::Unknown)
    }
}

/// A shim that waits for the order to start its command. Dropping it starts nothing.
#[derive(Debug)]
pub struct Prepared {
    shim: ShimProcess,
    control: std::os::unix::net::UnixStream,
}

impl Prepared {
    pub(super) fn new(shim: ShimProcess, control: std::os::unix::net::UnixStream) -> Self {
        Prepared { shim, control }
    }

    /// Starts nothing, and waits until the shim is gone.
    pub async fn abandon(mut self) {
        drop(self.control);
        self.shim.gone().await;
    }

    /// Starts the command, with these variables besides the shim's own. No value may contain a newline. Unless renewed,
    /// everything ends by the deadline; after it, nothing is started. `will` is a line of at most some KiB. If this
    /// process is gone when everything has ended, the shim has the will sent.
    ///
    /// # Errors
    /// The command, or the shim, could not be started.
    pub async fn start(
        self,
        variables: &[(&str, &str)],
        deadline: Option<BootInstant>,
        will: Option<&str>,
    ) -> io::Result<Process> {
        let line = |(name, value): &(&str, &str)| format!("env {name}={}\n", value.replace(['\n', '\0'], " "));
        let variables_said: String = variables.iter().map(line).collect();
        let deadline = deadline.map(|at| format!("deadline {}\n", in_milliseconds(at)));
        // All lines in one write, because each write would wake the shim; and before the shim reports that it is ready,
        // so that it finds them then. An empty socket has room for these few bytes. If the shim is gone, its answer is
        // missing.
        let will = will.map(|text| format!("will {text}\n"));
        let open_files = open_files_before().map(|count| format!("open-files {count}\n"));
        let orders = [Some(variables_said), deadline, will, open_files, Some("start\n".to_owned())];
        let orders: String = orders.into_iter().flatten().collect();
        let _ = (&self.control).write_all(orders.as_bytes());
        self.control.set_nonblocking(true)?;
        let control = UnixStream::from_std(self.control)?;
        let (shim, buffer) = (self.shim, Vec::new());
        let stuck = watch::Sender::new(None);
        let mut process =
            Process { shim, control, buffer, command: None, mark: None, overdue_at: None, left: None, stuck };
        if let Some((_, id)) = variables.iter().find(|(name, _)| *name == MARK_VARIABLE) {
            process.mark = Some(mark(id));
        }
        while let Some(line) = process.next_line().await? {
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("started", pid) => {
                    process.command = pid.parse().ok().and_then(Pid::from_raw);
                    return Ok(process);
                }
                ("failed", why) => {
                    let why = io::Error::other(why.to_owned());
                    process.collect().await;
                    return Err(why);
                }
                _ => {}
            }
        }
        Err(io::Error::other("the shim ended before the command was started"))
    }
}

/// The shim's process.
#[derive(Debug)]
pub(super) enum ShimProcess {
    /// Started as a program.
    Program(Child),
    /// A fork of this process, until it was waited for. A process that forks its shim ends soon after it, so nobody
    /// else has to reap it.
    Fork(Option<Pid>),
}

impl ShimProcess {
    /// Its pid, unless it was waited for.
    fn pid(&self) -> Option<Pid> {
        match self {
            ShimProcess::Program(child) => child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)),
            ShimProcess::Fork(pid) => *pid,
        }
    }

    /// Kills it, and waits until it is gone.
    async fn end(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        self.gone().await;
    }

    pub(super) async fn gone(&mut self) {
        match self {
            ShimProcess::Program(child) => {
                let _ = child.wait().await;
            }
            ShimProcess::Fork(pid) => {
                // Subscribe before the first look, so that no signal is missed.
                let Ok(mut ends) = signal(SignalKind::child()) else { return };
                while let Some(shim) = *pid {
                    match rustix::process::waitpid(Some(shim), WaitOptions::NOHANG) {
                        Ok(None) => _ = ends.recv().await,
                        Ok(Some(_)) | Err(_) => *pid = None,
                    }
                }
            }
        }
    }
}

/// A running command. Dropping it ends the command: the shim sees its socket close.
#[derive(Debug)]
pub struct Process {
    shim: ShimProcess,
    control: UnixStream,
    buffer: Vec<u8>,
    command: Option<Pid>,
    /// The assignment that distinguishes its processes from all others, wherever they are.
    mark: Option<String>,
    /// When the shim should have reported that everything has ended.
    overdue_at: Option<Instant>,
    /// The processes that the command left running. They were ended after it.
    left: Option<String>,
    /// The processes that cannot be ended.
    stuck: watch::Sender<Option<String>>,
}

impl Process {
    /// Starts the script; returns it with its standard output and standard error.
    pub async fn start(program: &ShimProgram, script: Script<'_>) -> io::Result<(Process, ChildStdout, ChildStderr)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let id = script.environment.iter().find(|(name, _)| name == MARK_VARIABLE);
        let id = id.map(|(_, id)| id.to_string_lossy().into_owned());
        let mut shim = tokio::process::Command::new(&program.0)
            .arg(ARGUMENT)
            .arg(script.lock)
            .arg(script.kill_budget.as_millis().to_string())
            .args(["sh", "-ec", script.text])
            .current_dir(script.directory)
            .env_clear()
            .envs(script.environment)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (Some(stdout), Some(stderr)) = (shim.stdout.take(), shim.stderr.take()) else {
            return Err(io::Error::other("the command's output was not connected"));
        };
        let mut process = Prepared::new(ShimProcess::Program(shim), ours).start(&[], script.deadline, None).await?;
        process.mark = id.as_deref().map(mark);
        Ok((process, stdout, stderr))
    }

    /// The command itself, which leads its process group.
    pub fn pid(&self) -> Option<Pid> {
        self.command
    }

    /// The processes that the command left running when it ended by itself. They were ended after it.
    pub fn left(&self) -> Option<&str> {
        self.left.as_deref()
    }

    /// Deletes the will: the lease is over, so nothing must be sent if this process ends before the command.
    pub fn forget_will(&self) {
        self.say("forget");
    }

    /// The processes that cannot be ended, once they are known: other users' processes, such as those of `sudo`.
    pub fn stuck(&self) -> watch::Receiver<Option<String>> {
        self.stuck.subscribe()
    }

    /// Reaps a forked shim once its command has ended, because no other process will.
    pub async fn collect(mut self) {
        let _ = tokio::time::timeout(LAST_WORDS_LIMIT, self.shim.gone()).await;
    }

    /// Sends SIGTERM to everything now, and SIGKILL at the given instant to the processes that are left. A later call
    /// can only bring the SIGKILL forward.
    pub fn terminate(&mut self, kill_at: BootInstant) {
        self.end("term", kill_at);
    }

    /// The same, as Ctrl-C in a terminal does it: SIGINT to the command's process group, SIGTERM to all others.
    pub fn interrupt(&mut self, kill_at: BootInstant) {
        self.end("int", kill_at);
    }

    /// Passes a signal on to the command.
    pub fn signal(&self, signal: Signal) {
        self.say(&format!("signal {}", signal.as_raw()));
    }

    fn end(&mut self, word: &str, kill_at: BootInstant) {
        let overdue_at = Instant::now() + kill_at.since(SystemClock.boot()) + HEED_LIMIT;
        self.overdue_at = Some(self.overdue_at.map_or(overdue_at, |earlier| earlier.min(overdue_at)));
        self.say(&format!("{word} {}", in_milliseconds(kill_at)));
        self.wake_shim();
    }

    /// Sends SIGKILL to everything now.
    pub fn kill(&mut self) {
        self.terminate(SystemClock.boot());
        self.say("kill");
    }

    /// Moves the instant at which the shim ends everything by itself, because it then assumes that the worker is
    /// stopped.
    pub fn renew_deadline(&mut self, deadline: BootInstant) {
        self.say(&format!("deadline {}", in_milliseconds(deadline)));
    }

    /// Waits until no process of the command runs any more. May be dropped and called again.
    pub async fn wait(&mut self) -> CommandExit {
        // Processes that cannot be ended are waited for.
        let overdue_at = self.overdue_at.filter(|_| self.stuck.borrow().is_none());
        let overdue = async {
            match overdue_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = self.ended() => ended,
            () = overdue => self.end_in_its_stead().await,
        };
        let is_stuck = self.stuck.borrow().is_some();
        match ended {
            Some(exit) => exit,
            None if is_stuck && self.shim_lives() => match self.ended().await {
                Some(exit) => exit,
                None => self.wait_without_shim().await,
            },
            None => self.wait_without_shim().await,
        }
    }

    /// How the command ended, by the shim's report; `None` if the shim ends without a report.
    async fn ended(&mut self) -> Option<CommandExit> {
        while let Ok(Some(line)) = self.next_line().await {
            if let Some(left) = line.strip_prefix("left ") {
                self.left = Some(left.to_owned());
            } else if let Some(stuck) = line.strip_prefix("stuck ") {
                self.stuck.send_replace(Some(stuck.to_owned()));
            } else if let Some(end) = line.strip_prefix("ended ") {
                let mut words = end.split(' ');
                let kind = words.next().map_or(ExitKind::Unknown, ExitKind::from_word);
                let stopped_by = words.next().map_or(StoppedBy::Nobody, StoppedBy::from_word);
                let left_count = words.next().and_then(|count| count.parse().ok()).unwrap_or(0);
                self.say("done");
                return Some(CommandExit { kind, stopped_by, left_count });
            }
        }
        None
    }

    /// Called when the shim should have killed everything and has not reported it. The shim was stopped and is stopped
    /// again, or hangs. Its processes are all below it, so they are killed from here. If the shim was only slow, its
    /// report is used after all.
    async fn end_in_its_stead(&mut self) -> Option<CommandExit> {
        self.wake_shim();
        if let Some(shim) = self.shim.pid() {
            end_below(shim).await;
        }
        tokio::time::timeout(LAST_WORDS_LIMIT, self.ended()).await.ok().flatten()
    }

    /// Called when the shim is gone, or has to go: its remaining work is done from here. The kernel kills the shim's
    /// direct child together with the shim.
    async fn wait_without_shim(&mut self) -> CommandExit {
        if let Some(command) = self.command.take() {
            let _ = rustix::process::kill_process_group(command, Signal::KILL);
        }
        self.shim.end().await;
        let left_count = match &self.mark {
            Some(mark) => end_marked(mark).await,
            None => 0,
        };
        let left_count = u32::try_from(left_count).unwrap_or(u32::MAX);
        CommandExit { kind: ExitKind::Unknown, stopped_by: StoppedBy::Nobody, left_count }
    }

    fn shim_lives(&self) -> bool {
        self.shim.pid().is_some_and(|shim| rustix::process::test_kill_process(shim).is_ok())
    }

    /// Continues a stopped shim; a shim that is not stopped takes no notice.
    fn wake_shim(&self) {
        if let Some(shim) = self.shim.pid() {
            let _ = rustix::process::kill_process(shim, Signal::CONT);
        }
    }

    /// Writes an order. If the socket takes no more of these few bytes, the shim hangs, and `overdue_at` notices that.
    fn say(&self, line: &str) {
        let _ = self.control.try_write(format!("{line}\n").as_bytes());
    }

    async fn next_line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(newline) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=newline).take(newline).collect();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            self.control.readable().await?;
            match self.control.try_read_buf(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn in_milliseconds(at: BootInstant) -> u128 {
    at.since(BootInstant::from_start(Duration::ZERO)).as_millis()
}
