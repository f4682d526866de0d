//! The fault while a call is retried, and its text.

use std::time::Duration;

use crate::{clock::span, wire::ErrorCode};

/// How long no answer may come before that is reported. A server under load, or one that waits for its database, answers within it.
const SILENCE_LIMIT: Duration = Duration::from_secs(6);

/// Why this attempt brought no usable answer.
pub(super) struct Trouble {
    /// For people.
    pub why: String,
    pub kind: TroubleKind,
}

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TroubleKind {
    /// No answer came at all.
    Silent,
    /// The server answered that it cannot do it now, with a reason.
    Said(Option<ErrorCode>),
    /// Anything else: a connection that breaks, an answer of something in between.
    Broken,
}

impl Trouble {
    pub fn broken(why: impl Into<String>) -> Self {
        Trouble { why: why.into(), kind: TroubleKind::Broken }
    }

    pub fn is_silent(&self) -> bool {
        self.kind == TroubleKind::Silent
    }

    /// Whether it is told, once it was tried for so long.
    pub fn is_worth_telling(&self, tried_for: Duration) -> bool {
        !self.is_silent() || tried_for >= SILENCE_LIMIT
    }

    /// What is told of it. `contacted`: whether the server has answered before. `limit`: how long it is tried again.
    pub fn sentence(&self, server: &str, contacted: bool, tried_for: Duration, limit: &str) -> String {
        let why = &self.why;
        match self.kind {
            TroubleKind::Silent => {
                format!("{server} does not answer (nothing came for {}); trying again {limit}", span(tried_for))
            }
            TroubleKind::Said(Some(ErrorCode::ShuttingDown)) => {
                format!("{server} is being stopped or restarted; waiting for it {limit}")
            }
            TroubleKind::Said(_) => format!("{server} cannot do it now ({why}); trying again {limit}"),
            TroubleKind::Broken if contacted => {
                format!("{server} does not answer as it should ({why}); trying again {limit}")
            }
            TroubleKind::Broken => format!("{server} does not answer ({why}); trying again {limit}"),
        }
    }
}
