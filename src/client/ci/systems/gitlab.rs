//! GitLab CI.

use jiff::Timestamp;

use super::{
    super::{
        environment::Environment,
        log::{LogWords, Section},
        run::{CiRun, System},
    },
    foreign_branch,
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
        // A job that is repeated, or one of several in parallel, has an id of its own.
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
pub(in super::super) struct Words;

impl LogWords for Words {
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
