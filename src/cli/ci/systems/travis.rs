//! Travis CI.

use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    if !environment.is("TRAVIS", "true") {
        return None;
    }
    // On pull requests TRAVIS_COMMIT is the commit that merges it, and TRAVIS_BRANCH the branch that it is for.
    let request = environment.get("TRAVIS_PULL_REQUEST").filter(|number| number != "false");
    let request = request.map(|number| format!("refs/pull/{number}/merge"));
    let number = environment.number("TRAVIS_BUILD_NUMBER");
    Some(CiRun {
        ref_name: request.or_else(|| environment.first(&["TRAVIS_TAG", "TRAVIS_BRANCH"])),
        commit: environment.get("TRAVIS_COMMIT"),
        message: environment.get("TRAVIS_COMMIT_MESSAGE"),
        url: environment.first(&["TRAVIS_JOB_WEB_URL", "TRAVIS_BUILD_WEB_URL"]),
        // A build is numbered when its commit is pushed, and keeps the number when it runs again.
        order: number.filter(|_| environment.is_unset_or("TRAVIS_EVENT_TYPE", &["push", "pull_request", "cron"])),
        // No identity: a job that runs again has the same id, and no variable tells its attempts apart.
        ..CiRun::of(System::Travis)
    })
}
