//! Terminals for the commands under test.

use std::{
    fs::File,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// A terminal of 24 rows.
pub struct Terminal {
    /// The test's side: its keyboard and its screen.
    pub ours: File,
    /// The command's side. Once no process has it open any more, reading `ours` fails.
    pub theirs: OwnedFd,
}

impl Terminal {
    pub fn open(columns: u16) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        tcsetwinsize(&ours, size(24, columns)).unwrap();
        Terminal { ours: File::from(ours), theirs }
    }

    /// Starts the command as the leader of a session on this terminal, with another standard output if `stdout` is
    /// given.
    pub fn seat(&self, mut command: Command, stdout: Option<Stdio>) -> Child {
        let side = || Stdio::from(self.theirs.try_clone().unwrap());
        command.stdin(side()).stdout(stdout.unwrap_or_else(side)).stderr(side());
        #[expect(unsafe_code, reason = "the closure makes two system calls and allocates nothing, as pre_exec demands")]
        // SAFETY: setsid(2) and ioctl(2) are async-signal-safe.
        unsafe {
            let terminal = self.theirs.try_clone().unwrap();
            command.pre_exec(move || {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(terminal.as_fd())?;
                Ok(())
            });
        }
        command.spawn().unwrap()
    }
}

pub fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
