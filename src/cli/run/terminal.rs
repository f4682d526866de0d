//! The command's own terminal, for a run at a terminal: the command leads its session and is in its
//! foreground, so that Ctrl-C, `/dev/tty`, full-screen programs and a changed window work as without us, and a copy of
//! what is shown can be taken.

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

/// More than anybody types, and enough for what is pasted.
const INPUT_LIMIT: usize = 4 << 10;

/// The command's terminal, whose other side we are.
pub(super) struct Terminal {
    ours: OwnedFd,
    real: OwnedFd,
    interrupt: Arc<Interrupt>,
}

/// What becomes of the key that interrupts.
struct Interrupt {
    /// Whether the command got it.
    passed_on: AtomicBool,
    /// Whether the first one is withheld from the command, because a part of it is protected.
    is_protected: AtomicBool,
    /// Whether one was.
    withheld: watch::Sender<bool>,
}

impl Terminal {
    /// A terminal like the one at which somebody sits, and the command's side of it; none if nobody does, or if this
    /// process is not in the foreground there. Somebody sits there who has redirected the input or the output, too: `sudo` and
    /// `ssh` ask at `/dev/tty`.
    pub(super) fn open() -> io::Result<Option<(Self, OwnedFd)>> {
        let at = match (io::stdin().is_terminal(), io::stdout().is_terminal()) {
            (true, _) => io::stdin().as_fd().try_clone_to_owned()?,
            (false, true) => io::stdout().as_fd().try_clone_to_owned()?,
            (false, false) => return Ok(None),
        };
        if !is_in_foreground(at.as_fd()) {
            return Ok(None);
        }
        // What was redirected may be open in one direction only.
        let tty = rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let real = tty.unwrap_or(at);
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let mut modes = tcgetattr(&real)?;
        if !io::stdout().is_terminal() {
            // The real one goes on to put lines at the left edge, for whoever else writes there.
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

    /// The terminal at which somebody sits.
    pub(super) fn real(&self) -> BorrowedFd<'_> {
        self.real.as_fd()
    }

    /// Whether the command got the key that interrupts.
    pub(super) fn was_interrupted(&self) -> bool {
        self.interrupt.passed_on.load(Ordering::Relaxed)
    }

    /// From now on the first interrupt is kept from the command, or no longer. A second one always reaches it: whoever sits
    /// there has the last word.
    pub(super) fn protect(&self, is_protected: bool) {
        self.interrupt.is_protected.store(is_protected, Ordering::Relaxed);
    }

    /// Whether an interrupt was kept from the command.
    pub(super) fn withheld(&self) -> watch::Receiver<bool> {
        self.interrupt.withheld.subscribe()
    }

    /// Passes on each key as it is pressed, until the answer is dropped: then the real terminal is as it was.
    pub(super) fn connect(&self) -> io::Result<Option<Connected>> {
        // Sent to the background while it waited: setting modes would stop us, and with us the lease.
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

    /// Keeps the size that of the real terminal, for as long as it is polled.
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

/// Whether standard input is a terminal in whose background this process is.
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
        // What is typed from now on is for whoever comes after us.
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
    /// What of these keys the command gets: all of them, or those before and after one that is withheld.
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

/// The key that the command's terminal takes for an interrupt, if there is one now.
fn interrupt_key(ours: &OwnedFd) -> Option<u8> {
    let modes = tcgetattr(ours).ok()?;
    modes.local_modes.contains(LocalModes::ISIG).then(|| modes.special_codes[SpecialCodeIndex::VINTR])
}

/// Passes keys on; the real terminal is as it was once it is dropped.
pub(super) struct Connected {
    /// Dropped last.
    _modes: Modes,
    end: Option<OwnedFd>,
    keys: Option<thread::JoinHandle<()>>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        drop(self.end.take());
        // Not waited for: it may be writing to a command that reads nothing. It takes no key any more.
        drop(self.keys.take());
    }
}

/// A terminal's modes, which come back.
struct Modes {
    terminal: OwnedFd,
    before: Termios,
}

impl Modes {
    /// As it is for a full screen. Lines that others write there, such as `tee`, still begin at the left edge if `others_write`.
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
            // What was shown last comes out under the modes for which it was meant.
            let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
        }
    }
}
