//! What the commands share that start a server or an agent, or look after one: signals that stop it, the signal that
//! reads the configuration again, and how it ends.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    process::{getpid, kill_process},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use super::screen::print as screen;
use crate::{
    config::{LiveConfig, reload_in_words},
    exec::{ShimProgram, process::inherited::is_ignored},
};

/// `sysexits.h`: the service is not available.
pub(super) const EX_UNAVAILABLE: u8 = 69;
/// As a shell says it of a program that SIGINT ended.
pub(super) const EXIT_INTERRUPTED: u8 = 130;
/// `sysexits.h`: the configuration is wrong.
pub(super) const EX_CONFIG: u8 = 78;
/// How long after a stop signal another one is taken for the same.
const SIGNAL_ECHO: Duration = Duration::from_secs(1);

pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// The runtime of a service. It listens for SIGHUP from before the configuration is read, so that none after that is lost.
pub(super) fn service_runtime() -> std::io::Result<(Runtime, HangUps)> {
    let runtime = runtime()?;
    let hang_ups = {
        let _inside = runtime.enter();
        HangUps::listen()?
    };
    Ok((runtime, hang_ups))
}

pub(super) fn shim() -> std::io::Result<ShimProgram> {
    // The file itself and not its name: it may be replaced while the server runs.
    std::env::current_exe().map(ShimProgram)
}

pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The next signal. What comes right after the last one is the same one: process supervisors and terminals signal a
    /// whole group of processes, and a process in it may pass the signal on to us.
    pub(super) async fn received_again(&mut self) {
        let _ = tokio::time::timeout(SIGNAL_ECHO, async {
            loop {
                self.received().await;
            }
        })
        .await;
        self.received().await;
    }
}

pub(super) fn stop_signals() -> std::io::Result<StopSignals> {
    Ok(StopSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
}

/// Hears of SIGHUP, which reads the configuration again. It ends nothing, except where it comes since the terminal of
/// this process was closed: that is a SIGTERM.
pub(super) struct HangUps {
    signal: Signal,
    /// The terminal. None where there is none, and under `nohup`, which asks us to outlive it.
    terminal: Option<File>,
}

impl HangUps {
    /// From now on SIGHUP does not end the process by itself.
    fn listen() -> std::io::Result<Self> {
        let open = || OpenOptions::new().read(true).custom_flags(OFlags::NOCTTY.bits().cast_signed()).open("/dev/tty");
        let outlives = is_ignored(SignalKind::hangup().as_raw_value());
        let terminal = if outlives { None } else { open().ok() };
        Ok(HangUps { signal: signal(SignalKind::hangup())?, terminal })
    }

    /// From now on each SIGHUP reads the configuration again; `told` hears what came of it.
    pub(super) fn reload(mut self, config: LiveConfig, told: impl Fn(String) + Send + Sync + 'static) {
        tokio::spawn(async move {
            while self.signal.recv().await.is_some() {
                if self.terminal.as_ref().is_some_and(is_closed) {
                    tracing::info!("the terminal was closed");
                    // The process exists, and may signal itself.
                    let _ = kill_process(getpid(), rustix::process::Signal::TERM);
                    continue;
                }
                let config = config.clone();
                // The log says what came of it; so does a panic.
                let reloaded = tokio::task::spawn_blocking(move || config.reload(Timestamp::now())).await;
                told(reloaded.map_or_else(|_| "it panicked".to_owned(), |reloaded| reload_in_words(&reloaded)));
            }
        });
    }
}

fn is_closed(terminal: &File) -> bool {
    let mut asked = [PollFd::new(terminal, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().contains(PollFlags::HUP)
}

/// Tells why it ends. The first line of the message is the error; further ones are hints, or lines that go with it.
pub(super) fn fail(code: u8, message: &str) -> ExitCode {
    let mut lines = message.lines();
    screen::error(&format!("singletrack: exit code {code}"), lines.next().unwrap_or_default());
    for line in lines {
        match line.strip_prefix("hint: ") {
            Some(hint) => screen::hint(hint),
            None => screen::progress(line),
        }
    }
    ExitCode::from(code)
}

pub(super) fn print(text: &str) {
    // If this cannot be written, nobody can read an error either.
    let _ = screen::result(text);
}
