//! What passes between the executor and whoever started it.

use std::collections::BTreeMap;

use crate::clock::BootInstant;

/// Something that happened while a pipeline ran, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A phase changed its state.
    Phase {
        /// The phase's name.
        name: String,
        /// What it is now.
        state: PhaseState,
        /// Whether a cancel waits until this phase is over.
        protected: bool,
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

/// What a phase is doing or has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseState {
    /// It runs now; also said when its rollback begins.
    Started,
    /// It did what it should.
    Succeeded,
    /// It did not, or its rollback did not.
    Failed,
    /// It was never started.
    Skipped,
    /// Its rollback is done.
    RolledBack,
}

/// Where a command printed a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error, and what the executor itself has to say.
    Stderr,
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

/// Why a pipeline failed; the wire's codes of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCode {
    /// `PHASE_FAILED`: a command ended badly or could not be started.
    PhaseFailed,
    /// `PHASE_TIMEOUT`: a phase took longer than its own limit.
    PhaseTimeout,
    /// `VERIFY_FAILED`: a URL did not answer well in time.
    VerifyFailed,
    /// `TIMED_OUT`: the pipeline took longer than its limit.
    TimedOut,
    /// `STALLED`: a command gave no sign of life for too long.
    Stalled,
}
