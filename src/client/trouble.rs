//! The fault while a call is retried, and its text.

use std::time::Duration;

use serde_json::Value;

use crate::{clock::span, model::RequestId, wire::ErrorCode};

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
    /// The CI made no ID token, and nothing was sent.
    NoToken,
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
            TroubleKind::NoToken => format!("the CI makes no ID token for {server} now ({why}); trying again {limit}"),
            TroubleKind::Broken if contacted => {
                format!("{server} does not answer as it should ({why}); trying again {limit}")
            }
            TroubleKind::Broken => format!("{server} does not answer ({why}); trying again {limit}"),
        }
    }
}

/// The text of a refusal. A fault of the server's names the request, by which its operator finds it in the log.
pub(super) fn message_of(body: &Value) -> String {
    let text = ["detail", "message", "title"].iter().find_map(|name| body.get(name).and_then(Value::as_str));
    let text = text.unwrap_or("the server refuses and does not say why");
    let is_fault = body.get("status").and_then(Value::as_u64).is_some_and(|status| status >= 500);
    let request = body.get("requestId").and_then(Value::as_str).and_then(|id| id.parse::<RequestId>().ok());
    match request.filter(|_| is_fault) {
        Some(request) => format!("{text} (request {request})"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_of_the_server_names_the_request_and_a_refusal_does_not() {
        let message = |status: u16, id: &str| message_of(&json!({ "status": status, "detail": "no", "requestId": id }));
        assert_eq!(message(503, "00000000000000ff"), "no (request 00000000000000ff)");
        assert_eq!(message(409, "00000000000000ff"), "no");
        // What stands between the client and the server may answer anything.
        assert_eq!(message(500, "\u{1b}[2J"), "no");
    }
}
