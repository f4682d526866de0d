//! CircleCI.

use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    environment.is("CIRCLECI", "true").then(|| CiRun {
        // A pull request of a fork is called `pull/17` here.
        ref_name: environment.first(&["CIRCLE_TAG", "CIRCLE_BRANCH"]),
        commit: environment.get("CIRCLE_SHA1"),
        actor: environment.first(&["CIRCLE_USERNAME", "CIRCLE_PR_USERNAME"]),
        url: environment.get("CIRCLE_BUILD_URL"),
        // CIRCLE_BUILD_NUM is given when a job starts, so a slow old pipeline has the higher one. The pipeline's own number is
        // no variable: the configuration passes it as `--order << pipeline.number >>`.
        order: None,
        identity: environment.identity(
            System::CircleCi,
            &["CIRCLE_BUILD_NUM"],
            &["CIRCLE_PROJECT_USERNAME", "CIRCLE_PROJECT_REPONAME", "CIRCLE_WORKFLOW_ID", "CIRCLE_NODE_INDEX"],
        ),
        ..CiRun::of(System::CircleCi)
    })
}
