//! A run of a CI job, as its system describes it.
//!
//! Detected values describe a deployment and must never prevent it, so they are cleaned and cut here to the server's
//! limits. Only values of flags are refused.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::{
    cli::screen::clean::clean,
    model::{ORDER_LIMIT, bounds},
};

/// How many characters of a commit's message are shown: its title.
const TITLE_LIMIT: usize = 500;

/// The CI systems that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each name says what it is")]
pub enum System {
    GitHub,
    Gitea,
    Forgejo,
    GitLab,
    Buildkite,
    CircleCi,
    Azure,
    Bitbucket,
    Woodpecker,
    Drone,
    TeamCity,
    Semaphore,
    CodeBuild,
    Travis,
    Jenkins,
}

impl System {
    /// The system's own name for itself.
    pub fn name(self) -> &'static str {
        match self {
            System::GitHub => "GitHub Actions",
            System::Gitea => "Gitea Actions",
            System::Forgejo => "Forgejo Actions",
            System::GitLab => "GitLab CI",
            System::Buildkite => "Buildkite",
            System::CircleCi => "CircleCI",
            System::Azure => "Azure Pipelines",
            System::Bitbucket => "Bitbucket Pipelines",
            System::Woodpecker => "Woodpecker",
            System::Drone => "Drone",
            System::TeamCity => "TeamCity",
            System::Semaphore => "Semaphore",
            System::CodeBuild => "AWS CodeBuild",
            System::Travis => "Travis CI",
            System::Jenkins => "Jenkins",
        }
    }
}

/// A run of a CI job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CiRun {
    /// The system.
    pub system: System,
    /// The branch or tag to which the commit belongs. A branch of somebody's fork never stands here by its bare name, since it
    /// may be called `main`.
    pub ref_name: Option<String>,
    /// The commit.
    pub commit: Option<String>,
    /// A line about the commit.
    pub message: Option<String>,
    /// Who started the run.
    pub actor: Option<String>,
    /// The job's page, or the run's.
    pub url: Option<String>,
    /// The build number, only where it tells the age of the commit: it was given when the commit was pushed, and a run that is
    /// repeated keeps it.
    pub order: Option<u64>,
    /// Tells this attempt of this job from every other attempt; empty where the system does not say enough for that.
    pub identity: Vec<String>,
}

impl CiRun {
    /// A run of which only the system is known.
    pub fn of(system: System) -> Self {
        CiRun {
            system,
            ref_name: None,
            commit: None,
            message: None,
            actor: None,
            url: None,
            order: None,
            identity: Vec::new(),
        }
    }

    /// The run with cleaned values: without control characters, and no longer than a line.
    pub(super) fn cleaned(self) -> Self {
        let is_address = |url: &String| {
            (url.starts_with("https://") || url.starts_with("http://"))
                && bounds::fits(url, bounds::URL)
                && !url.chars().any(char::is_control)
        };
        CiRun {
            ref_name: self.ref_name.and_then(|text| line(text, bounds::REF)),
            commit: self.commit.and_then(|text| line(text, bounds::COMMIT)),
            message: self.message.and_then(|text| line(text, TITLE_LIMIT)),
            actor: self.actor.and_then(|text| line(text, bounds::ACTOR)),
            url: self.url.filter(is_address),
            order: self.order.filter(|order| *order <= ORDER_LIMIT),
            ..self
        }
    }

    /// An idempotency key for what this attempt of this job asks for: the same where a step is repeated within the attempt,
    /// another for a new attempt, another job of a matrix, another project or another request. `None` where the system does
    /// not say enough about itself.
    pub fn key(&self, project: &str, request: &[u8]) -> Option<String> {
        if self.identity.is_empty() {
            return None;
        }
        let mut digest = Sha256::new();
        // Each part with its length, so that no two lists of parts read the same.
        for part in self.identity.iter().map(String::as_bytes).chain([project.as_bytes(), request]) {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
        Some(format!("ci-{}", HEXLOWER.encode(&digest.finalize())))
    }
}

/// The first line of a text that is not empty, cleaned, and cut to so many characters.
pub(super) fn line(text: String, limit: usize) -> Option<String> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let cleaned = clean(first).replace('\t', " ").trim().to_owned();
    if cleaned.is_empty() {
        return None;
    }
    Some(if bounds::fits(&cleaned, limit) { cleaned } else { bounds::cut(cleaned, limit - 1) + "…" })
}
