//! What the CI that we run in says about itself: a pure function over the environment.
//!
//! The names are those of each system's own documentation of its variables. What a system does not say is left out; a
//! flag always wins over it.

use sha2::{Digest, Sha256};

use crate::model::{bounds, lease::hex};

/// A run of a CI job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiRun {
    /// The system's name.
    pub system: &'static str,
    /// The branch or tag.
    pub ref_name: Option<String>,
    /// The commit.
    pub commit: Option<String>,
    /// A line about the commit.
    pub message: Option<String>,
    /// Who started it.
    pub actor: Option<String>,
    /// The job's page, or the run's.
    pub url: Option<String>,
    /// The build number: grows by one with each run, and a run that is repeated keeps it.
    pub order: Option<u64>,
    /// What tells this attempt of this job from every other; empty when the system does not say enough.
    pub identity: Vec<String>,
}

impl CiRun {
    /// Within the server's limits: nobody typed these texts, so nobody could mend one that is refused.
    fn fitted(mut self) -> Self {
        let fit = |text: &mut Option<String>, limit| {
            let Some(long) = text.take() else { return };
            *text = Some(bounds::cut(long.chars().filter(|c| !c.is_control()).collect(), limit));
        };
        fit(&mut self.ref_name, bounds::REF);
        fit(&mut self.commit, bounds::COMMIT);
        fit(&mut self.message, bounds::MESSAGE);
        fit(&mut self.actor, bounds::ACTOR);
        // A part of an address leads nowhere.
        self.url = self.url.filter(|url| bounds::fits(url, bounds::URL) && !url.chars().any(char::is_control));
        self
    }
}

/// An environment: a variable's value by its name; empty ones count as not set.
pub struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl<'a> Environment<'a> {
    /// The environment that `get` reads.
    pub fn new(get: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Environment(get)
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }

    fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim().parse().ok()
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    /// The values of `names` with their names, as an identity; empty unless the first one is set.
    fn identity(&self, system: &str, names: &[&str]) -> Vec<String> {
        if names.first().is_none_or(|name| self.get(name).is_none()) {
            return Vec::new();
        }
        let values = names.iter().map(|name| format!("{name}={}", self.get(name).unwrap_or_default()));
        std::iter::once(system.to_owned()).chain(values).collect()
    }

    /// Whether this looks like any CI at all: somebody reads the output later, and no person is at the keyboard.
    pub fn is_ci(&self) -> bool {
        self.get("CI").is_some_and(|value| !value.eq_ignore_ascii_case("false")) || self.detect().is_some()
    }

    /// Who uses this machine.
    pub fn user(&self) -> Option<String> {
        self.first(&["USER", "LOGNAME"])
    }

    /// The CI that we run in.
    pub fn detect(&self) -> Option<CiRun> {
        let run = if self.is("GITHUB_ACTIONS", "true") {
            self.github()
        } else if self.is("GITLAB_CI", "true") {
            self.gitlab()
        } else if self.is("BUILDKITE", "true") {
            self.buildkite()
        } else if self.is("CIRCLECI", "true") {
            self.circleci()
        } else if self.is("TF_BUILD", "true") {
            self.azure()
        } else if self.get("BITBUCKET_BUILD_NUMBER").is_some() {
            self.bitbucket()
        } else if self.is("CI", "woodpecker") || self.is("CI_SYSTEM_NAME", "woodpecker") {
            self.woodpecker()
        } else if self.get("JENKINS_URL").is_some() && self.get("BUILD_NUMBER").is_some() {
            self.jenkins()
        } else {
            return None;
        };
        Some(run.fitted())
    }

    fn github(&self) -> CiRun {
        let run = ["GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"].map(|name| self.get(name));
        let url = match run {
            [Some(server), Some(repository), Some(run)] => {
                let attempt = self.get("GITHUB_RUN_ATTEMPT").filter(|attempt| attempt != "1");
                let attempt = attempt.map(|attempt| format!("/attempts/{attempt}")).unwrap_or_default();
                Some(format!("{server}/{repository}/actions/runs/{run}{attempt}"))
            }
            _ => None,
        };
        // GITHUB_JOB is the same for every job of a matrix. The runner's tracking id is each job's own, but does not
        // reach containers; there the runner's name stands in, which no two jobs share at one time.
        let runner = if self.get("RUNNER_TRACKING_ID").is_some() { "RUNNER_TRACKING_ID" } else { "RUNNER_NAME" };
        CiRun {
            system: "GitHub Actions",
            // On pull requests GITHUB_REF_NAME is "17/merge", which says less than the branch.
            ref_name: self.first(&["GITHUB_HEAD_REF", "GITHUB_REF_NAME"]),
            commit: self.get("GITHUB_SHA"),
            message: None,
            actor: self.first(&["GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR"]),
            url,
            order: self.number("GITHUB_RUN_NUMBER"),
            identity: self.identity(
                "github",
                &[
                    "GITHUB_RUN_ID",
                    "GITHUB_SERVER_URL",
                    "GITHUB_REPOSITORY",
                    "GITHUB_RUN_ATTEMPT",
                    "GITHUB_JOB",
                    runner,
                ],
            ),
        }
    }

    fn gitlab(&self) -> CiRun {
        CiRun {
            system: "GitLab CI",
            ref_name: self.first(&["CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_REF_NAME"]),
            commit: self.get("CI_COMMIT_SHA"),
            message: self.get("CI_COMMIT_TITLE"),
            actor: self.first(&["GITLAB_USER_LOGIN", "GITLAB_USER_NAME"]),
            url: self.first(&["CI_JOB_URL", "CI_PIPELINE_URL"]),
            order: self.number("CI_PIPELINE_IID"),
            // A job that is repeated, or one of several in parallel, has an id of its own.
            identity: self.identity("gitlab", &["CI_JOB_ID", "CI_SERVER_URL", "CI_PROJECT_ID"]),
        }
    }

    fn buildkite(&self) -> CiRun {
        let job = self.get("BUILDKITE_JOB_ID").map(|job| format!("#{job}")).unwrap_or_default();
        CiRun {
            system: "Buildkite",
            ref_name: self.first(&["BUILDKITE_TAG", "BUILDKITE_BRANCH"]),
            // A build that was made by hand says HEAD until its checkout.
            commit: self.get("BUILDKITE_COMMIT").filter(|commit| commit != "HEAD"),
            message: self.get("BUILDKITE_MESSAGE").as_deref().map(first_line),
            actor: self.first(&["BUILDKITE_BUILD_CREATOR", "BUILDKITE_BUILD_AUTHOR", "BUILDKITE_UNBLOCKER"]),
            url: self.get("BUILDKITE_BUILD_URL").map(|url| format!("{url}{job}")),
            order: self.number("BUILDKITE_BUILD_NUMBER"),
            identity: self.identity("buildkite", &["BUILDKITE_JOB_ID", "BUILDKITE_BUILD_ID", "BUILDKITE_RETRY_COUNT"]),
        }
    }

    fn circleci(&self) -> CiRun {
        CiRun {
            system: "CircleCI",
            ref_name: self.first(&["CIRCLE_TAG", "CIRCLE_BRANCH"]),
            commit: self.get("CIRCLE_SHA1"),
            message: None,
            actor: self.first(&["CIRCLE_USERNAME", "CIRCLE_PR_USERNAME"]),
            url: self.get("CIRCLE_BUILD_URL"),
            // The pipeline's own number is no variable; the job's is, and grows within the project just so.
            order: self.number("CIRCLE_BUILD_NUM"),
            identity: self.identity(
                "circleci",
                &[
                    "CIRCLE_BUILD_NUM",
                    "CIRCLE_PROJECT_USERNAME",
                    "CIRCLE_PROJECT_REPONAME",
                    "CIRCLE_WORKFLOW_ID",
                    "CIRCLE_NODE_INDEX",
                ],
            ),
        }
    }

    fn azure(&self) -> CiRun {
        let branch = self.first(&["SYSTEM_PULLREQUEST_SOURCEBRANCH", "BUILD_SOURCEBRANCH"]);
        let page = ["SYSTEM_COLLECTIONURI", "SYSTEM_TEAMPROJECT", "BUILD_BUILDID"].map(|name| self.get(name));
        let url = match page {
            [Some(collection), Some(project), Some(build)] => {
                let collection = collection.trim_end_matches('/');
                let project = project.replace('%', "%25").replace(' ', "%20");
                Some(format!("{collection}/{project}/_build/results?buildId={build}"))
            }
            _ => None,
        };
        CiRun {
            system: "Azure Pipelines",
            ref_name: branch.map(|name| strip_ref(&name)),
            commit: self.get("BUILD_SOURCEVERSION"),
            message: self.get("BUILD_SOURCEVERSIONMESSAGE").as_deref().map(first_line),
            actor: self.first(&["BUILD_REQUESTEDFOR", "BUILD_QUEUEDBY"]),
            url,
            order: self.number("BUILD_BUILDID"),
            identity: self.identity(
                "azure",
                &["BUILD_BUILDID", "SYSTEM_COLLECTIONURI", "SYSTEM_STAGEATTEMPT", "SYSTEM_JOBID", "SYSTEM_JOBATTEMPT"],
            ),
        }
    }

    fn bitbucket(&self) -> CiRun {
        let page = ["BITBUCKET_REPO_FULL_NAME", "BITBUCKET_BUILD_NUMBER"].map(|name| self.get(name));
        let url = match page {
            [Some(repository), Some(build)] => {
                Some(format!("https://bitbucket.org/{repository}/pipelines/results/{build}"))
            }
            _ => None,
        };
        CiRun {
            system: "Bitbucket Pipelines",
            ref_name: self.first(&["BITBUCKET_TAG", "BITBUCKET_BRANCH"]),
            commit: self.get("BITBUCKET_COMMIT"),
            message: None,
            // Bitbucket names nobody; this id can at least be looked up.
            actor: self.get("BITBUCKET_STEP_TRIGGERER_UUID"),
            url,
            order: self.number("BITBUCKET_BUILD_NUMBER"),
            identity: self.identity(
                "bitbucket",
                &[
                    "BITBUCKET_BUILD_NUMBER",
                    "BITBUCKET_REPO_FULL_NAME",
                    "BITBUCKET_STEP_UUID",
                    "BITBUCKET_STEP_RUN_NUMBER",
                    "BITBUCKET_PARALLEL_STEP",
                ],
            ),
        }
    }

    fn woodpecker(&self) -> CiRun {
        CiRun {
            system: "Woodpecker",
            ref_name: self.first(&["CI_COMMIT_TAG", "CI_COMMIT_SOURCE_BRANCH", "CI_COMMIT_BRANCH"]),
            commit: self.get("CI_COMMIT_SHA"),
            message: self.get("CI_COMMIT_MESSAGE").as_deref().map(first_line),
            actor: self.first(&["CI_PIPELINE_AUTHOR", "CI_COMMIT_AUTHOR"]),
            url: self.first(&["CI_STEP_URL", "CI_PIPELINE_URL"]),
            order: self.number("CI_PIPELINE_NUMBER"),
            // A pipeline that is repeated has a number of its own; the workflows of a matrix are numbered.
            identity: self.identity(
                "woodpecker",
                &[
                    "CI_PIPELINE_NUMBER",
                    "CI_SYSTEM_URL",
                    "CI_REPO",
                    "CI_WORKFLOW_NUMBER",
                    "CI_WORKFLOW_NAME",
                    "CI_STEP_NAME",
                ],
            ),
        }
    }

    fn jenkins(&self) -> CiRun {
        let branch = self.first(&["TAG_NAME", "CHANGE_BRANCH", "BRANCH_NAME", "GIT_BRANCH"]);
        CiRun {
            system: "Jenkins",
            ref_name: branch.map(|name| name.strip_prefix("origin/").map(str::to_owned).unwrap_or(name)),
            commit: self.get("GIT_COMMIT"),
            message: None,
            actor: self.first(&["BUILD_USER_ID", "BUILD_USER", "CHANGE_AUTHOR"]),
            url: self.first(&["BUILD_URL", "RUN_DISPLAY_URL"]),
            order: self.number("BUILD_NUMBER"),
            // A build that is repeated has a number of its own; parallel stages share it.
            identity: self.identity("jenkins", &["BUILD_NUMBER", "JENKINS_URL", "JOB_NAME", "STAGE_NAME"]),
        }
    }
}

impl CiRun {
    /// A name for what this attempt of this job asks for: the same when a step is repeated within the attempt, another
    /// for a new attempt, another job of a matrix, another project or another request. `None` when the system does not
    /// say enough about itself.
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
        Some(format!("ci-{}", hex(&digest.finalize())))
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn strip_ref(name: &str) -> String {
    ["refs/heads/", "refs/tags/"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_owned()
}
