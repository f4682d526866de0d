//! What passes between the executor and whoever started it.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::clock::BootInstant;
use crate::model::{self, CANNOT_BE_ENDED};
pub use crate::model::{FailureCause as FailureCode, PhaseState, Stream};

/// Said of a phase that a cancel does not interrupt, when it starts.
pub const PROTECTED_MESSAGE: &str = "protected: a cancel waits until it is over";

/// Said of processes that nobody here may end.
pub fn cannot_be_ended(what: &str) -> String {
    format!(
        "{CANNOT_BE_ENDED}{what}, another user's or stuck in the kernel; the slot is kept until it ends, or until an operator \
         frees it with `singletrack release`"
    )
}

/// Something that happened while a pipeline ran, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A phase changed its state.
    Phase {
        /// The phase's name.
        name: String,
        /// What it is now.
        state: PhaseState,
        /// What people should know beside that.
        message: Option<String>,
    },
    /// How far the deployment is, or what it does now.
    Progress {
        /// 0 to 100; never lower than one reported before.
        progress: Option<u8>,
        /// A line for people.
        message: Option<String>,
    },
    /// A value that the deployment made known, such as a URL. A later value of the same name replaces it.
    Output {
        /// The value's name.
        name: String,
        /// The value.
        value: String,
    },
    /// Lines that a phase printed: whole lines without their ends, free of control characters other than tabs.
    Log {
        /// Where they were printed.
        stream: Stream,
        /// The phase that printed them.
        phase: String,
        /// The lines, each 64 KiB at most.
        lines: Vec<String>,
    },
    /// Lines that were dropped here because nobody took the earlier ones in time.
    Cut {
        /// Where they were printed.
        stream: Stream,
        /// The phase that printed them.
        phase: String,
        /// How many.
        line_count: u64,
    },
}

/// Why a pipeline should stop before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It should not.
    None,
    /// Somebody cancelled the deployment: stop at the next safe point and roll back.
    Cancel,
    /// The lease can no longer be trusted: everything must be gone at the deadline, and nothing may be rolled back,
    /// because the slot may belong to another deployment then.
    LeaseLost {
        /// When the last process is killed at the latest.
        deadline: BootInstant,
    },
    /// The server stops, and its patience with running pipelines is over: stop now and roll back.
    Shutdown,
}

impl Stop {
    /// Makes what was asked as urgent as this: a lost lease is never taken back by a cancel.
    pub fn ask(self, stop: &watch::Sender<Stop>) {
        stop.send_if_modified(|current| {
            let is_more = self.urgency() > current.urgency();
            if is_more {
                *current = self;
            }
            is_more
        });
    }

    fn urgency(self) -> u8 {
        match self {
            Stop::None => 0,
            Stop::Cancel => 1,
            Stop::Shutdown => 2,
            Stop::LeaseLost { .. } => 3,
        }
    }
}

/// What became of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every phase succeeded.
    Succeeded {
        /// Everything that the phases made known.
        outputs: BTreeMap<String, String>,
    },
    /// A phase failed or a time limit passed; what had started was rolled back.
    Failed {
        /// Which kind of failure.
        code: FailureCode,
        /// A sentence for people.
        message: String,
        /// The phase in which it happened.
        phase: Option<String>,
    },
    /// A cancel stopped it; what had started was rolled back.
    Cancelled,
    /// The lease was lost or the server stopped: there is nothing that may be reported under this lease.
    Abandoned,
}

impl From<Report> for model::Report {
    fn from(report: Report) -> Self {
        match report {
            Report::Phase { name, state, message } => model::Report::Phase { name, state, message },
            Report::Progress { progress, message } => model::Report::Progress { progress, message },
            Report::Output { name, value } => model::Report::Output { name, value },
            Report::Log { stream, phase, lines } => model::Report::Log { stream, phase: Some(phase), lines },
            Report::Cut { stream, phase, line_count } => model::Report::Log {
                stream,
                phase: Some(phase),
                lines: vec![format!("[singletrack: {line_count} lines came too fast and were cut here]")],
            },
        }
    }
}
