//! What the commands share that start a server or an agent, or look after one: signals that stop it, and how it ends.

use std::{process::ExitCode, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::screen::print as screen;
use crate::exec::ShimProgram;

/// `sysexits.h`: the service is not available.
pub(super) const EX_UNAVAILABLE: u8 = 69;
/// As a shell says it of a program that SIGINT ended.
pub(super) const EXIT_INTERRUPTED: u8 = 130;
/// `sysexits.h`: the configuration is wrong.
pub(super) const EX_CONFIG: u8 = 78;
/// How long after a stop signal another one is taken for the same.
const SIGNAL_ECHO: Duration = Duration::from_secs(1);

pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
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
