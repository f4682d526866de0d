//! Drone.

use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

/// The builds that are numbered when their commit is pushed. One that promotes another has a number of its own, and the old
/// commit.
const NUMBERED_BY_AGE: &[&str] = &["push", "tag", "pull_request", "cron"];

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    if !environment.is("DRONE", "true") {
        return None;
    }
    // On pull requests DRONE_BRANCH is the branch that it is for, and DRONE_SOURCE_BRANCH may be a fork's.
    let request = environment.get("DRONE_COMMIT_REF").filter(|_| environment.has("DRONE_PULL_REQUEST"));
    let number = environment.number("DRONE_BUILD_NUMBER");
    let is_by_age = environment.is_unset_or("DRONE_BUILD_EVENT", NUMBERED_BY_AGE)
        && environment.is_unset_or("DRONE_BUILD_PARENT", &["0"]);
    Some(CiRun {
        ref_name: request.or_else(|| environment.first(&["DRONE_TAG", "DRONE_BRANCH", "DRONE_COMMIT_BRANCH"])),
        commit: environment.first(&["DRONE_COMMIT_SHA", "DRONE_COMMIT"]),
        message: environment.get("DRONE_COMMIT_MESSAGE"),
        // A push is triggered by "@hook", which is nobody.
        actor: environment
            .get("DRONE_BUILD_TRIGGER")
            .filter(|trigger| !trigger.starts_with('@'))
            .or_else(|| environment.get("DRONE_COMMIT_AUTHOR")),
        url: environment.get("DRONE_BUILD_LINK"),
        order: number.filter(|_| is_by_age),
        // A build that is started again has a number of its own.
        identity: environment.identity(
            System::Drone,
            &["DRONE_BUILD_NUMBER"],
            &["DRONE_SYSTEM_HOST", "DRONE_REPO", "DRONE_STAGE_NAME", "DRONE_STAGE_NUMBER", "DRONE_STEP_NAME"],
        ),
        ..CiRun::of(System::Drone)
    })
}
