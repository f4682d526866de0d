//! Reads a phase's output, and obeys the directives in it.
//!
//! Reading waits only for the command itself. The lines go into the outbox, which drops and counts the excess, so
//! neither a slow store nor a slow reader ever makes a command wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{lines::COMMAND_PREFIX, mask::Secrets, outbox::Outbox, stream_log::StreamLog};
use crate::{exec::report::Stream, model::bounds};

/// How long the beginning of a line waits for its end before it is shown as it is.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// A directive: a line by which a command tells us something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// `progress=40`, `message=Uploading`, or both in this order; the message is the rest of the line.
    Progress {
        /// 0 to 100.
        progress: Option<u8>,
        message: Option<String>,
    },
    /// `output NAME=VALUE`.
    Output {
        /// A letter or `_`, then letters, digits, `_`, `-` and `.`.
        name: String,
        /// The rest of the line.
        value: String,
    },
    /// `protect`: from now on a cancel has to wait.
    Protect,
    /// `unprotect`: a cancel no longer has to wait.
    Unprotect,
}

impl Directive {
    /// Parses a line `::singletrack …::`; `None` if it is anything else, even something similar.
    pub fn parse(line: &str) -> Option<Directive> {
        let body = line.trim_end().strip_prefix(COMMAND_PREFIX)?.strip_suffix("::")?.trim();
        match body.split_once(' ').unwrap_or((body, "")) {
            ("protect", "") => Some(Directive::Protect),
            ("unprotect", "") => Some(Directive::Unprotect),
            ("output", assignment) => {
                let (name, value) = assignment.trim_start().split_once('=')?;
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
                let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
                let good =
                    begins && name.len() <= 100 && name.bytes().all(fits) && bounds::fits(value, bounds::OUTPUT_VALUE);
                good.then(|| Directive::Output { name: name.to_owned(), value: value.to_owned() })
            }
            _ => parse_progress(body),
        }
    }
}

fn parse_progress(body: &str) -> Option<Directive> {
    let (progress, rest) = match body.strip_prefix("progress=") {
        Some(after) => {
            let (number, rest) = after.split_once(' ').unwrap_or((after, ""));
            (Some(number.parse::<u8>().ok().filter(|number| *number <= 100)?), rest.trim_start())
        }
        None => (None, body),
    };
    let message = match rest {
        "" => None,
        rest => {
            Some(rest.strip_prefix("message=").filter(|message| bounds::fits(message, bounds::REPORT_TEXT))?.to_owned())
        }
    };
    (progress.is_some() || message.is_some()).then_some(Directive::Progress { progress, message })
}

/// The state of a phase's output besides its lines; shared by the readers of both streams.
#[derive(Clone, Debug)]
pub struct PhaseOutput {
    outbox: Arc<Outbox>,
    phase: Arc<str>,
    heard_at: Arc<Mutex<Instant>>,
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

    /// Reads one stream to its end.
    pub async fn read(self, stream: Stream, mut pipe: impl AsyncRead + Unpin) {
        let heard_at = Arc::clone(&self.heard_at);
        let mut log = StreamLog::new(self, stream);
        // As many bytes as a pipe holds, so that a flood is read in few calls.
        let mut chunk = vec![0; 64 * 1024];
        let mut flush_at = None;
        loop {
            let due = async {
                match flush_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let count = tokio::select! {
                // Read data first, because its end may be there already.
                biased;
                read = pipe.read(&mut chunk) => read,
                () = due => {
                    log.flush();
                    flush_at = None;
                    continue;
                }
            };
            let Ok(count @ 1..) = count else { break };
            *heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let line_ended = log.push(&chunk[..count]);
            let waits_since_before = flush_at.filter(|_| !line_ended);
            flush_at = log.is_waiting().then(|| waits_since_before.unwrap_or(Instant::now() + FLUSH_AFTER));
        }
        log.finish();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood() {
        let progress = |progress, message: Option<&str>| {
            Some(Directive::Progress { progress, message: message.map(str::to_owned) })
        };
        let output = |name: &str, value: &str| Some(Directive::Output { name: name.into(), value: value.into() });
        let cases = [
            ("::singletrack progress=40 message=Uploading::", progress(Some(40), Some("Uploading"))),
            ("::singletrack progress=100::", progress(Some(100), None)),
            ("::singletrack message=two words = fine::", progress(None, Some("two words = fine"))),
            ("::singletrack output url=https://x/?a=b::c::", output("url", "https://x/?a=b::c")),
            ("::singletrack output empty=::  ", output("empty", "")),
            ("::singletrack protect::", Some(Directive::Protect)),
            ("::singletrack unprotect::", Some(Directive::Unprotect)),
        ];
        for (line, wanted) in cases {
            assert_eq!(Directive::parse(line), wanted, "{line}");
        }
    }

    #[test]
    fn what_is_nearly_a_command_is_none() {
        for line in [
            "::singletrack progress=101::",
            "::singletrack progress=-1::",
            "::singletrack progress=4x message=y::",
            "::singletrack progress=40 mesage=y::",
            "::singletrack progress=40",
            " ::singletrack progress=40::",
            "+ echo ::singletrack progress=40::",
            "::singletrack output 1st=x::",
            "::singletrack output url::",
            "::singletrack protect me::",
            "::singletrack ::",
            "::singletrackprogress=40::",
        ] {
            assert_eq!(Directive::parse(line), None, "{line}");
        }
    }
}
