//! What a run does before it asks for the slot: it starts its shim, so that the command can begin as soon as the slot
//! is granted.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{FileType, fstat},
    pipe::{PipeFlags, pipe_with},
};

use super::{
    inside::{Door, PrivateFolder},
    program,
    relay::{self, Relay},
    tap::Copy,
    terminal::{Terminal, is_in_background},
};
use crate::{
    cli::{
        self,
        ci::id_token::ID_TOKEN_VARIABLE,
        exit::{Exit, Failure},
        session::Session,
    },
    exec::{
        Stream,
        lease::Times,
        output::{
            mask::{NotMasked, Secrets},
            outbox::Outbox,
            phase::PhaseOutput,
        },
        process::{
            fork::{Here, fork},
            owner::Prepared,
        },
    },
};

/// The phase under which the command's output is logged.
const PHASE: &str = "run";

/// A waiting shim, and our ends of the pipes of its command. The async runtime does not exist yet.
pub(super) struct Ahead {
    folder: PrivateFolder,
    prepared: Prepared,
    terminal: Option<Terminal>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// A command that is ready to start.
pub(super) struct Ready {
    pub(super) prepared: Prepared,
    pub(super) folder: PrivateFolder,
    pub(super) door: Door,
    /// The command's own terminal, if `run` is at a terminal.
    pub(super) terminal: Option<Terminal>,
    pub(super) copied: Copied,
}

/// Where the copy of the command's output goes.
pub(super) struct Copied {
    pub(super) output: PhaseOutput,
    pub(super) outbox: Arc<Outbox>,
    pub(super) relays: Vec<Relay>,
}

impl Ahead {
    pub(super) fn new(args: &cli::RunArgs) -> Result<Self, Failure> {
        if args.target.connect.json {
            let message = "`run` prints no result as JSON: standard output is the command's own";
            return Err(Failure::new(Exit::Usage, message)
                .hint("leave --json out; --result-file FILE writes the result to a file, as JSON"));
        }
        let Some(name) = args.command.first() else { return Err(Failure::new(Exit::Usage, "there is no command")) };
        program::check(name)?;
        let folder = PrivateFolder::new()?;
        Self::start(args, folder).map_err(|error| failed("the command's shim cannot be started", &error))
    }

    fn start(args: &cli::RunArgs, folder: PrivateFolder) -> io::Result<Self> {
        let (terminal, theirs) = Terminal::open()?.unzip();
        // If our stream is a terminal, the command's stream is a terminal, too. If it is not, the command gets a pipe
        // or our stream itself.
        let passes = |is_terminal: bool| match &theirs {
            Some(theirs) if is_terminal => Ok((None, Some(theirs.try_clone()?))),
            _ if args.no_logs || is_terminal => Ok((None, None)),
            _ => {
                let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
                io::Result::Ok((Some(ours), Some(theirs)))
            }
        };
        let (stdout, their_stdout) = passes(io::stdout().is_terminal())?;
        // If standard output and standard error are one file, the command gets one pipe for both. Two pipes would lose
        // the order of its writes.
        let (stderr, their_stderr) = match &their_stdout {
            Some(their_stdout) if stdout.is_some() && is_one_file(io::stdout().as_fd(), io::stderr().as_fd()) => {
                (None, Some(their_stdout.try_clone()?))
            }
            _ => passes(io::stderr().is_terminal())?,
        };
        let prepared = fork(Here {
            command: &args.command,
            hidden: &["SINGLETRACK_TOKEN", ID_TOKEN_VARIABLE, "SINGLETRACK_PHASE"],
            lock: &folder.lock(),
            folder: folder.path(),
            kill_budget: Times::of_length(args.lease).kill_budget,
            terminal: terminal.as_ref().map(Terminal::real),
            stdin: match &theirs {
                Some(theirs) if io::stdin().is_terminal() => Some(theirs.try_clone()?),
                Some(_) => None,
                // Input at the terminal is for the shell. The shell stops background processes that read this input,
                // but the command is in a session of its own, where nothing would stop it.
                None if is_in_background() => Some(File::open("/dev/null")?.into()),
                None => None,
            },
            stdout: their_stdout,
            stderr: their_stderr,
        })?;
        Ok(Ahead { folder, prepared, terminal, stdout, stderr })
    }

    /// Ends the shim without a command.
    pub(super) async fn abandon(self) {
        self.prepared.abandon().await;
    }

    /// Prepares to pass on the command's output, and to answer the command's requests.
    pub(super) fn ready(self, no_logs: bool, secrets: &Arc<Secrets>) -> Result<Ready, Failure> {
        let Ahead { folder, prepared, terminal, stdout, stderr } = self;
        let door = Door::open(&folder.socket()).map_err(|error| failed("the run's socket cannot be opened", &error))?;
        let outbox = Arc::new(Outbox::default());
        let output = PhaseOutput::new(Arc::clone(&outbox), PHASE, false, Arc::clone(secrets));
        let copy = |stream| Copy { stream, output: output.clone() };
        // The threads are started before the slot is taken, so that a failure does not cost a slot.
        let start = || -> io::Result<Vec<Relay>> {
            let mut relays = Vec::new();
            if let Some(terminal) = &terminal {
                // If standard output is redirected, the terminal still shows the rest: errors, and questions at
                // `/dev/tty`.
                let (to, stream) = match io::stdout() {
                    stdout if stdout.is_terminal() => (stdout.as_fd().try_clone_to_owned()?, Stream::Stdout),
                    _ => (terminal.real().try_clone_to_owned()?, Stream::Stderr),
                };
                relays.push(relay::start(terminal.output()?, to, (!no_logs).then(|| copy(stream)))?);
            }
            if let Some(pipe) = stdout {
                let to = io::stdout().as_fd().try_clone_to_owned()?;
                relays.push(relay::start(pipe, to, Some(copy(Stream::Stdout)))?);
            }
            if let Some(pipe) = stderr {
                let to = io::stderr().as_fd().try_clone_to_owned()?;
                relays.push(relay::start(pipe, to, Some(copy(Stream::Stderr)))?);
            }
            Ok(relays)
        };
        let relays = start().map_err(|error| {
            let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
            failed(&format!("no thread can be started for the command's output (kernel {kernel})"), &error).hint(
                "a security profile may forbid clone3, or a limit of processes is reached (`ulimit -u`); with --no-logs no thread \
                 is needed where no output goes to a terminal",
            )
        })?;
        Ok(Ready { prepared, folder, door, terminal, copied: Copied { output, outbox, relays } })
    }
}

/// The secrets to mask: the values of these variables, and later the secrets that the command announces.
pub(super) fn secrets(session: &Session, names: &[String]) -> Result<Secrets, Failure> {
    let secrets = Secrets::default();
    for name in names {
        let Some(value) = std::env::var_os(name) else {
            session.screen.warning(&format!("--mask {name}: there is no such variable"));
            continue;
        };
        if value.is_empty() {
            session.screen.warning(&format!("--mask {name}: it is empty"));
            continue;
        }
        secrets.add(&value.to_string_lossy()).map_err(|why: NotMasked| {
            Failure::new(Exit::Usage, format!("--mask {name}: its value cannot be masked: {why}"))
                .hint("pass --no-logs to send no output at all")
        })?;
    }
    Ok(secrets)
}

/// Whether two descriptors are one open file, as after `2>&1`.
fn is_one_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    #[expect(unsafe_code, reason = "there is no safe way to ask")]
    // SAFETY: the call compares two numbers of this process, and writes nothing.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, one.as_raw_fd(), other.as_raw_fd()) };
    match (answer, fstat(one), fstat(other)) {
        (-1, Ok(one), Ok(other)) => {
            // Some security profiles forbid the call. Then only equal pipes count as one file: a pipe has one end for
            // writing, but a regular file may have been opened twice.
            (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
                && FileType::from_raw_mode(one.st_mode) == FileType::Fifo
        }
        (answer, ..) => answer == 0,
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Fault, format!("{what}: {error}"))
}
