//! GitHub Actions, and what Gitea and Forgejo have of it.

use std::{collections::BTreeSet, path::PathBuf};

use jiff::Timestamp;

use crate::cli::ci::{
    environment::Environment,
    facts::JobFacts,
    files::Files,
    log::{LogWords, Section},
    run::{CiRun, System},
};

/// The events whose runs are numbered when their commit is pushed, or when somebody asks for a run of the newest commit.
/// A `workflow_run`, for one, is numbered in the order in which other workflows end.
const NUMBERED_BY_AGE: &[&str] =
    &["push", "pull_request", "pull_request_target", "merge_group", "workflow_dispatch", "schedule"];

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    if !environment.is("GITHUB_ACTIONS", "true") {
        return None;
    }
    let run = ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"].map(|name| environment.get(name));
    let url = match run {
        [Some(server), Some(repository), Some(run)] => {
            let attempt = environment.get("GITHUB_RUN_ATTEMPT").filter(|attempt| attempt != "1");
            let attempt = attempt.map(|attempt| format!("/attempts/{attempt}")).unwrap_or_default();
            Some(format!("{server}/{repository}/actions/runs/{run}{attempt}"))
        }
        _ => None,
    };
    // GITHUB_JOB is the same for every job of a matrix. The runner's tracking id is each job's own, but does not
    // reach containers; there the runner's name stands in, which no two jobs share at one time.
    let runner = if environment.has("RUNNER_TRACKING_ID") { "RUNNER_TRACKING_ID" } else { "RUNNER_NAME" };
    let identity = environment.identity(
        System::GitHub,
        &["GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT"],
        &["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_JOB", runner],
    );
    // `act` runs workflows on a developer's machine, and calls each run run 1, attempt 1.
    let identity = if environment.is("ACT", "true") { Vec::new() } else { identity };
    Some(CiRun { url, identity, ..common(environment, System::GitHub) })
}

/// What the three have in common: everything but the page's address and the identity.
pub(super) fn common(environment: &Environment<'_>, system: System) -> CiRun {
    // On pull requests GITHUB_SHA is the commit that merges it, GITHUB_REF its ref, and GITHUB_REF_NAME `17/merge`. GITHUB_HEAD_REF
    // is the branch's bare name, in whichever fork it is.
    let request = environment.get("GITHUB_REF").filter(|name| name.starts_with("refs/pull/"));
    let name = environment.get("GITHUB_REF_NAME").map(|name| {
        let is_request = name.strip_suffix("/merge").is_some_and(|number| number.parse::<u64>().is_ok());
        if is_request { format!("refs/pull/{name}") } else { name }
    });
    let number = environment.number("GITHUB_RUN_NUMBER");
    CiRun {
        ref_name: request.or(name),
        commit: environment.get("GITHUB_SHA"),
        actor: environment.first(&["GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR"]),
        order: number.filter(|_| environment.is_unset_or("GITHUB_EVENT_NAME", NUMBERED_BY_AGE)),
        ..CiRun::of(system)
    }
}

/// Workflow commands, as the runner documents them: one a line, on either stream.
pub(in super::super) struct GitHubWords;

impl LogWords for GitHubWords {
    fn begin(&self, section: &Section) -> String {
        format!("::group::{}", data(&section.title))
    }

    fn end(&self, _section: &Section, _at: Timestamp) -> Option<String> {
        Some("::endgroup::".to_owned())
    }

    fn error(&self, title: &str, message: &str) -> Option<String> {
        Some(format!("::error title={}::{}", property(title), data(message)))
    }

    fn notice(&self, title: &str, message: &str) -> Option<String> {
        Some(format!("::notice title={}::{}", property(title), data(message)))
    }
}

/// What follows the second `::` of a command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of a property of a command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The largest summary of a step that is shown, in bytes.
pub(in super::super) const SUMMARY_LIMIT: u64 = 1024 * 1024;
/// The largest file of outputs that is read, in bytes.
pub(in super::super) const OUTPUTS_LIMIT: u64 = 1024 * 1024;

/// Where a step's outputs and summary are written.
pub(in super::super) fn files(environment: &Environment<'_>) -> Files {
    let path = |name: &str| environment.get(name).map(PathBuf::from);
    if !environment.is("GITHUB_ACTIONS", "true") {
        return Files::default();
    }
    Files { outputs: path("GITHUB_OUTPUT"), summary: path("GITHUB_STEP_SUMMARY") }
}

/// Outputs of a step, and the names of the outputs that do not fit. `delimiter` must be unknown to whoever wrote a value:
/// with it, a value could end early and go on with outputs of its own.
pub(in super::super) fn outputs(facts: &JobFacts, delimiter: &str) -> (String, Vec<String>) {
    let (mut text, mut left_out) = (String::new(), Vec::new());
    // Names are the same in any case.
    let mut taken = BTreeSet::new();
    let own = facts.own.iter().map(|(name, value)| (*name, value));
    for (name, value) in own.chain(facts.outputs.iter().map(|(name, value)| (name.as_str(), value))) {
        let cleaned = output_name(name);
        if value.contains(delimiter) || !taken.insert(cleaned.to_lowercase()) {
            left_out.push(name.to_owned());
            continue;
        }
        text.push_str(&format!("{cleaned}<<{delimiter}\n{value}\n{delimiter}\n"));
    }
    (text, left_out)
}

/// A name that an output can have: letters, digits, `-` and `_`, and no digit or `-` in front.
fn output_name(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let cleaned: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    if cleaned.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') { cleaned } else { format!("_{cleaned}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_can_neither_end_early_nor_take_another_name() {
        let outputs_of = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            outputs(&JobFacts { own: vec![("id", "1".to_owned())], outputs: pairs.collect() }, "END")
        };
        let (text, left_out) = outputs_of(&[("a b", "two\nlines"), ("9=x", "y\nid=2")]);
        assert_eq!(text, "id<<END\n1\nEND\n_9_x<<END\ny\nid=2\nEND\na_b<<END\ntwo\nlines\nEND\n");
        assert!(left_out.is_empty());
        let (text, left_out) = outputs_of(&[("ID", "2"), ("x", "a\nEND\nid<<b")]);
        assert_eq!(text, "id<<END\n1\nEND\n");
        assert_eq!(left_out, ["ID", "x"]);
    }
}
