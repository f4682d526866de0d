//! The CI systems, one file each. A new system is a file and a line in `detect`.

pub(super) mod azure;
mod bitbucket;
pub(super) mod buildkite;
mod circleci;
mod codebuild;
mod drone;
mod gitea;
pub(super) mod github;
pub(super) mod gitlab;
mod jenkins;
mod semaphore;
pub(super) mod teamcity;
mod travis;
mod woodpecker;

use super::{environment::Environment, run::CiRun};

/// The system that we run in. Several of them set another one's variables too, for the sake of existing scripts; such a system
/// stands before the one that it resembles.
pub(super) fn detect(environment: &Environment<'_>) -> Option<CiRun> {
    let systems: [fn(&Environment<'_>) -> Option<CiRun>; 14] = [
        gitea::detect,
        github::detect,
        gitlab::detect,
        buildkite::detect,
        circleci::detect,
        azure::detect,
        bitbucket::detect,
        woodpecker::detect,
        drone::detect,
        teamcity::detect,
        semaphore::detect,
        codebuild::detect,
        travis::detect,
        jenkins::detect,
    ];
    systems.iter().find_map(|detect| detect(environment))
}

/// `refs/heads/main` and `refs/tags/v1` by the names that people use; any other ref whole.
fn short_ref(name: &str) -> String {
    ["refs/heads/", "refs/tags/"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_owned()
}

/// The last two parts of a repository's address, `acme/shop`, in lower case: enough to tell a fork from its origin.
fn repository(address: &str) -> String {
    let address = address.trim_end_matches('/').trim_end_matches(".git");
    let parts: Vec<_> = address.rsplit(['/', ':']).take(2).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/").to_lowercase()
}

/// A branch of a fork, as `mallory:main`.
fn foreign_branch(repository: &str, branch: &str) -> String {
    let owner = repository.rsplit_once('/').map_or(repository, |(owner, _)| owner);
    format!("{owner}:{branch}")
}
