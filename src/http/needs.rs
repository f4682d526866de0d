//! Whom a route answers, and what its methods need.

use crate::model::Scope;

/// A method in lower case, and the scopes of which a caller needs one; where there are none, everybody may.
pub type MethodNeeds = (&'static str, &'static [Scope]);

/// Whom a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Programs, in JSON, with a token.
    Api,
    /// A person's browser, in HTML, with a session.
    Screen,
    /// Whoever asks.
    Open,
}
