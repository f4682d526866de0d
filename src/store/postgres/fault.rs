//! Faults between us and the database, and their meaning for us. See decision 0044.

use std::error::Error as _;

use deadpool::managed::PoolError;
use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::store::StoreError;

/// Why the database did not carry out a request.
#[derive(Debug)]
pub(super) enum DatabaseFault {
    /// The database refused, or the connection to it broke.
    Driver(tokio_postgres::Error),
    /// It did not answer in time.
    Silent,
    /// All connections were busy for the longest time that a request may wait for one.
    Exhausted,
    /// The connection leads to a database that another one has replaced.
    Moved,
    /// The database is not usable.
    Refused(StoreError),
    /// A row does not contain the values that this version writes.
    Row(String),
    /// A decision cannot be recorded, because of a bug in the program.
    Mistaken(&'static str),
}

impl DatabaseFault {
    /// Whether the connection is useless now. A statement under way on it may have been carried out or not.
    pub(super) fn breaks_connection(&self) -> bool {
        match self {
            DatabaseFault::Driver(error) => match error.as_db_error() {
                Some(error) => ends_session(error),
                // Not an answer of the database: the connection was closed or cut, or its data makes no sense.
                None => true,
            },
            DatabaseFault::Silent | DatabaseFault::Moved => true,
            DatabaseFault::Exhausted
            | DatabaseFault::Refused(_)
            | DatabaseFault::Row(_)
            | DatabaseFault::Mistaken(_) => false,
        }
    }

    /// Whether the session did not know the prepared statement. Then a pooler gives our connection other sessions.
    pub(super) fn is_lost_statement(&self) -> bool {
        let DatabaseFault::Driver(error) = self else { return false };
        let Some(code) = error.code() else { return false };
        *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::DUPLICATE_PSTATEMENT
    }

    /// The caller's error, if nothing was written.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            DatabaseFault::Driver(error) => match error.code() {
                Some(code) if *code == SqlState::DISK_FULL => StoreError::Full,
                Some(code) if is_foreign_schema(code) => StoreError::Unusable(format!(
                    "the database's tables are not those that this version of singletrack knows: {}",
                    told(&error)
                )),
                Some(code) if is_locked_out(code) => StoreError::Unusable(format!(
                    "the database does not let us in: {}; see the user, the password and the database in the URL",
                    told(&error)
                )),
                None if is_mistrusted(&error) => {
                    StoreError::Unusable(format!("the database's certificate is not trusted: {}", told(&error)))
                }
                Some(code) if is_refusal(code) => StoreError::Refused(told(&error)),
                Some(_) | None => StoreError::Unavailable(told(&error)),
            },
            DatabaseFault::Silent => StoreError::Unavailable("the database did not answer in time".to_owned()),
            DatabaseFault::Moved => StoreError::Unavailable("the database was failed over meanwhile".to_owned()),
            DatabaseFault::Exhausted => StoreError::Unavailable("all connections to the database are busy".to_owned()),
            DatabaseFault::Refused(error) => error,
            DatabaseFault::Row(what) => {
                StoreError::Unusable(format!("the database holds what this version does not understand: {what}"))
            }
            DatabaseFault::Mistaken(what) => StoreError::Refused(what.to_owned()),
        }
    }
}

impl From<StoreError> for DatabaseFault {
    fn from(error: StoreError) -> Self {
        DatabaseFault::Refused(error)
    }
}

impl From<tokio_postgres::Error> for DatabaseFault {
    fn from(error: tokio_postgres::Error) -> Self {
        DatabaseFault::Driver(error)
    }
}

impl From<PoolError<DatabaseFault>> for DatabaseFault {
    fn from(error: PoolError<DatabaseFault>) -> Self {
        match error {
            PoolError::Backend(fault) => fault,
            PoolError::Timeout(_) => DatabaseFault::Exhausted,
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                DatabaseFault::Refused(StoreError::Unavailable("the store is closed".to_owned()))
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

/// Whether the database ends the session with this error, or has become a standby.
fn ends_session(error: &DbError) -> bool {
    if matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
        return true;
    }
    let code = error.code();
    // Class 08 are connection errors, 57P01 to 57P05 are shutdowns.
    code.code().starts_with("08") || code.code().starts_with("57P") || *code == SqlState::READ_ONLY_SQL_TRANSACTION
}

/// Whether the name, the password or the database is wrong. Waiting does not help then.
fn is_locked_out(code: &SqlState) -> bool {
    code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME
}

/// Whether the server's identity could not be verified. Waiting does not help then either.
fn is_mistrusted(error: &tokio_postgres::Error) -> bool {
    let mut cause = error.source();
    while let Some(next) = cause {
        let inner = next.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let is_tls = |error: &(dyn std::error::Error + 'static)| {
            matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
        };
        if is_tls(next) || inner.is_some_and(|inner| is_tls(inner)) {
            return true;
        }
        cause = next.source();
    }
    false
}

/// Whether the same statement would be refused again: a value that the database cannot store (22), that breaks a rule
/// of the tables (23), or that is too large (54). Two codes of class 23 are exceptions, and the decision is made anew:
/// our own functions raise a plain 23000 if something has changed meanwhile, and 23505 means that another transaction
/// wrote the same key meanwhile.
fn is_refusal(code: &SqlState) -> bool {
    let is_of = |class: &str| code.code().starts_with(class);
    let is_changed = [SqlState::INTEGRITY_CONSTRAINT_VIOLATION, SqlState::UNIQUE_VIOLATION].contains(code);
    is_of("22") || is_of("54") || (is_of("23") && !is_changed)
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
