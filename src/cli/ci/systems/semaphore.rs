//! Semaphore.

use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    if !environment.is("SEMAPHORE", "true") {
        return None;
    }
    // On pull requests SEMAPHORE_GIT_BRANCH is the branch that it is for, and SEMAPHORE_GIT_PR_BRANCH may be a fork's.
    let request =
        environment.get("SEMAPHORE_GIT_REF").filter(|_| environment.is("SEMAPHORE_GIT_REF_TYPE", "pull-request"));
    let page = ["SEMAPHORE_ORGANIZATION_URL", "SEMAPHORE_WORKFLOW_ID"].map(|name| environment.get(name));
    let url = match page {
        [Some(organization), Some(workflow)] => {
            Some(format!("{}/workflows/{workflow}", organization.trim_end_matches('/')))
        }
        _ => None,
    };
    // A workflow is numbered when its commit is pushed, and a promotion is part of it. One that runs again has a number of its
    // own, and the old commit.
    let number = environment.number("SEMAPHORE_WORKFLOW_NUMBER");
    let is_by_age = environment.is_unset_or("SEMAPHORE_WORKFLOW_RERUN", &["false"])
        && !environment.is("SEMAPHORE_WORKFLOW_TRIGGERED_BY_API", "true");
    Some(CiRun {
        ref_name: request.or_else(|| environment.first(&["SEMAPHORE_GIT_TAG_NAME", "SEMAPHORE_GIT_BRANCH"])),
        commit: environment.get("SEMAPHORE_GIT_SHA"),
        actor: environment.first(&[
            "SEMAPHORE_PIPELINE_PROMOTED_BY",
            "SEMAPHORE_WORKFLOW_TRIGGERED_BY",
            "SEMAPHORE_GIT_COMMITTER",
        ]),
        url,
        order: number.filter(|_| is_by_age),
        // A job that is repeated, or one of several in parallel, has its own id.
        identity: environment.identity(System::Semaphore, &["SEMAPHORE_JOB_ID"], &["SEMAPHORE_ORGANIZATION_URL"]),
        ..CiRun::of(System::Semaphore)
    })
}
