//! Reads a phase's output, and obeys the directives in it.
//!
//! Reading waits only for the command itself. The lines go into the outbox, which drops and counts the excess, so
//! neither a slow store nor a slow reader ever makes a command wait.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::{directive::Directive, mask::Secrets, outbox::Outbox};
use crate::exec::report::Stream;

/// The state of a phase's output besides its lines; shared by the readers of both streams.
#[derive(Clone, Debug)]
pub struct PhaseOutput {
    outbox: Arc<Outbox>,
    phase: Arc<str>,
    pub(super) heard_at: Arc<Mutex<Instant>>,
    protected: watch::Sender<bool>,
    secrets: Arc<Secrets>,
}

impl PhaseOutput {
    /// For a phase that is now starting. The secrets never get into the outbox.
    pub fn new(outbox: Arc<Outbox>, phase: &str, protected: bool, secrets: Arc<Secrets>) -> Self {
        PhaseOutput {
            outbox,
            secrets,
            phase: phase.into(),
            heard_at: Arc::new(Mutex::new(Instant::now())),
            protected: watch::Sender::new(protected),
        }
    }

    /// When the command last gave a sign of life.
    pub fn heard_at(&self) -> Instant {
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a cancel has to wait, by the command's last directive.
    pub fn protection(&self) -> watch::Receiver<bool> {
        self.protected.subscribe()
    }

    /// The secrets to mask.
    pub fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    /// Adds a line to the phase's log that the executor itself wrote.
    pub fn note(&self, text: impl Into<String>) {
        let text = format!("singletrack: {}", text.into());
        self.outbox.line(Stream::Stderr, &self.phase, self.secrets.mask(&text).into_owned());
    }

    /// Sets the message in the deployment's record.
    pub fn say(&self, message: String) {
        self.outbox.progress(None, Some(self.secrets.mask(&message).into_owned()));
    }

    /// Takes a line for the log.
    pub(super) fn line(&self, stream: Stream, line: String) {
        self.outbox.line(stream, &self.phase, line);
    }

    /// Obeys a directive. Returns whether that was possible.
    pub(super) fn obey(&self, command: Directive) -> bool {
        match command {
            Directive::Progress { progress, message } => {
                self.outbox.progress(progress, message.map(|message| self.masked(&message)));
                true
            }
            Directive::Output { name, value } => self.outbox.output(&name, &self.masked(&value)),
            Directive::Protect => {
                self.protected.send_replace(true);
                true
            }
            Directive::Unprotect => {
                self.protected.send_replace(false);
                true
            }
        }
    }

    /// The command's text without secrets. Empty if a secret's value is unknown.
    fn masked(&self, text: &str) -> String {
        if self.secrets.are_overfull() { "***".to_owned() } else { self.secrets.mask(text).into_owned() }
    }
}
