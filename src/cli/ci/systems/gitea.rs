//! Gitea Actions and Forgejo Actions: they set GitHub's variables as well.

use super::github;
use crate::cli::ci::{
    environment::Environment,
    run::{CiRun, System},
};

pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    // Forgejo's runner sets both.
    let system = if environment.is("FORGEJO_ACTIONS", "true") {
        System::Forgejo
    } else if environment.is("GITEA_ACTIONS", "true") {
        System::Gitea
    } else {
        return None;
    };
    // The page of a run is found by the run's number there, not by its id.
    let page = ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_NUMBER"].map(|name| environment.get(name));
    let url = match page {
        [Some(server), Some(repository), Some(run)] => {
            Some(format!("{}/{repository}/actions/runs/{run}", server.trim_end_matches('/')))
        }
        _ => None,
    };
    // No identity: up to Gitea 1.24 a run that is repeated says again that it is attempt 1, and no variable tells the version.
    Some(CiRun { url, ..github::common(environment, system) })
}
