//! Why a client cannot start. A refusal of the server, or a missing answer, is a [`super::calls::Fault`].

use std::path::PathBuf;

use thiserror::Error;

/// The client's settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetupError {
    /// No header can carry the token.
    #[error("the token has characters that a token cannot have")]
    Token,
    /// The server's address holds a name or a password.
    #[error("the server's address holds a password, which other processes can read")]
    PasswordInAddress,
    /// The file of the authority to be trusted cannot be used.
    #[error("{path}: {why}", path = path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// For people.
        why: String,
    },
    /// The system's own authorities, or something else that HTTP needs, cannot be used.
    #[error("the HTTP client does not start: {why}")]
    Http {
        /// For people.
        why: String,
        /// Whether it was to speak TLS.
        needs_authorities: bool,
    },
}
