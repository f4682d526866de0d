//! Buildkite.

use jiff::Timestamp;

use super::{foreign_branch, repository};
use crate::cli::ci::{
    environment::Environment,
    log::{LogWords, Section},
    run::{CiRun, System},
};

/// The builds that are numbered when their commit is pushed, or when somebody asks for one. A build that another build
/// triggers is numbered when that one gets so far.
const NUMBERED_BY_AGE: &[&str] = &["webhook", "ui", "schedule"];

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    if !environment.is("BUILDKITE", "true") {
        return None;
    }
    let job = environment.get("BUILDKITE_JOB_ID").map(|job| format!("#{job}")).unwrap_or_default();
    let number = environment.number("BUILDKITE_BUILD_NUMBER");
    // A build that is made again from an old one gets a new number, and has the old commit.
    let is_by_age = environment.is_unset_or("BUILDKITE_SOURCE", NUMBERED_BY_AGE)
        && !environment.has("BUILDKITE_REBUILT_FROM_BUILD_ID");
    Some(CiRun {
        ref_name: environment.get("BUILDKITE_TAG").or_else(|| branch(environment)),
        // A build that was made by hand says HEAD until its checkout.
        commit: environment.get("BUILDKITE_COMMIT").filter(|commit| commit != "HEAD"),
        message: environment.get("BUILDKITE_MESSAGE"),
        actor: environment.first(&["BUILDKITE_BUILD_CREATOR", "BUILDKITE_BUILD_AUTHOR", "BUILDKITE_UNBLOCKER"]),
        url: environment.get("BUILDKITE_BUILD_URL").map(|url| format!("{url}{job}")),
        order: number.filter(|_| is_by_age),
        identity: environment.identity(
            System::Buildkite,
            &["BUILDKITE_JOB_ID"],
            &["BUILDKITE_BUILD_ID", "BUILDKITE_RETRY_COUNT"],
        ),
        ..CiRun::of(System::Buildkite)
    })
}

/// The branch; one of a fork with the fork's owner, which Buildkite puts before it only if it is set up to.
fn branch(environment: &Environment<'_>) -> Option<String> {
    let branch = environment.get("BUILDKITE_BRANCH")?;
    let fork = environment
        .get("BUILDKITE_PULL_REQUEST_REPO")
        .filter(|_| !environment.is_unset_or("BUILDKITE_PULL_REQUEST", &["false"]))
        .map(|fork| repository(&fork))
        .filter(|fork| environment.get("BUILDKITE_REPO").is_none_or(|own| repository(&own) != *fork));
    match fork {
        Some(fork) if !branch.contains(':') => Some(foreign_branch(&fork, &branch)),
        Some(_) | None => Some(branch),
    }
}

/// Groups of the log: `---` begins one that is folded, `^^^ +++` opens the last one.
pub(in super::super) struct BuildkiteWords;

impl LogWords for BuildkiteWords {
    fn begin(&self, section: &Section) -> String {
        format!("--- {}", section.title)
    }

    fn end(&self, _section: &Section, _at: Timestamp) -> Option<String> {
        None
    }

    fn is_word(&self, line: &str) -> bool {
        ["---", "+++", "~~~", "^^^"].iter().any(|word| line.trim_start().starts_with(word))
    }

    fn unfold(&self) -> Option<String> {
        Some("^^^ +++".to_owned())
    }
}
