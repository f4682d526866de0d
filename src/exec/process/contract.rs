//! What a command's owner and its shim agree on: how the shim is called, how an end is told, and how long things may take.

use std::{fs::File, io, path::Path, time::Duration};

use rustix::{io::Errno, process::WaitStatus};

/// The hidden first argument under which this program is the shim.
pub const ARGUMENT: &str = "__shim";

/// How long killed processes may take to vanish. A longer time means that they are stuck in the kernel or another
/// user's, as the processes of `sudo` are. That is reported, and they are waited for as long as there is a worker.
pub(super) const VANISH_LIMIT: Duration = Duration::from_secs(10);

/// How often the process table is read again while leftovers end. A process that forks during one reading can be missed
/// once.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unknown: the shim was killed, or the process could not be killed.
    Unknown,
}

/// The cause of a command's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoppedBy {
    /// It ended by itself.
    Nobody,
    /// The worker ordered it.
    Worker,
    /// The shim ended it, because the worker was gone.
    WorkerGone,
    /// The shim ended it, because the deadline was not renewed.
    Deadline,
}

impl ExitKind {
    pub(super) fn of(status: WaitStatus) -> Self {
        let signal = status.terminating_signal().map(ExitKind::Signal);
        status.exit_status().map(ExitKind::Code).or(signal).unwrap_or(ExitKind::Unknown)
    }

    pub(super) fn to_word(self) -> String {
        match self {
            ExitKind::Code(code) => format!("code:{code}"),
            ExitKind::Signal(number) => format!("signal:{number}"),
            ExitKind::Unknown => "unknown".to_owned(),
        }
    }

    pub(super) fn from_word(word: &str) -> Self {
        match word.split_once(':').map(|(kind, number)| (kind, number.parse())) {
            Some(("code", Ok(code))) => ExitKind::Code(code),
            Some(("signal", Ok(number))) => ExitKind::Signal(number),
            _ => ExitKind::Unknown,
        }
    }

    /// The value that a shell would show as `$?`.
    pub fn shell_code(self) -> i32 {
        match self {
            ExitKind::Code(code) => code,
            ExitKind::Signal(number) => 128 + number,
            ExitKind::Unknown => 125,
        }
    }
}

impl StoppedBy {
    const ALL: [StoppedBy; 4] = [StoppedBy::Nobody, StoppedBy::Worker, StoppedBy::WorkerGone, StoppedBy::Deadline];

    pub(super) fn to_word(self) -> &'static str {
        match self {
            StoppedBy::Nobody => "nobody",
            StoppedBy::Worker => "worker",
            StoppedBy::WorkerGone => "worker-gone",
            StoppedBy::Deadline => "deadline",
        }
    }

    pub(super) fn from_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|by| by.to_word() == word).unwrap_or(StoppedBy::Nobody)
    }
}

/// Opens and locks the file, waiting for its present holder. Children do not inherit the lock, because it stands for
/// the shim alone.
pub(super) fn lock_exclusively(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            result => return result.map(|()| file).map_err(io::Error::from),
        }
    }
}
