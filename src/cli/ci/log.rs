//! How a CI's log shows structure: sections that fold, and errors that the system lists beside the job. Each system's syntax
//! is in the file that detects the system.

use jiff::Timestamp;

/// A part of the log that folds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its place among the sections of this process, from 1.
    pub number: u32,
    /// The line that stays visible while the section is folded, cleaned.
    pub title: String,
    /// When it began.
    pub began_at: Timestamp,
}

/// The log syntax of one CI system. Each result is a whole line; each text is cleaned and has one line.
pub trait LogWords: Sync {
    /// Whether the system reads this syntax only on standard output.
    fn wants_standard_output(&self) -> bool {
        false
    }

    /// Begins a section.
    fn begin(&self, section: &Section) -> String;

    /// Ends a section; `None` where the next one does that.
    fn end(&self, section: &Section, at: Timestamp) -> Option<String>;

    /// Opens the section that was written last, because something went wrong there.
    fn unfold(&self) -> Option<String> {
        None
    }

    /// Whether a line would be read as this syntax.
    fn is_word(&self, _line: &str) -> bool {
        false
    }

    /// An error that the system lists beside the job, and shows in the log too.
    fn error(&self, _title: &str, _message: &str) -> Option<String> {
        None
    }

    /// A notice, in the same way.
    fn notice(&self, _title: &str, _message: &str) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ci::run::System;

    const HOSTILE: &str = "100 %: a, ]b; ::error::c";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn section(title: &str) -> Section {
        Section { number: 2, title: title.to_owned(), began_at: at(1_560_896_352) }
    }

    fn words(system: System) -> &'static dyn LogWords {
        system.log_words().expect("it has words")
    }

    #[test]
    fn each_system_reads_its_own_words_as_it_documents_them() {
        let told = |system| {
            let (words, section) = (words(system), section("migrate: up"));
            (words.begin(&section), words.end(&section, at(1_560_896_399)))
        };
        let github = ("::group::migrate: up".to_owned(), Some("::endgroup::".to_owned()));
        assert_eq!(told(System::GitHub), github);
        assert_eq!(told(System::Gitea), github);
        assert_eq!(told(System::Forgejo), github);
        assert_eq!(
            told(System::GitLab),
            (
                "\u{1b}[0Ksection_start:1560896352:singletrack_2_migrate_up\r\u{1b}[0Kmigrate: up".to_owned(),
                Some("\u{1b}[0Ksection_end:1560896399:singletrack_2_migrate_up\r\u{1b}[0K".to_owned())
            )
        );
        assert_eq!(told(System::Azure), ("##[group]migrate: up".to_owned(), Some("##[endgroup]".to_owned())));
        assert_eq!(told(System::Buildkite), ("--- migrate: up".to_owned(), None));
        assert_eq!(words(System::Buildkite).unfold().as_deref(), Some("^^^ +++"));
        assert_eq!(
            told(System::TeamCity),
            (
                "##teamcity[blockOpened name='migrate: up']".to_owned(),
                Some("##teamcity[blockClosed name='migrate: up']".to_owned())
            )
        );
        assert!(System::Jenkins.log_words().is_none());
    }

    #[test]
    fn texts_are_escaped_as_each_runner_reads_them() {
        let words_of = |system| words(system).error(HOSTILE, HOSTILE);
        assert_eq!(
            words_of(System::GitHub).as_deref(),
            Some("::error title=100 %25%3A a%2C ]b; %3A%3Aerror%3A%3Ac::100 %25: a, ]b; ::error::c")
        );
        assert_eq!(words(System::GitHub).begin(&section(HOSTILE)), "::group::100 %25: a, ]b; ::error::c");
        assert_eq!(words(System::GitHub).notice("a", "b").as_deref(), Some("::notice title=a::b"));
        assert_eq!(
            words_of(System::Azure).as_deref(),
            Some("##vso[task.logissue type=error]100 %AZP25: a, ]b; ::error::c (100 %AZP25: a, ]b; ::error::c)")
        );
        assert_eq!(words_of(System::GitLab), None);
        assert_eq!(
            words(System::TeamCity).error("a", "it's [100 %] | \u{fc}\n\r\u{1f680}").as_deref(),
            Some("##teamcity[message text='it|'s |[100 %|] || |0x00fc|n|r|0xd83d|0xde80 (a)' status='ERROR']")
        );
        let name = words(System::GitLab).begin(&section("\u{fc}ber :[collapsed=true]"));
        assert!(name.contains(":singletrack_2__ber_collapsed_true_\r"), "{name:?}");
    }
}
