//! What goes wrong between us and the database, and what it means for us.

use std::error::Error as _;

use deadpool::managed::PoolError;
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::store::StoreError;

/// Why the database did not do it.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database refused, or the connection to it broke.
    Driver(tokio_postgres::Error),
    /// It did not answer in time.
    Silent,
    /// All connections were busy for as long as anybody may wait for one.
    Exhausted,
    /// The connection leads to a database that another one has taken the place of.
    Moved,
    /// It is not one that we can work with.
    Refused(StoreError),
    /// A row does not hold what this version writes there.
    Row(String),
    /// A decision that cannot be recorded, by a mistake in the program.
    Mistaken(&'static str),
}

impl Fault {
    /// Whether the connection is of no use any more. What was under way on it may have been done or not.
    pub(super) fn breaks_connection(&self) -> bool {
        match self {
            Fault::Driver(error) => match error.as_db_error() {
                Some(error) => ends_session(error),
                // Anything but an answer of the database: closed, torn, or not to be understood.
                None => true,
            },
            Fault::Silent | Fault::Moved => true,
            Fault::Exhausted | Fault::Refused(_) | Fault::Row(_) | Fault::Mistaken(_) => false,
        }
    }

    /// Whether the statement was not known to the session that it came to: somebody hands out other sessions behind our
    /// connection.
    pub(super) fn is_lost_statement(&self) -> bool {
        let Fault::Driver(error) = self else { return false };
        let Some(code) = error.code() else { return false };
        *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::DUPLICATE_PSTATEMENT
    }

    /// What a caller is told, where nothing happened.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Fault::Driver(error) => match error.code() {
                Some(code) if *code == SqlState::DISK_FULL => StoreError::Full,
                Some(code) if is_foreign_schema(code) => StoreError::Unusable(format!(
                    "the database's tables are not those that this version of singletrack knows: {}",
                    told(&error)
                )),
                Some(_) | None => StoreError::Unavailable(told(&error)),
            },
            Fault::Silent => StoreError::Unavailable("the database did not answer in time".to_owned()),
            Fault::Moved => StoreError::Unavailable("the database was failed over meanwhile".to_owned()),
            Fault::Exhausted => StoreError::Unavailable("all connections to the database are busy".to_owned()),
            Fault::Refused(error) => error,
            Fault::Row(what) => {
                StoreError::Unusable(format!("the database holds what this version does not understand: {what}"))
            }
            Fault::Mistaken(what) => StoreError::Unavailable(what.to_owned()),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Fault::Refused(error)
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Fault::Driver(error)
    }
}

impl From<PoolError<Fault>> for Fault {
    fn from(error: PoolError<Fault>) -> Self {
        match error {
            PoolError::Backend(fault) => fault,
            PoolError::Timeout(_) => Fault::Exhausted,
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                Fault::Refused(StoreError::Unavailable("the store is closed".to_owned()))
            }
        }
    }
}

/// An error with its causes. The driver shows neither passwords nor parameters.
pub(super) fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => match error.detail() {
            Some(detail) => format!("{} ({detail})", error.message()),
            None => error.message().to_owned(),
        },
        None => {
            let mut told = error.to_string();
            let mut cause = error.source();
            while let Some(next) = cause {
                let next_told = next.to_string();
                if !told.contains(&next_told) {
                    told = format!("{told}: {next_told}");
                }
                cause = next.source();
            }
            told
        }
    }
}

/// Whether the database ends the session with this, or the session leads to one that became a standby.
fn ends_session(error: &DbError) -> bool {
    if matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
        return true;
    }
    let code = error.code();
    // Class 08 is the connection's, 57P01 to 57P05 are shutdowns.
    code.code().starts_with("08") || code.code().starts_with("57P") || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}

fn is_foreign_schema(code: &SqlState) -> bool {
    [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::DATATYPE_MISMATCH,
    ]
    .contains(code)
}
