//! Woodpecker. Its older versions set Drone's variables, too.

use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

/// The pipelines that are numbered when their commit is pushed, or when somebody asks for one of the newest commit.
const NUMBERED_BY_AGE: &[&str] = &["push", "tag", "pull_request", "cron", "manual"];

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    if !environment.is("CI", "woodpecker") && !environment.is("CI_SYSTEM_NAME", "woodpecker") {
        return None;
    }
    // On pull requests CI_COMMIT_BRANCH is the branch that it is for, and the source branch may be a fork's.
    let request = environment.get("CI_COMMIT_REF").filter(|_| environment.is("CI_PIPELINE_EVENT", "pull_request"));
    let number = environment.number("CI_PIPELINE_NUMBER");
    // A pipeline that is started again gets a new number, and has the old commit.
    let is_by_age = environment.is_unset_or("CI_PIPELINE_EVENT", NUMBERED_BY_AGE)
        && environment.is_unset_or("CI_PIPELINE_PARENT", &["0"]);
    Some(CiRun {
        ref_name: request.or_else(|| environment.first(&["CI_COMMIT_TAG", "CI_COMMIT_BRANCH"])),
        commit: environment.get("CI_COMMIT_SHA"),
        message: environment.get("CI_COMMIT_MESSAGE"),
        actor: environment.first(&["CI_PIPELINE_AUTHOR", "CI_COMMIT_AUTHOR"]),
        url: environment.first(&["CI_STEP_URL", "CI_PIPELINE_URL"]),
        order: number.filter(|_| is_by_age),
        // The workflows of a matrix are numbered.
        identity: environment.identity(
            System::Woodpecker,
            &["CI_PIPELINE_NUMBER"],
            &["CI_SYSTEM_URL", "CI_REPO", "CI_WORKFLOW_NUMBER", "CI_WORKFLOW_NAME", "CI_STEP_NAME"],
        ),
        ..CiRun::of(System::Woodpecker)
    })
}
