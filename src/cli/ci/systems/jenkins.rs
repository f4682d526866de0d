//! Jenkins. JENKINS_URL is set only where the server knows its own address.

use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    environment.get("BUILD_NUMBER")?;
    let is_tagged = environment.get("BUILD_TAG").is_some_and(|tag| tag.starts_with("jenkins-"));
    if !is_tagged && !environment.has("JENKINS_URL") && !environment.has("JENKINS_HOME") {
        return None;
    }
    // In a multibranch project the branch is BRANCH_NAME, and a pull request is called `PR-17` there; CHANGE_BRANCH may be a
    // fork's.
    let branch = environment.first(&["TAG_NAME", "BRANCH_NAME", "GIT_BRANCH"]);
    // Only in a multibranch project is a build made for each push. Elsewhere the number may tell when another job ended.
    let number = environment.number("BUILD_NUMBER").filter(|_| environment.has("BRANCH_NAME"));
    Some(CiRun {
        ref_name: branch.map(|name| name.strip_prefix("origin/").map(str::to_owned).unwrap_or(name)),
        commit: environment.get("GIT_COMMIT"),
        actor: environment.first(&["BUILD_USER_ID", "BUILD_USER", "CHANGE_AUTHOR"]),
        url: environment.first(&["BUILD_URL", "RUN_DISPLAY_URL"]),
        order: number,
        // A build that is repeated has a number of its own; parallel stages share it. Without the server's address two
        // servers' builds could be taken for one.
        identity: environment.identity(System::Jenkins, &["BUILD_NUMBER", "JENKINS_URL", "JOB_NAME"], &["STAGE_NAME"]),
        ..CiRun::of(System::Jenkins)
    })
}
