//! TeamCity.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::cli::ci::{
    environment::Environment,
    log::{LogWords, Section},
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    // No order: a build is numbered when it starts, in a format of one's own. No identity: the number need not be each
    // build's own, and the build's id is no variable. Neither are branch and user.
    environment.get("TEAMCITY_VERSION").map(|_| CiRun {
        commit: environment.get("BUILD_VCS_NUMBER"),
        url: environment.get("BUILD_URL"),
        ..CiRun::of(System::TeamCity)
    })
}

/// Service messages.
pub(in super::super) struct TeamCityWords;

impl LogWords for TeamCityWords {
    fn wants_standard_output(&self) -> bool {
        true
    }

    fn begin(&self, section: &Section) -> String {
        format!("##teamcity[blockOpened name='{}']", value(&section.title))
    }

    fn end(&self, section: &Section, _at: Timestamp) -> Option<String> {
        Some(format!("##teamcity[blockClosed name='{}']", value(&section.title)))
    }

    fn error(&self, title: &str, message: &str) -> Option<String> {
        // Not `buildProblem`: that fails the build even where the step catches our exit code, such as to try again.
        let text = value(&format!("{message} ({title})"));
        Some(format!("##teamcity[message text='{text}' status='ERROR']"))
    }
}

/// A value of a service message. TeamCity counts in UTF-16.
fn value(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("|n"),
            '\r' => escaped.push_str("|r"),
            '\'' | '|' | '[' | ']' => escaped.extend(['|', c]),
            ' '..='~' => escaped.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(escaped, "|0x{unit:04x}");
                }
            }
        }
    }
    escaped
}
