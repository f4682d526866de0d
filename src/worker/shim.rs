//! The small process between the worker and a phase's command, which keeps the promise that no command outlives its
//! lease (I12), whatever becomes of the worker.
//!
//! It is this same program under the hidden argument `__shim`, with a socket to the worker as its standard input; or a
//! fork of the worker, see `fork`. It starts the command in a process group of its own, adopts whatever the command
//! leaves behind (it is their subreaper), and listens on the socket:
//!
//! | from the worker | |
//! |---|---|
//! | `deadline MS` | before `start`: as below, and past it nothing is started |
//! | `env NAME=VALUE` | before `start`: one more variable for the command |
//! | `will TEXT` | before `start`: what is to be told should the worker be gone by the time that everything has ended |
//! | `start` | start the command; without it nothing is ever started |
//! | `term MS` | SIGTERM to everything now, SIGKILL at that instant of the boot clock, in milliseconds |
//! | `kill` | SIGKILL to everything now |
//! | `deadline MS` | unless renewed: SIGTERM one kill budget before that instant, SIGKILL at it |
//! | `done` | it knows that everything has ended |
//! | end of file | the worker is gone: SIGTERM now, SIGKILL after the kill budget |
//!
//! It answers `ready` when it holds its lock file, `started PID` or `failed WHY`, and at last `ended …` when not one
//! descendant is left. Whoever can lock that file knows the same: see `leftovers::leftovers_gone`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::signal::unix::SignalKind;

use super::cgroup::Cgroup;
use super::descendants::{Descendant, descendants_of};
use super::gate::Gate;
use super::process::{ExitKind, StoppedBy};
use crate::clock::{BootInstant, Clock, SystemClock};

/// The hidden first argument under which this program is the shim.
pub const ARGUMENT: &str = "__shim";

/// How long what a command left running in the background may take to stop after SIGTERM.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);

/// How long killed processes may take to vanish. Longer means stuck in the kernel or another user's, and waiting on
/// would hold the slot for ever; the count is told instead.
pub(super) const VANISH_LIMIT: Duration = Duration::from_secs(10);

/// How often the process table is read again while leftovers end: one that forks just then can be missed once.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How many processes are watched at once while they end; any of them wakes us to look again, so more would add
/// nothing but open files.
const WATCH_LIMIT: usize = 128;

/// Runs the shim if the program was started as one, and answers its exit code.
pub fn entry(args: impl IntoIterator<Item = OsString>) -> Option<i32> {
    let mut args = args.into_iter().skip(1);
    if args.next()? != ARGUMENT {
        return None;
    }
    let code = match main(args.collect()) {
        Ok(code) => code,
        // Nobody would read standard error here but the phase's log, which is a good place.
        Err(error) => {
            let _ = writeln!(io::stderr(), "singletrack: the shim failed: {error}");
            125
        }
    };
    Some(code)
}

fn main(args: Vec<OsString>) -> io::Result<i32> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "expected LOCK KILL-BUDGET-MS PROGRAM [ARGUMENT]…");
    let [lock, kill_budget, command @ ..] = args.as_slice() else { return Err(usage()) };
    let kill_budget_ms = kill_budget.to_str().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    let done = serve(Duty {
        control: UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?),
        // The socket is ours, so the command gets nothing.
        command_stdin: Stdio::null(),
        command,
        hidden: &[],
        lock: lock.as_ref(),
        folder: None,
        kill_budget: Duration::from_millis(kill_budget_ms),
        terminal: None,
    })?;
    Ok(done.code)
}

/// What a shim is there for.
pub(super) struct Duty<'a> {
    /// The socket to the worker.
    pub(super) control: UnixStream,
    /// The command's standard input; it has our standard output and standard error.
    pub(super) command_stdin: Stdio,
    /// The program and its arguments.
    pub(super) command: &'a [OsString],
    /// Variables of ours that the command must not see.
    pub(super) hidden: &'a [&'a str],
    /// The file that is kept locked until nothing of the command is left.
    pub(super) lock: &'a Path,
    /// The folder that goes with us.
    pub(super) folder: Option<&'a Path>,
    /// How long everything may take to stop when the worker is gone, or before its deadline.
    pub(super) kill_budget: Duration,
    /// Where standard input is a terminal of the command's own: the one at which somebody sits.
    pub(super) terminal: Option<OwnedFd>,
}

/// How a shim's duty ended.
pub(super) struct Done {
    /// The exit code.
    pub(super) code: i32,
    /// What the worker wanted told, if it is gone. Nothing of the command is left.
    pub(super) will: Option<String>,
}

impl Done {
    fn with(code: i32) -> Self {
        Done { code, will: None }
    }
}

/// Does it to the end.
pub(super) fn serve(duty: Duty<'_>) -> io::Result<Done> {
    let Duty { control, command_stdin, command, hidden, lock, folder, kill_budget, terminal } = duty;
    let mut control = Control { stream: control, buffer: Vec::new(), open: true };
    let real_terminal = terminal.map(RealTerminal::new).transpose()?;

    // A terminal's Ctrl-C, and a service manager that signals all of a server's processes, must not end the one
    // process that can still clean up. Handlers, unlike ignored signals, are not inherited by the command.
    let _ = rustix::process::setsid();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::child()];
    let _handlers = kinds.map(tokio::signal::unix::signal);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    let _lock_held_to_the_end = lock_exclusively(lock)?;
    // Dropped before the lock: once that is free, the folder is gone.
    let _removed_at_the_end = folder.map(Folder);
    let cgroup = Cgroup::make();
    let mut command = as_command(command, real_terminal.is_some())?;
    command.stdin(command_stdin);
    for name in hidden {
        command.env_remove(name);
    }
    let gate = Gate::prepare(command, cgroup.as_ref());
    control.say("ready");
    let Ok(Orders { variables, deadline, will }) = control.wait_for_start() else { return Ok(Done::with(0)) };
    if deadline.is_some_and(|deadline| before(deadline, kill_budget) <= SystemClock.boot()) {
        // The worker was stopped meanwhile, and the slot may be another's.
        control.say("failed its lease was over before it was started");
        return Ok(Done::with(127));
    }
    match gate.and_then(|gate| gate.open(&variables)) {
        Ok(child) => {
            control.say(&format!("started {}", child.as_raw_nonzero()));
            let_go_of_output();
            Shim { real_terminal, cgroup, deadline, will, ..Shim::new(control, child, kill_budget) }.run()
        }
        Err(error) => {
            control.say(&format!("failed {}", error.to_string().replace('\n', " ")));
            Ok(Done::with(127))
        }
    }
}

/// Leaves the command's output to the command: whoever reads it sees its end when the last writer ends, and need not
/// wait for us to be gone as well.
fn let_go_of_output() {
    let nowhere = File::options().write(true).open("/dev/null");
    if let Ok(nowhere) = nowhere {
        let _ = rustix::stdio::dup2_stdout(&nowhere);
        let _ = rustix::stdio::dup2_stderr(&nowhere);
    }
}

/// A folder of files that goes with us.
struct Folder<'a>(&'a Path);

impl Drop for Folder<'_> {
    fn drop(&mut self) {
        // The run removes it as well, if it is still there; whoever comes second finds nothing.
        for entry in std::fs::read_dir(self.0).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let _ = std::fs::remove_dir(self.0);
    }
}

/// The terminal at which somebody sits, as it was before the worker made it pass on every key.
struct RealTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RealTerminal {
    fn new(terminal: OwnedFd) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        Ok(RealTerminal { terminal, before })
    }

    /// Gives it back as it was, if it is still as the worker set it: a shell may have taken it over. We have left its
    /// session, so that nothing stops us for it.
    fn set_right(self) {
        let mut raw = self.before.clone();
        raw.make_raw();
        let modes = |of: &Termios| (of.input_modes, of.output_modes, of.control_modes, of.local_modes);
        if tcgetattr(&self.terminal).is_ok_and(|now| modes(&now) == modes(&raw)) {
            let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
        }
    }
}

/// Opens and locks the file, waiting for whoever holds it. Children do not inherit it: it tells of the shim alone.
pub(super) fn lock_exclusively(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            result => return result.map(|()| file).map_err(io::Error::from),
        }
    }
}

fn as_command(command: &[OsString], owns_terminal: bool) -> io::Result<Command> {
    let nothing = || io::Error::new(io::ErrorKind::InvalidInput, "there is no command");
    let (program, arguments) = command.split_first().ok_or_else(nothing)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if !owns_terminal {
        command.process_group(0);
        return Ok(command);
    }
    #[expect(unsafe_code, reason = "the closure makes two system calls and allocates nothing, as pre_exec demands")]
    // SAFETY: setsid(2) and ioctl(2) are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // A session's leader leads a process group as well, which is the terminal's foreground one.
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
    Ok(command)
}

/// What the worker says before the command starts.
#[derive(Default)]
struct Orders {
    variables: Vec<(String, String)>,
    deadline: Option<BootInstant>,
    will: Option<String>,
}

/// The socket to the worker.
struct Control {
    stream: UnixStream,
    buffer: Vec<u8>,
    open: bool,
}

impl Control {
    /// Tells the worker; if it is gone, the end of file says so soon enough.
    fn say(&mut self, line: &str) {
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
    }

    /// Blocks until the worker says `start`; answers what it said before. The lock is held by
    /// then: so a restarted server, which finds it free, can be sure that nothing will be started late.
    fn wait_for_start(&mut self) -> io::Result<Orders> {
        let mut orders = Orders::default();
        loop {
            let order = self.wait_for_line()?;
            match order.split_once(' ').unwrap_or((&order, "")) {
                ("start", "") => break,
                ("env", assignment) => {
                    let assignment = assignment.split_once('=');
                    orders.variables.extend(assignment.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
                ("deadline", at) => {
                    orders.deadline = at.parse().map(Duration::from_millis).map(BootInstant::from_start).ok();
                }
                ("will", text) => orders.will = Some(text.to_owned()),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        self.stream.set_nonblocking(true)?;
        Ok(orders)
    }

    /// Blocks until the worker knows that the command has ended, or is gone. Whether it knows.
    fn is_told_done(&mut self) -> bool {
        if self.stream.set_nonblocking(false).is_err() {
            return false;
        }
        loop {
            match self.wait_for_line() {
                Ok(line) if line == "done" => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// The next line, as soon as it is there to its end. What came behind it stays for the next call, or for `take`.
    fn wait_for_line(&mut self) -> io::Result<String> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(line) = self.next_line() {
                return Ok(line);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the commands that have arrived, without waiting.
    fn take(&mut self) -> Vec<String> {
        let mut chunk = [0; 512];
        while self.open {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.open = false,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
        }
        std::iter::from_fn(|| self.next_line()).collect()
    }

    /// The next line of what has arrived.
    fn next_line(&mut self) -> Option<String> {
        let newline = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.buffer.drain(..=newline).take(newline).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

/// Why and until when everything is being ended.
struct Ending {
    by: StoppedBy,
    kill_at: BootInstant,
}

struct Shim {
    control: Control,
    child: Pid,
    child_status: Option<WaitStatus>,
    kill_budget: Duration,
    /// Removed at the very end, when nobody waits any more.
    cgroup: Option<Cgroup>,
    real_terminal: Option<RealTerminal>,
    deadline: Option<BootInstant>,
    will: Option<String>,
    ending: Option<Ending>,
    /// Who has had its SIGTERM: a second one makes many programs give up their orderly end.
    terminated: HashSet<Descendant>,
}

impl Shim {
    fn new(control: Control, child: Pid, kill_budget: Duration) -> Self {
        Shim {
            control,
            child,
            child_status: None,
            kill_budget,
            cgroup: None,
            real_terminal: None,
            deadline: None,
            will: None,
            ending: None,
            terminated: HashSet::new(),
        }
    }

    fn run(mut self) -> io::Result<Done> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        let mut left_count = 0;
        while self.reap() {
            self.obey();
            let now = SystemClock.boot();
            self.decide(now);
            let Some(kill_at) = self.ending.as_ref().map(|ending| ending.kill_at) else {
                let wake_at = self.deadline.map(|deadline| before(deadline, self.kill_budget));
                self.wait(&timer, wake_at, &[self.child])?;
                continue;
            };
            let running = descendants_of(rustix::process::getpid());
            if now >= kill_at {
                self.kill(&running);
                if now >= kill_at.after(VANISH_LIMIT) {
                    left_count = running.len().max(1);
                    break;
                }
            } else if self.child_status.is_some() {
                self.terminate_the_rest(&running);
            }
            let look_again = now >= kill_at || self.child_status.is_some();
            let wake_at = if look_again { now.after(LOOK_AGAIN) } else { kill_at };
            let watched: Vec<Pid> = running.iter().take(WATCH_LIMIT).map(|descendant| descendant.pid).collect();
            self.wait(&timer, Some(wake_at), &watched)?;
        }
        let by = match self.ending {
            Some(Ending { by, .. }) => by,
            None => StoppedBy::Nobody,
        };
        let kind = self.child_status.map_or(ExitKind::Unknown, ExitKind::of);
        self.control.say(&format!("ended {} {} {left_count}", kind.to_word(), by.to_word()));
        // A command may end sooner than its killed worker is seen to be gone, which would have told of the end and set the
        // terminal right.
        let is_awaited = self.real_terminal.is_some() || self.will.is_some();
        let is_bereaved = is_awaited && !self.control.is_told_done();
        if let Some(terminal) = self.real_terminal.filter(|_| is_bereaved) {
            terminal.set_right();
        }
        let will = self.will.filter(|_| is_bereaved && left_count == 0);
        Ok(Done { code: kind.shell_code(), will })
    }

    /// Collects who has ended; whether anyone is left. As the subreaper we are the parent of every orphan, so "no
    /// child" means "no descendant".
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.child => self.child_status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Does what the worker said since the last look.
    fn obey(&mut self) {
        for line in self.control.take() {
            let (word, argument) = line.split_once(' ').unwrap_or((&line, ""));
            let at = argument.parse().map(|ms| BootInstant::from_start(Duration::from_millis(ms)));
            match (word, at) {
                ("term", Ok(kill_at)) => self.end(StoppedBy::Worker, kill_at),
                ("kill", _) => self.end(StoppedBy::Worker, SystemClock.boot()),
                ("deadline", Ok(deadline)) => self.deadline = Some(deadline),
                _ => {}
            }
        }
    }

    /// Begins the end when nobody is there to say so.
    fn decide(&mut self, now: BootInstant) {
        if !self.control.open {
            if let Some(terminal) = self.real_terminal.take() {
                terminal.set_right();
            }
            self.end(StoppedBy::WorkerGone, now.after(self.kill_budget));
        }
        if let Some(deadline) = self.deadline.filter(|deadline| before(*deadline, self.kill_budget) <= now) {
            self.end(StoppedBy::Deadline, deadline);
        }
        if self.child_status.is_some() && self.ending.is_none() {
            // The command itself is done, so nobody stopped it; what it left behind goes.
            self.ending = Some(Ending { by: StoppedBy::Nobody, kill_at: now.after(LEFTOVER_GRACE) });
        }
    }

    /// Sends SIGTERM to all, the first time; later calls can only bring the SIGKILL forward.
    fn end(&mut self, by: StoppedBy, kill_at: BootInstant) {
        if let Some(ending) = &mut self.ending {
            ending.kill_at = ending.kill_at.min(kill_at);
            return;
        }
        self.ending = Some(Ending { by, kill_at });
        // With nobody to hear it, or no time to act on it, a SIGTERM is left out.
        if self.child_status.is_some() || kill_at <= SystemClock.boot() {
            return;
        }
        let running = descendants_of(rustix::process::getpid());
        let in_group = |descendant: &&Descendant| descendant.group == self.child.as_raw_nonzero().get();
        for descendant in running.iter().filter(|descendant| !in_group(descendant)) {
            send_term(descendant.pid);
        }
        // One signal for the whole group: nobody forks out from under it. A stopped process hears it only when it
        // goes on.
        let _ = rustix::process::kill_process_group(self.child, Signal::TERM);
        let _ = rustix::process::kill_process_group(self.child, Signal::CONT);
        self.terminated.extend(running);
    }

    /// Once the command is gone, whatever it left behind and has not been told yet gets its SIGTERM. Not earlier:
    /// a command that cleans up on SIGTERM starts new processes for it.
    fn terminate_the_rest(&mut self, running: &[Descendant]) {
        for descendant in running {
            if self.terminated.insert(*descendant) {
                send_term(descendant.pid);
            }
        }
    }

    fn kill(&self, running: &[Descendant]) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        // After the child was reaped its number may become another group's.
        if self.child_status.is_none() {
            let _ = rustix::process::kill_process_group(self.child, Signal::KILL);
        }
        for descendant in running {
            let _ = rustix::process::kill_process(descendant.pid, Signal::KILL);
        }
    }

    /// Waits for the worker, for one of the processes to end, for a signal or for the instant.
    fn wait(&self, timer: &OwnedFd, wake_at: Option<BootInstant>, watched: &[Pid]) -> io::Result<()> {
        let mut value = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Some(at) = wake_at {
            // All zero would disarm the timer.
            let since_start = at.since(BootInstant::from_start(Duration::ZERO)).max(Duration::from_nanos(1));
            value = Timespec::try_from(since_start).map_err(|_| io::Error::from(Errno::INVAL))?;
        }
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        let mut pidfds = Vec::with_capacity(watched.len());
        for pid in watched {
            match rustix::process::pidfd_open(*pid, PidfdFlags::empty()) {
                Ok(pidfd) => pidfds.push(pidfd),
                // Gone already: there is something to reap or to look at again.
                Err(Errno::SRCH) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let mut fds: Vec<PollFd<'_>> = pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
        fds.push(PollFd::new(timer, PollFlags::IN));
        if self.control.open {
            fds.push(PollFd::new(&self.control.stream, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn send_term(pid: Pid) {
    let _ = rustix::process::kill_process(pid, Signal::TERM);
    let _ = rustix::process::kill_process(pid, Signal::CONT);
}

/// The instant `by` earlier.
fn before(at: BootInstant, by: Duration) -> BootInstant {
    BootInstant::from_start(at.since(BootInstant::from_start(by)))
}
