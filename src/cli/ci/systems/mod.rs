//! The CI systems, one file each. A new system is a file and a line in `detect`.

mod azure;
mod bitbucket;
mod buildkite;
mod circleci;
mod codebuild;
mod drone;
mod gitea;
pub(super) mod github;
pub(super) mod gitlab;
mod jenkins;
mod semaphore;
mod teamcity;
mod travis;
mod woodpecker;

use super::{
    environment::Environment,
    files::Files,
    log::LogWords,
    run::{CiRun, System},
};

impl Environment<'_> {
    /// The CI system of this process.
    pub fn detect(&self) -> Option<CiRun> {
        detect(self).map(CiRun::cleaned)
    }

    /// Whether this looks like any CI system: the output is read later, and nobody is at the keyboard.
    pub fn is_ci(&self) -> bool {
        self.get("CI").is_some_and(|value| !value.eq_ignore_ascii_case("false")) || self.detect().is_some()
    }

    /// The files through which the CI reads outputs and summaries.
    pub fn files(&self) -> Files {
        github::files(self)
    }
}

impl System {
    /// The log syntax of this system; `None` if it has none.
    pub fn log_words(self) -> Option<&'static dyn LogWords> {
        match self {
            System::GitHub | System::Gitea | System::Forgejo => Some(&github::GitHubWords),
            System::GitLab => Some(&gitlab::GitLabWords),
            System::Azure => Some(&azure::AzureWords),
            System::Buildkite => Some(&buildkite::BuildkiteWords),
            System::TeamCity => Some(&teamcity::TeamCityWords),
            System::CircleCi
            | System::Bitbucket
            | System::Woodpecker
            | System::Drone
            | System::Semaphore
            | System::CodeBuild
            | System::Travis
            | System::Jenkins => None,
        }
    }
}

/// The system that we run in. Several of them set another one's variables too, for the sake of existing scripts; such a system
/// stands before the one that it resembles.
fn detect(environment: &Environment<'_>) -> Option<CiRun> {
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
