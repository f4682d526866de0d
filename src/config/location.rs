//! Where deployments are kept, as one word on the command line or in the file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::postgres::PostgresUrl;

/// Where deployments are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// A database file on this machine, `sqlite:singletrack.db`; a relative path starts at the working directory.
    Sqlite(PathBuf),
    /// A PostgreSQL database, `postgres://…`, which several servers may share.
    Postgres(Box<PostgresUrl>),
    /// In memory, `memory:`: for trials, gone when the server ends.
    Memory,
}

impl FromStr for StoreLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A location may carry a password, so no message here repeats it.
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "sqlite" => match &text["sqlite:".len()..] {
                "" => Err("names no file; write for example sqlite:singletrack.db".to_owned()),
                ":memory:" => {
                    Err("names no file; a store in memory is memory:, and a file of that name sqlite:./:memory:"
                        .to_owned())
                }
                file if file.contains('\0') => Err("the file's name contains a NUL character".to_owned()),
                file => Ok(StoreLocation::Sqlite(PathBuf::from(file.strip_prefix("//").unwrap_or(file)))),
            },
            "memory" if text == "memory:" => Ok(StoreLocation::Memory),
            "memory" => Err("write memory: with nothing after it".to_owned()),
            "postgres" | "postgresql" => Ok(StoreLocation::Postgres(Box::new(text.parse()?))),
            _ => Err("must begin with sqlite:, postgres: or memory:, such as sqlite:singletrack.db".to_owned()),
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreLocation::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
            StoreLocation::Postgres(url) => url.fmt(f),
            StoreLocation::Memory => f.write_str("memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_scheme_and_a_file() {
        assert_eq!("sqlite:a/b.db".parse(), Ok(StoreLocation::Sqlite("a/b.db".into())));
        assert_eq!("sqlite:///var/lib/s.db".parse(), Ok(StoreLocation::Sqlite("/var/lib/s.db".into())));
        assert_eq!("memory:".parse(), Ok(StoreLocation::Memory));
        for text in ["", "s.db", "sqlite:", "memory:x", "mysql://h/d", "sqlite::memory:"] {
            assert!(text.parse::<StoreLocation>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_refused_location_does_not_repeat_its_password() {
        let error =
            "postgres://user:hunter2@db/singletrack?sslmode=x".parse::<StoreLocation>().expect_err("it is wrong");
        assert!(error.contains("sslmode") && !error.contains("hunter2"), "{error}");
        let location: StoreLocation = "postgres://user:hunter2@db/singletrack".parse().unwrap();
        assert!(!format!("{location} {location:?}").contains("hunter2"), "{location:?}");
    }
}
