//! `[page]`: how people sign in to the page. See decision 0089.

use std::time::Duration;

use super::reader::ConfigTable;

/// How long a session lasts when the configuration is silent: a working day, and the hours around it.
const DEFAULT_SESSION: Duration = Duration::from_secs(12 * 60 * 60);
/// A longer session would outlive the person's job; a token is for that.
const SESSION_LIMIT: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// How people sign in to the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSettings {
    /// How long a session lasts at most.
    pub session: Duration,
}

impl Default for PageSettings {
    fn default() -> Self {
        PageSettings { session: DEFAULT_SESSION }
    }
}

pub(super) fn read(mut section: ConfigTable<'_>) -> PageSettings {
    let session = section.parsed("session", |text| match super::parse_duration(text)? {
        session if session < Duration::from_secs(1) => Err("must be a second at least".to_owned()),
        session if session > SESSION_LIMIT => Err("must be 31d at most".to_owned()),
        session => Ok(session),
    });
    section.finish();
    PageSettings { session: session.unwrap_or(DEFAULT_SESSION) }
}
