//! The command's own pseudo-terminal, for a run at a terminal. The command leads the session of this terminal and is in
//! its foreground. So Ctrl-C, `/dev/tty`, full-screen programs and a changed window size work as without `run`, and
//! `run` can copy what is shown.

use std::{
    convert::Infallible,
    io::{self, IsTerminal as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::getpgrp,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{
        LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcgetwinsize,
        tcsetattr, tcsetwinsize,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::relay;

/// How many bytes of input are read at once: more than a person types, and enough for pasted text.
const INPUT_LIMIT: usize = 4 << 10;

/// The command's terminal. `run` holds the other side of this terminal.
pub(super) struct Terminal {
    ours: OwnedFd,
    real: OwnedFd,
    interrupt: Arc<Interrupt>,
}

/// What happens to the interrupt key (Ctrl-C).
struct Interrupt {
    /// Whether the command got the key.
    passed_on: AtomicBool,
    /// Whether the first press is withheld from the command, because a protected section runs.
    is_protected: AtomicBool,
    /// Whether a press was withheld.
    withheld: watch::Sender<bool>,
}

impl Terminal {
    /// A new terminal like the user's terminal, and the command's side of the new terminal. `None` if there is no
    /// user's terminal, or if this process is not in the foreground of that terminal. It is enough if only the input or
    /// only the output is a terminal, because `sudo` and `ssh` ask at `/dev/tty`.
    pub(super) fn open() -> io::Result<Option<(Self, OwnedFd)>> {
        let at = match (io::stdin().is_terminal(), io::stdout().is_terminal()) {
            (true, _) => io::stdin().as_fd().try_clone_to_owned()?,
            (false, true) => io::stdout().as_fd().try_clone_to_owned()?,
            (false, false) => return Ok(None),
        };
        if !is_in_foreground(at.as_fd()) {
            return Ok(None);
        }
        // Standard input or output may be open in one direction only, so the terminal itself is opened if possible.
        let tty = rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let real = tty.unwrap_or(at);
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let mut modes = tcgetattr(&real)?;
        if !io::stdout().is_terminal() {
            // The real terminal still moves each new line to the left edge, because other programs may write there.
            modes.output_modes.remove(OutputModes::OPOST);
        }
        tcsetattr(&theirs, OptionalActions::Now, &modes)?;
        let interrupt = Interrupt {
            passed_on: AtomicBool::new(false),
            is_protected: AtomicBool::new(false),
            withheld: watch::Sender::new(false),
        };
        let terminal = Terminal { ours, real, interrupt: Arc::new(interrupt) };
        terminal.take_size();
        Ok(Some((terminal, theirs)))
    }

    /// Where the command's output is read from.
    pub(super) fn output(&self) -> io::Result<OwnedFd> {
        self.ours.try_clone()
    }

    /// The user's terminal.
    pub(super) fn real(&self) -> BorrowedFd<'_> {
        self.real.as_fd()
    }

    /// Whether the command got the interrupt key.
    pub(super) fn was_interrupted(&self) -> bool {
        self.interrupt.passed_on.load(Ordering::Relaxed)
    }

    /// Sets whether the first interrupt is withheld from the command. A second interrupt always reaches the command,
    /// because the user has the last word.
    pub(super) fn protect(&self, is_protected: bool) {
        self.interrupt.is_protected.store(is_protected, Ordering::Relaxed);
    }

    /// Whether an interrupt was withheld from the command.
    pub(super) fn withheld(&self) -> watch::Receiver<bool> {
        self.interrupt.withheld.subscribe()
    }

    /// Passes on each key as it is pressed, until the returned value is dropped. Dropping it restores the modes of the
    /// real terminal.
    pub(super) fn connect(&self) -> io::Result<Option<Connected>> {
        // The run may have been sent to the background while it waited. Then setting the modes would stop this process,
        // and the lease would no longer be renewed.
        if !is_in_foreground(self.real.as_fd()) {
            return Ok(None);
        }
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (real, ours) = (self.real.try_clone()?, self.ours.try_clone()?);
        let interrupt = Arc::clone(&self.interrupt);
        let modes = Modes::raw(self.real.try_clone()?, !io::stdout().is_terminal())?;
        let keys = thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || pass_keys_on(&real, &ours, &ended, &interrupt))?;
        Ok(Some(Connected { _modes: modes, end: Some(end), keys: Some(keys) }))
    }

    /// Keeps the size equal to the size of the real terminal, for as long as this future is polled.
    pub(super) async fn follow_size(&self) -> Infallible {
        let Ok(mut changes) = signal(SignalKind::window_change()) else { return std::future::pending().await };
        loop {
            self.take_size();
            if changes.recv().await.is_none() {
                return std::future::pending().await;
            }
        }
    }

    fn take_size(&self) {
        if let Ok(size) = tcgetwinsize(&self.real) {
            let _ = tcsetwinsize(&self.ours, size);
        }
    }
}

fn is_in_foreground(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// Whether standard input is a terminal and this process is in the background of that terminal.
pub(super) fn is_in_background() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && !is_in_foreground(stdin.as_fd())
}

fn pass_keys_on(real: &OwnedFd, ours: &OwnedFd, ended: &OwnedFd, interrupt: &Interrupt) {
    let mut keys = vec![0; INPUT_LIMIT];
    loop {
        let mut fds = [PollFd::new(real, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        // Keys that are typed from now on are for the next program at this terminal.
        if !fds[1].revents().is_empty() {
            return;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        match rustix::io::read(real, &mut keys) {
            Ok(0) => return,
            Ok(count) => {
                let (before, rest) = interrupt.judge(&keys[..count], interrupt_key(ours));
                if relay::write_all(ours, before).is_err() || relay::write_all(ours, rest).is_err() {
                    return;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}

impl Interrupt {
    /// Which of these keys the command gets: all keys, or the keys before and after a withheld interrupt key.
    fn judge<'a>(&self, keys: &'a [u8], key: Option<u8>) -> (&'a [u8], &'a [u8]) {
        let Some(at) = keys.iter().position(|pressed| Some(*pressed) == key) else { return (keys, &[]) };
        let is_first = !*self.withheld.borrow();
        if is_first && self.is_protected.load(Ordering::Relaxed) {
            self.withheld.send_replace(true);
            return (&keys[..at], &keys[at + 1..]);
        }
        self.passed_on.store(true, Ordering::Relaxed);
        (keys, &[])
    }
}

/// The key that is the interrupt key at the command's terminal now, if there is one.
fn interrupt_key(ours: &OwnedFd) -> Option<u8> {
    let modes = tcgetattr(ours).ok()?;
    modes.local_modes.contains(LocalModes::ISIG).then(|| modes.special_codes[SpecialCodeIndex::VINTR])
}

/// Keys are passed on while this value exists. Dropping it restores the modes of the real terminal.
pub(super) struct Connected {
    /// Dropped last.
    _modes: Modes,
    end: Option<OwnedFd>,
    keys: Option<thread::JoinHandle<()>>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        drop(self.end.take());
        // The thread is not joined, because it may be blocked in a write to a command that reads nothing. The thread
        // takes no more keys.
        drop(self.keys.take());
    }
}

/// A terminal's former modes. Dropping this value restores them.
struct Modes {
    terminal: OwnedFd,
    before: Termios,
}

impl Modes {
    /// Sets raw mode, as a full-screen program does. If `others_write`, lines from other programs (such as `tee`) still
    /// begin at the left edge.
    fn raw(terminal: OwnedFd, others_write: bool) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        if others_write {
            raw.output_modes = before.output_modes;
        }
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Modes { terminal, before })
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        if is_in_foreground(self.terminal.as_fd()) {
            // `Drain`: the last output is still shown under the modes for which it was written.
            let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
        }
    }
}
