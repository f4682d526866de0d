//! GitLab CI.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::foreign_branch;
use crate::cli::ci::{
    environment::Environment,
    facts::JobFacts,
    log::{LogWords, Section},
    run::{CiRun, System},
};

/// The pipelines that are numbered when their commit is pushed, or when somebody asks for one of the newest commit. Others
/// are numbered when the pipeline that triggers them gets so far.
const NUMBERED_BY_AGE: &[&str] = &["push", "web", "schedule", "merge_request_event"];

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    if !environment.is("GITLAB_CI", "true") {
        return None;
    }
    let number = environment.number("CI_PIPELINE_IID");
    Some(CiRun {
        ref_name: ref_name(environment),
        commit: environment.get("CI_COMMIT_SHA"),
        message: environment.get("CI_COMMIT_TITLE"),
        actor: environment.first(&["GITLAB_USER_LOGIN", "GITLAB_USER_NAME"]),
        url: environment.first(&["CI_JOB_URL", "CI_PIPELINE_URL"]),
        order: number.filter(|_| environment.is_unset_or("CI_PIPELINE_SOURCE", NUMBERED_BY_AGE)),
        // A job that is repeated, or one of several in parallel, has its own id.
        identity: environment.identity(System::GitLab, &["CI_JOB_ID"], &["CI_SERVER_URL", "CI_PROJECT_ID"]),
        ..CiRun::of(System::GitLab)
    })
}

fn ref_name(environment: &Environment<'_>) -> Option<String> {
    let Some(branch) = environment.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") else {
        return environment.get("CI_COMMIT_REF_NAME");
    };
    // The commit of a merged result is on no branch: it has only the request's ref.
    let merge = environment.get("CI_MERGE_REQUEST_REF_PATH");
    if environment.is("CI_MERGE_REQUEST_EVENT_TYPE", "merged_result")
        || environment.is("CI_MERGE_REQUEST_EVENT_TYPE", "merge_train")
    {
        return merge;
    }
    match ["CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "CI_MERGE_REQUEST_PROJECT_PATH"].map(|name| environment.get(name)) {
        [Some(source), Some(target)] if source == target => Some(branch),
        [Some(source), _] => Some(foreign_branch(&source, &branch)),
        [None, _] => merge,
    }
}

/// Collapsible sections. A section's name has letters, digits, `_`, `.` and `-`, and no other section of the job has it.
pub(in super::super) struct GitLabWords;

impl LogWords for GitLabWords {
    fn begin(&self, section: &Section) -> String {
        let at = section.began_at.as_second();
        format!("\u{1b}[0Ksection_start:{at}:{}\r\u{1b}[0K{}", section_name(section), section.title)
    }

    fn end(&self, section: &Section, at: Timestamp) -> Option<String> {
        Some(format!("\u{1b}[0Ksection_end:{}:{}\r\u{1b}[0K", at.as_second(), section_name(section)))
    }
}

fn section_name(section: &Section) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let mut name: String = section.title.chars().take(40).map(|c| if is_plain(c) { c } else { '_' }).collect();
    while let Some(shorter) = name.contains("__").then(|| name.replace("__", "_")) {
        name = shorter;
    }
    format!("singletrack_{}_{name}", section.number)
}

/// The largest dotenv report that GitLab takes, in bytes, unless its administrator changed that.
const DOTENV_BYTES_LIMIT: usize = 5 * 1024;
/// The most variables of a dotenv report, likewise.
const DOTENV_COUNT_LIMIT: usize = 20;

/// A dotenv report, and the names of the outputs that do not fit. Its variables become those of later jobs, so none has a
/// name that others chose whole. A value is what stands behind `=`, without quotes: it has no blanks and no line ends.
pub(in super::super) fn dotenv(facts: &JobFacts) -> (String, Vec<String>) {
    let (mut text, mut left_out) = (String::new(), Vec::new());
    let mut taken = BTreeSet::new();
    let own = facts.own.iter().map(|(name, value)| (*name, variable_name("DEPLOYMENT", name), value));
    let outputs =
        facts.outputs.iter().map(|(name, value)| (name.as_str(), variable_name("DEPLOYMENT_OUTPUT", name), value));
    for (name, variable, value) in own.chain(outputs) {
        let line = format!("{variable}={value}\n");
        let fits = taken.len() < DOTENV_COUNT_LIMIT && text.len() + line.len() <= DOTENV_BYTES_LIMIT;
        if !fits || value.contains(char::is_whitespace) || taken.contains(&variable) {
            left_out.push(name.to_owned());
            continue;
        }
        taken.insert(variable);
        text.push_str(&line);
    }
    (text, left_out)
}

/// `DEPLOYMENT_OUTPUT_MY_URL`: letters, digits and `_`.
fn variable_name(prefix: &str, name: &str) -> String {
    let cleaned: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("{prefix}_{cleaned}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(outputs: &[(&str, &str)]) -> JobFacts {
        let outputs = outputs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        JobFacts { own: vec![("superseded-by", "1".to_owned())], outputs: outputs.collect() }
    }

    #[test]
    fn a_report_has_what_gitlab_takes_and_no_variable_that_others_chose() {
        let (text, left_out) =
            dotenv(&facts(&[("my.url", "https://a?b=c#d"), ("PATH", "/evil"), ("a b", "x y"), ("c", "1\nd=2")]));
        assert_eq!(
            text,
            "DEPLOYMENT_SUPERSEDED_BY=1\nDEPLOYMENT_OUTPUT_PATH=/evil\nDEPLOYMENT_OUTPUT_MY_URL=https://a?b=c#d\n"
        );
        assert_eq!(left_out, ["a b", "c"]);
        let (text, left_out) = dotenv(&facts(&[("a.b", "1"), ("a-b", "2")]));
        assert_eq!((text.lines().count(), left_out.len()), (2, 1), "no variable stands there twice");
    }

    #[test]
    fn a_report_is_never_larger_than_gitlab_takes() {
        let names: Vec<_> = (0..30).map(|number| format!("n{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
        let (text, left_out) = dotenv(&facts(&many));
        assert_eq!((text.lines().count(), left_out.len()), (DOTENV_COUNT_LIMIT, 11));
        let long = "x".repeat(4_000);
        let (text, left_out) = dotenv(&facts(&[("a", &long), ("b", &long), ("c", "short")]));
        assert!(text.len() <= DOTENV_BYTES_LIMIT && text.ends_with("DEPLOYMENT_OUTPUT_C=short\n"));
        assert_eq!(left_out, ["b"]);
    }
}
