//! Bitbucket Pipelines.

use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    environment.get("BITBUCKET_BUILD_NUMBER")?;
    let page = ["BITBUCKET_REPO_FULL_NAME", "BITBUCKET_BUILD_NUMBER"].map(|name| environment.get(name));
    let url = match page {
        [Some(repository), Some(build)] => {
            Some(format!("https://bitbucket.org/{repository}/pipelines/results/{build}"))
        }
        _ => None,
    };
    Some(CiRun {
        // Pull requests of forks run in the fork, if at all.
        ref_name: environment.first(&["BITBUCKET_TAG", "BITBUCKET_BRANCH"]),
        commit: environment.get("BITBUCKET_COMMIT"),
        // Bitbucket names nobody; this id can at least be looked up.
        actor: environment.get("BITBUCKET_STEP_TRIGGERER_UUID"),
        url,
        // A pipeline is numbered when its commit is pushed; a step that is started later, or again, keeps the number.
        order: environment.number("BITBUCKET_BUILD_NUMBER"),
        identity: environment.identity(
            System::Bitbucket,
            &["BITBUCKET_BUILD_NUMBER", "BITBUCKET_STEP_UUID", "BITBUCKET_STEP_RUN_NUMBER"],
            &["BITBUCKET_REPO_FULL_NAME", "BITBUCKET_PARALLEL_STEP"],
        ),
        ..CiRun::of(System::Bitbucket)
    })
}
