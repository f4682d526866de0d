//! The small process between the worker and a phase's command, which keeps the promise that no command outlives its
//! lease (I12), whatever happens to the worker. See decision 0006.
//!
//! It is this same program under the hidden argument `__shim`, with a socket to the worker as its standard input; or a
//! fork of the worker, see `fork`. It starts the command in a process group of its own, adopts the processes that the
//! command leaves behind (it is their subreaper), and listens on the socket:
//!
//! | from the worker | |
//! |---|---|
//! | `deadline MS` | before `start`: as below, and after it nothing is started |
//! | `open-files N` | before `start`: the command's soft limit of open files |
//! | `env NAME=VALUE` | before `start`: one more variable for the command |
//! | `will TEXT` | before `start`: the text to send if the worker is gone when everything has ended |
//! | `start` | start the command; without it nothing is ever started |
//! | `term MS` | SIGTERM as `terms` says, SIGKILL to all at that instant of the boot clock, in milliseconds |
//! | `int MS` | the same, with SIGINT for the command's process group |
//! | `signal N` | this signal to the command |
//! | `kill` | SIGKILL to everything now |
//! | `deadline MS` | unless renewed: as `term`, one kill budget before that instant, with SIGKILL at the instant |
//! | `forget` | drop the will: there is nothing to send any more |
//! | `done` | the worker knows that everything has ended |
//! | end of file | the worker is gone: as `term`, with SIGKILL after the kill budget |
//!
//! It answers `ready` when it holds its lock file, and `started PID` or `failed WHY`. It answers `left WHAT` when the
//! command has ended and left processes running, which are ended now, and `stuck WHAT` when a process cannot be ended. At
//! last it answers `ended …`: no descendant is left, or the worker is gone and the rest cannot be ended. A process that
//! can lock the lock file knows the same: see `leftovers::leftovers_gone`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
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

use super::{
    cgroup::Cgroup,
    contract::{ARGUMENT, ExitKind, LOOK_AGAIN, StoppedBy, VANISH_LIMIT, lock_exclusively},
    control::{Control, Orders},
    descendants::{Descendant, SHIM_NAME, descendants_of, list, reads_its_own_pipe, standard_input, stays},
    inherited::{favour_no_more, is_ignored, limit_open_files, start_afresh},
    start::start,
    terms::Terms,
};
use crate::clock::{BootInstant, Clock, SystemClock};

/// How long processes that a command left running in the background may take to stop after SIGTERM.
const LEFTOVER_GRACE: Duration = Duration::from_secs(2);

/// A shorter time than this is not cut in half, because reading the process table takes some time, too.
const SHORTEST_HALF: Duration = Duration::from_millis(20);

/// The same while some process cannot be ended.
const LOOK_AGAIN_STUCK: Duration = Duration::from_secs(1);

/// How many processes are watched at once while they end. The end of any one starts a new look, so watching more would
/// only cost open files.
const WATCH_LIMIT: usize = 128;

/// Runs the shim if the program was started as one, and returns its exit code.
pub fn entry(args: impl IntoIterator<Item = OsString>) -> Option<i32> {
    let mut args = args.into_iter().skip(1);
    if args.next()? != ARGUMENT {
        return None;
    }
    let code = match main(args.collect()) {
        Ok(code) => code,
        // Standard error is the phase's log here, which is a good place for this message.
        Err(error) => {
            let _ = writeln!(io::stderr(), "singletrack: the shim failed: {error}");
            125
        }
    };
    Some(code)
}

fn main(args: Vec<OsString>) -> io::Result<i32> {
    start_afresh();
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "expected LOCK KILL-BUDGET-MS PROGRAM [ARGUMENT]…");
    let [lock, kill_budget, command @ ..] = args.as_slice() else { return Err(usage()) };
    let kill_budget_ms = kill_budget.to_str().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    let done = serve(Duty {
        control: UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?),
        // Our standard input is the socket, so the command gets an empty one.
        command_stdin: Stdio::null(),
        command,
        lock: lock.as_ref(),
        folder: None,
        kill_budget: Duration::from_millis(kill_budget_ms),
        terminal: None,
    })?;
    Ok(done.code)
}

/// The signals that would end us and have a handler here.
const HANDLED: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The task of one shim.
pub(super) struct Duty<'a> {
    /// The socket to the worker.
    pub(super) control: UnixStream,
    /// The command's standard input; it has our standard output and standard error.
    pub(super) command_stdin: Stdio,
    pub(super) command: &'a [OsString],
    /// The file that is kept locked until nothing of the command is left.
    pub(super) lock: &'a Path,
    /// The folder that we remove at our end.
    pub(super) folder: Option<&'a Path>,
    /// How long everything may take to stop when the worker is gone, or before its deadline.
    pub(super) kill_budget: Duration,
    /// The terminal in front of the user, if standard input is a terminal of the command's own.
    pub(super) terminal: Option<OwnedFd>,
}

/// The result of a shim's task.
pub(super) struct Done {
    /// The exit code.
    pub(super) code: i32,
    /// The worker's will, if the worker is gone. No process of the command is left.
    pub(super) will: Option<String>,
}

impl Done {
    fn with(code: i32) -> Self {
        Done { code, will: None }
    }
}

/// Runs the task to its end.
pub(super) fn serve(duty: Duty<'_>) -> io::Result<Done> {
    let Duty { control, command_stdin, command, lock, folder, kill_budget, terminal } = duty;
    // A run's folder is removed with its shim; a phase has a workspace.
    let serves_phase = folder.is_none();
    let mut control = Control::new(control);
    let _ = rustix::thread::set_name(SHIM_NAME);
    let real_terminal = terminal.map(RealTerminal::new).transpose()?;

    // A terminal's Ctrl-C, or a service manager that signals all of a server's processes, must not end the one process
    // that can still clean up. Handlers are used because the command does not inherit them; it would inherit ignored
    // signals.
    let _ = rustix::process::setsid();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    let ignored: Vec<i32> = HANDLED.into_iter().filter(|signal| is_ignored(*signal)).collect();
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::child()];
    let _handlers = kinds.map(tokio::signal::unix::signal);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;

    let _lock_held_to_the_end = lock_exclusively(lock)?;
    // Dropped before the lock, so that the folder is gone when the lock is free.
    let _removed_at_the_end = folder.map(ShimFolder);
    let cgroup = Cgroup::make();
    let mut command = as_command(command, real_terminal.is_some(), ignored)?;
    command.stdin(command_stdin);
    control.say("ready");
    let Ok(Orders { variables, deadline, will, open_files }) = control.wait_for_start() else {
        return Ok(Done::with(0));
    };
    if deadline.is_some_and(|deadline| before(deadline, kill_budget) <= SystemClock.boot()) {
        // The worker was stopped meanwhile, and another deployment may have the slot.
        control.say("failed its lease was over before it was started");
        return Ok(Done::with(127));
    }
    if control.is_deserted() {
        // The worker was killed before we had the lock. So its successor found the lock free, and another deployment
        // may have the slot.
        return Ok(Done { code: 0, will });
    }
    let prepare = || {
        if serves_phase {
            favour_no_more();
        }
        if let Some(count) = open_files {
            limit_open_files(count);
        }
    };
    match start(command.envs(variables), cgroup.as_ref(), prepare) {
        Ok(child) => {
            control.say(&format!("started {}", child.as_raw_nonzero()));
            let_go_of_output();
            let stdin = standard_input(child);
            Shim { real_terminal, cgroup, deadline, will, stdin, ..Shim::new(control, child, kill_budget) }.run()
        }
        Err(error) => {
            control.say(&format!("failed {}", error.to_string().replace('\n', " ")));
            Ok(Done::with(127))
        }
    }
}

/// Closes our copy of the command's output. Its reader then sees the end of file when the last writer ends, and does
/// not have to wait for the shim.
fn let_go_of_output() {
    let nowhere = File::options().write(true).open("/dev/null");
    if let Ok(nowhere) = nowhere {
        let _ = rustix::stdio::dup2_stdout(&nowhere);
        let _ = rustix::stdio::dup2_stderr(&nowhere);
    }
}

/// A folder of files that is removed with us.
struct ShimFolder<'a>(&'a Path);

impl Drop for ShimFolder<'_> {
    fn drop(&mut self) {
        // The run also removes the folder, if it is still there. The second of the two finds nothing.
        for entry in std::fs::read_dir(self.0).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let _ = std::fs::remove_dir(self.0);
    }
}

/// The terminal in front of the user, with its settings from before the worker set it to pass on every key.
struct RealTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RealTerminal {
    fn new(terminal: OwnedFd) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        Ok(RealTerminal { terminal, before })
    }

    /// Restores the settings, unless they differ from the worker's: then a shell has taken the terminal over. We have
    /// left the terminal's session, so the kernel does not stop us for this.
    fn set_right(self) {
        let mut raw = self.before.clone();
        raw.make_raw();
        let modes = |of: &Termios| (of.input_modes, of.output_modes, of.control_modes, of.local_modes);
        if tcgetattr(&self.terminal).is_ok_and(|now| modes(&now) == modes(&raw)) {
            let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
        }
    }
}

fn as_command(command: &[OsString], owns_terminal: bool, ignored: Vec<i32>) -> io::Result<Command> {
    let nothing = || io::Error::new(io::ErrorKind::InvalidInput, "there is no command");
    let (program, arguments) = command.split_first().ok_or_else(nothing)?;
    let mut command = Command::new(program);
    command.args(arguments);
    #[expect(unsafe_code, reason = "the closure makes system calls only, as pre_exec demands")]
    // SAFETY: signal(2) is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // A signal that `nohup` or a script had ignored stays ignored. Our handlers are not inherited.
            ignored.iter().for_each(|signal| _ = libc::signal(*signal, libc::SIG_IGN));
            Ok(())
        });
    }
    if !owns_terminal {
        command.process_group(0);
        return Ok(command);
    }
    #[expect(unsafe_code, reason = "the closure makes system calls and allocates nothing, as pre_exec demands")]
    // SAFETY: setsid(2) and ioctl(2) are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // The leader of a session also leads a process group, and that is the terminal's foreground group.
            rustix::process::setsid()?;
            // Input or output may be redirected.
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
                .or_else(|_| rustix::process::ioctl_tiocsctty(rustix::stdio::stdout()))?;
            Ok(())
        });
    }
    Ok(command)
}

/// Why everything is being ended, and by when.
struct ShimEnding {
    by: StoppedBy,
    kill_at: BootInstant,
    /// When the next level of the process tree gets its signal, because half of the time is over.
    next_level_at: BootInstant,
    terms: Terms,
}

impl ShimEnding {
    fn bring_forward(&mut self, kill_at: BootInstant, now: BootInstant) {
        if kill_at < self.kill_at {
            self.kill_at = kill_at;
            self.next_level_at = self.next_level_at.min(half_way(now, kill_at));
        }
    }
}

/// Half of the time between two instants, or all of a short one.
fn half_way(from: BootInstant, to: BootInstant) -> BootInstant {
    let half = to.since(from) / 2;
    if half < SHORTEST_HALF { to } else { from.after(half) }
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
    ending: Option<ShimEnding>,
    /// The command's standard input, as `/proc` names it.
    stdin: OsString,
    told_stuck: bool,
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
            stdin: OsString::new(),
            told_stuck: false,
        }
    }

    fn run(mut self) -> io::Result<Done> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        let mut left_count = 0;
        while self.reap() {
            self.obey();
            let now = SystemClock.boot();
            self.decide(now);
            let has_ended = self.child_status.is_some();
            let Some(ending) = &mut self.ending else {
                let wake_at = self.deadline.map(|deadline| before(deadline, self.kill_budget));
                self.wait(&timer, wake_at, &[self.child])?;
                continue;
            };
            let running = descendants_of(rustix::process::getpid());
            let kill_at = ending.kill_at;
            if now < kill_at {
                let is_half_over = now >= ending.next_level_at;
                if is_half_over {
                    ending.next_level_at = half_way(now, kill_at);
                }
                ending.terms.go_on(&running, has_ended, is_half_over);
            }
            let next_level_at = ending.next_level_at;
            let mut look_again = LOOK_AGAIN;
            if now >= kill_at {
                self.kill(&running);
                if now >= kill_at.after(VANISH_LIMIT) {
                    if !self.control.open {
                        left_count = running.len().max(1);
                        break;
                    }
                    if !self.told_stuck {
                        self.control.say(&format!("stuck {}", list(&running)));
                        self.told_stuck = true;
                    }
                    look_again = LOOK_AGAIN_STUCK;
                }
            }
            let is_ending = now >= kill_at || has_ended;
            let wake_at = if is_ending { now.after(look_again) } else { next_level_at.min(kill_at) };
            let watched: Vec<Pid> = running.iter().take(WATCH_LIMIT).map(|descendant| descendant.pid).collect();
            self.wait(&timer, Some(wake_at), &watched)?;
        }
        let by = match self.ending {
            Some(ShimEnding { by, .. }) => by,
            None => StoppedBy::Nobody,
        };
        let kind = self.child_status.map_or(ExitKind::Unknown, ExitKind::of);
        self.control.say(&format!("ended {} {} {left_count}", kind.to_word(), by.to_word()));
        // The command may end before the shim notices that its worker was killed. A killed worker cannot report the end
        // or restore the terminal, so wait until the worker confirms the end, or is gone.
        let is_awaited = self.real_terminal.is_some() || self.will.is_some();
        let is_bereaved = is_awaited && !self.control.is_told_done();
        if let Some(terminal) = self.real_terminal.filter(|_| is_bereaved) {
            terminal.set_right();
        }
        let will = self.will.filter(|_| is_bereaved && left_count == 0);
        Ok(Done { code: kind.shell_code(), will })
    }

    /// Reaps the children that have ended; returns whether any are left. As the subreaper we are the parent of every
    /// orphan, so "no child" means "no descendant".
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

    /// Obeys the worker's orders since the last look.
    fn obey(&mut self) {
        for line in self.control.take() {
            let (word, argument) = line.split_once(' ').unwrap_or((&line, ""));
            let at = argument.parse().map(|ms| BootInstant::from_start(Duration::from_millis(ms)));
            match (word, at) {
                ("term", Ok(kill_at)) => self.end(StoppedBy::Worker, kill_at, Signal::TERM),
                ("int", Ok(kill_at)) => self.end(StoppedBy::Worker, kill_at, Signal::INT),
                ("kill", _) => self.end(StoppedBy::Worker, SystemClock.boot(), Signal::TERM),
                ("signal", _) => self.pass_on(argument),
                ("forget", _) => self.will = None,
                ("deadline", Ok(deadline)) => self.deadline = Some(deadline),
                _ => {}
            }
        }
    }

    /// Begins the end when no worker orders it: the worker is gone, the deadline is one kill budget away, or the command
    /// has ended.
    fn decide(&mut self, now: BootInstant) {
        if !self.control.open {
            if let Some(terminal) = self.real_terminal.take() {
                terminal.set_right();
            }
            self.end(StoppedBy::WorkerGone, now.after(self.kill_budget), Signal::TERM);
        }
        if let Some(deadline) = self.deadline.filter(|deadline| before(*deadline, self.kill_budget) <= now) {
            self.end(StoppedBy::Deadline, deadline, Signal::TERM);
        }
        if self.child_status.is_some() && self.ending.is_none() {
            // The command itself has ended, so nobody stopped it. The processes that it left behind are ended.
            let left: Vec<Descendant> = descendants_of(rustix::process::getpid())
                .into_iter()
                .filter(|one| stays(one.pid) && !reads_its_own_pipe(one.pid, &self.stdin))
                .collect();
            if !left.is_empty() {
                self.control.say(&format!("left {}", list(&left)));
            }
            let kill_at = now.after(LEFTOVER_GRACE);
            self.ending = Some(ShimEnding {
                by: StoppedBy::Nobody,
                kill_at,
                next_level_at: half_way(now, kill_at),
                terms: Terms::new(),
            });
        }
    }

    /// Begins the end, the first time; later calls can only bring the SIGKILL forward.
    fn end(&mut self, by: StoppedBy, kill_at: BootInstant, signal: Signal) {
        let now = SystemClock.boot();
        if let Some(ending) = &mut self.ending {
            ending.bring_forward(kill_at, now);
            return;
        }
        // SIGTERM is left out if the command has ended already, or if there is no time to act on it.
        let terms = if self.child_status.is_some() || kill_at <= now {
            Terms::new()
        } else {
            Terms::begin(self.child, &descendants_of(rustix::process::getpid()), signal)
        };
        self.ending = Some(ShimEnding { by, kill_at, next_level_at: half_way(now, kill_at), terms });
    }

    /// Passes a signal on to the command, as long as its pid is its own.
    fn pass_on(&self, signal: &str) {
        let signal = signal.parse().ok().and_then(Signal::from_named_raw);
        if let Some(signal) = signal.filter(|_| self.child_status.is_none()) {
            let _ = rustix::process::kill_process(self.child, signal);
        }
    }

    fn kill(&self, running: &[Descendant]) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        // After the child was reaped, its pid may become another group's number.
        if self.child_status.is_none() {
            let _ = rustix::process::kill_process_group(self.child, Signal::KILL);
        }
        for descendant in running {
            let _ = rustix::process::kill_process(descendant.pid, Signal::KILL);
        }
    }

    /// Waits for the worker, for the end of a watched process, for a signal or for the instant.
    fn wait(&self, timer: &OwnedFd, wake_at: Option<BootInstant>, watched: &[Pid]) -> io::Result<()> {
        set(timer, wake_at)?;
        let mut cannot_watch = false;
        let mut pidfds = Vec::with_capacity(watched.len());
        for pid in watched {
            match rustix::process::pidfd_open(*pid, PidfdFlags::empty()) {
                Ok(pidfd) => pidfds.push(pidfd),
                // The process is gone already, so there is one to reap, or a new look is due.
                Err(Errno::SRCH) => return Ok(()),
                // An old kernel, a security profile that forbids it, or too many open files.
                Err(_) => cannot_watch = true,
            }
        }
        if cannot_watch {
            let soon =
                wake_at.map_or(SystemClock.boot().after(LOOK_AGAIN), |at| at.min(SystemClock.boot().after(LOOK_AGAIN)));
            set(timer, Some(soon))?;
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

fn set(timer: &OwnedFd, wake_at: Option<BootInstant>) -> io::Result<()> {
    let mut value = Timespec { tv_sec: 0, tv_nsec: 0 };
    if let Some(at) = wake_at {
        // All zero would disarm the timer.
        let since_start = at.since(BootInstant::from_start(Duration::ZERO)).max(Duration::from_nanos(1));
        value = Timespec::try_from(since_start).map_err(|_| io::Error::from(Errno::INVAL))?;
    }
    let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
    rustix::time::timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &spec)?;
    Ok(())
}

/// The instant `by` earlier.
fn before(at: BootInstant, by: Duration) -> BootInstant {
    BootInstant::from_start(at.since(BootInstant::from_start(by)))
}
