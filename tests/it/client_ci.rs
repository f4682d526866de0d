//! What each CI says about itself, by the variables that its documentation names.

use std::collections::BTreeMap;

use singletrack::client::ci::{CiRun, Environment};

fn detect(variables: &[(&str, &str)]) -> Option<CiRun> {
    let map: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Environment::new(&|name| map.get(name).cloned()).detect()
}

const GITHUB: &[(&str, &str)] = &[
    ("CI", "true"),
    ("GITHUB_ACTIONS", "true"),
    ("GITHUB_SERVER_URL", "https://github.com"),
    ("GITHUB_REPOSITORY", "acme/web"),
    ("GITHUB_REF_NAME", "main"),
    ("GITHUB_SHA", "3f2a1b"),
    ("GITHUB_ACTOR", "alice"),
    ("GITHUB_RUN_ID", "4711"),
    ("GITHUB_RUN_NUMBER", "12"),
    ("GITHUB_RUN_ATTEMPT", "1"),
    ("GITHUB_JOB", "deploy"),
    ("RUNNER_TRACKING_ID", "github_aa"),
    ("RUNNER_NAME", "runner-1"),
];
const GITLAB: &[(&str, &str)] = &[
    ("GITLAB_CI", "true"),
    ("CI_SERVER_URL", "https://gitlab.example"),
    ("CI_PROJECT_ID", "9"),
    ("CI_COMMIT_REF_NAME", "main"),
    ("CI_COMMIT_SHA", "3f2a1b"),
    ("CI_COMMIT_TITLE", "Make it blue"),
    ("GITLAB_USER_LOGIN", "alice"),
    ("CI_JOB_URL", "https://gitlab.example/acme/web/-/jobs/77"),
    ("CI_JOB_ID", "77"),
    ("CI_PIPELINE_IID", "12"),
];
const BUILDKITE: &[(&str, &str)] = &[
    ("BUILDKITE", "true"),
    ("BUILDKITE_BRANCH", "main"),
    ("BUILDKITE_TAG", ""),
    ("BUILDKITE_COMMIT", "3f2a1b"),
    ("BUILDKITE_MESSAGE", "Make it blue\n\nAnd round."),
    ("BUILDKITE_BUILD_CREATOR", "alice"),
    ("BUILDKITE_BUILD_URL", "https://buildkite.com/acme/web/builds/12"),
    ("BUILDKITE_BUILD_NUMBER", "12"),
    ("BUILDKITE_BUILD_ID", "b-1"),
    ("BUILDKITE_JOB_ID", "j-1"),
];
const CIRCLECI: &[(&str, &str)] = &[
    ("CIRCLECI", "true"),
    ("CIRCLE_BRANCH", "main"),
    ("CIRCLE_SHA1", "3f2a1b"),
    ("CIRCLE_USERNAME", "alice"),
    ("CIRCLE_BUILD_URL", "https://circleci.com/gh/acme/web/12"),
    ("CIRCLE_BUILD_NUM", "12"),
    ("CIRCLE_WORKFLOW_ID", "w-1"),
];
const JENKINS: &[(&str, &str)] = &[
    ("JENKINS_URL", "https://jenkins.example/"),
    ("JOB_NAME", "web"),
    ("GIT_BRANCH", "origin/main"),
    ("GIT_COMMIT", "3f2a1b"),
    ("BUILD_USER_ID", "alice"),
    ("BUILD_URL", "https://jenkins.example/job/web/12/"),
    ("BUILD_NUMBER", "12"),
];
const AZURE: &[(&str, &str)] = &[
    ("TF_BUILD", "True"),
    ("SYSTEM_COLLECTIONURI", "https://dev.azure.com/acme/"),
    ("SYSTEM_TEAMPROJECT", "web site"),
    ("BUILD_SOURCEBRANCH", "refs/heads/main"),
    ("BUILD_SOURCEVERSION", "3f2a1b"),
    ("BUILD_REQUESTEDFOR", "alice"),
    ("BUILD_BUILDID", "12"),
    ("SYSTEM_JOBID", "j-1"),
    ("SYSTEM_JOBATTEMPT", "1"),
];
const BITBUCKET: &[(&str, &str)] = &[
    ("BITBUCKET_BUILD_NUMBER", "12"),
    ("BITBUCKET_REPO_FULL_NAME", "acme/web"),
    ("BITBUCKET_BRANCH", "main"),
    ("BITBUCKET_COMMIT", "3f2a1b"),
    ("BITBUCKET_STEP_TRIGGERER_UUID", "alice"),
    ("BITBUCKET_STEP_UUID", "{s-1}"),
];
const WOODPECKER: &[(&str, &str)] = &[
    ("CI", "woodpecker"),
    ("CI_REPO", "acme/web"),
    ("CI_COMMIT_BRANCH", "main"),
    ("CI_COMMIT_SHA", "3f2a1b"),
    ("CI_PIPELINE_AUTHOR", "alice"),
    ("CI_PIPELINE_URL", "https://ci.example/repos/1/pipeline/12"),
    ("CI_PIPELINE_NUMBER", "12"),
    ("CI_WORKFLOW_NUMBER", "1"),
];

const EVERY: [&[(&str, &str)]; 8] = [GITHUB, GITLAB, BUILDKITE, CIRCLECI, JENKINS, AZURE, BITBUCKET, WOODPECKER];

#[test]
fn each_system_tells_who_deploys_what() {
    for (variables, system, url) in [
        (GITHUB, "GitHub Actions", "https://github.com/acme/web/actions/runs/4711"),
        (GITLAB, "GitLab CI", "https://gitlab.example/acme/web/-/jobs/77"),
        (BUILDKITE, "Buildkite", "https://buildkite.com/acme/web/builds/12#j-1"),
        (CIRCLECI, "CircleCI", "https://circleci.com/gh/acme/web/12"),
        (JENKINS, "Jenkins", "https://jenkins.example/job/web/12/"),
        (AZURE, "Azure Pipelines", "https://dev.azure.com/acme/web%20site/_build/results?buildId=12"),
        (BITBUCKET, "Bitbucket Pipelines", "https://bitbucket.org/acme/web/pipelines/results/12"),
        (WOODPECKER, "Woodpecker", "https://ci.example/repos/1/pipeline/12"),
    ] {
        let run = detect(variables).unwrap_or_else(|| panic!("{system} is not recognised"));
        assert_eq!(run.system, system);
        assert_eq!(run.ref_name.as_deref(), Some("main"), "{system}");
        assert_eq!(run.commit.as_deref(), Some("3f2a1b"), "{system}");
        assert_eq!(run.actor.as_deref(), Some("alice"), "{system}");
        assert_eq!(run.url.as_deref(), Some(url), "{system}");
        assert_eq!(run.order, Some(12), "{system}");
        assert!(run.key("web", b"{}").is_some(), "{system}");
    }
    assert_eq!(detect(BUILDKITE).unwrap().message.as_deref(), Some("Make it blue"));
}

#[test]
fn no_ci_is_no_ci() {
    assert_eq!(detect(&[]), None);
    assert_eq!(detect(&[("CI", "true")]), None);
    assert_eq!(detect(&[("GITHUB_ACTIONS", "")]), None);
    assert_eq!(detect(&[("BUILD_NUMBER", "3")]), None);
    let is_ci = |pairs: &[(&str, &str)]| {
        let map: BTreeMap<String, String> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Environment::new(&|name| map.get(name).cloned()).is_ci()
    };
    assert!(!is_ci(&[]));
    assert!(!is_ci(&[("CI", "false")]));
    assert!(is_ci(&[("CI", "true")]));
    assert!(EVERY.iter().all(|variables| is_ci(variables)));
}

#[test]
fn what_a_system_does_not_say_is_left_out() {
    for variables in EVERY {
        // With each single variable missing, or odd, there is no panic and no wrong value.
        for at in 0..variables.len() {
            let mut fewer = variables.to_vec();
            let (name, _) = fewer.remove(at);
            let run = detect(&fewer);
            fewer.push((name, "  "));
            assert_eq!(detect(&fewer), run, "blank is missing: {name}");
            fewer.pop();
            fewer.push((name, "no-number"));
            if let Some(run) = detect(&fewer) {
                assert_ne!(run.order, Some(0), "{name}");
            }
        }
    }
    assert_eq!(detect(&[("GITHUB_ACTIONS", "true")]).unwrap().key("web", b"{}"), None, "nothing to derive a key from");
}

#[test]
fn pull_requests_and_tags_are_named_as_people_do() {
    let with = |base: &[(&'static str, &'static str)], more: (&'static str, &'static str)| {
        let mut variables = base.to_vec();
        variables.push(more);
        detect(&variables).unwrap().ref_name.unwrap()
    };
    assert_eq!(with(GITHUB, ("GITHUB_HEAD_REF", "feature")), "feature");
    assert_eq!(with(GITLAB, ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "feature")), "feature");
    assert_eq!(with(BUILDKITE, ("BUILDKITE_TAG", "v1")), "v1");
    assert_eq!(with(CIRCLECI, ("CIRCLE_TAG", "v1")), "v1");
    assert_eq!(with(JENKINS, ("TAG_NAME", "v1")), "v1");
    assert_eq!(with(AZURE, ("SYSTEM_PULLREQUEST_SOURCEBRANCH", "refs/heads/feature")), "feature");
    assert_eq!(with(BITBUCKET, ("BITBUCKET_TAG", "v1")), "v1");
    assert_eq!(with(WOODPECKER, ("CI_COMMIT_TAG", "v1")), "v1");
}

#[test]
fn a_key_is_the_attempts_own() {
    let key = |change: Option<(&'static str, &'static str)>, project: &str, body: &[u8]| {
        let mut variables: Vec<_> =
            GITHUB.iter().copied().filter(|(name, _)| Some(*name) != change.map(|c| c.0)).collect();
        variables.extend(change);
        let key = detect(&variables).unwrap().key(project, body).unwrap();
        assert!(key.len() <= 255 && key.bytes().all(|byte| byte.is_ascii_graphic()), "{key}");
        key
    };
    let first = key(None, "web", b"{}");
    assert_eq!(first, key(None, "web", b"{}"), "a step that is repeated in the same attempt");
    assert_eq!(first, key(Some(("RUNNER_NAME", "other")), "web", b"{}"), "what says nothing new");
    for other in [
        key(Some(("GITHUB_RUN_ATTEMPT", "2")), "web", b"{}"),
        key(Some(("GITHUB_RUN_ID", "4712")), "web", b"{}"),
        key(Some(("GITHUB_JOB", "smoke")), "web", b"{}"),
        key(Some(("RUNNER_TRACKING_ID", "github_bb")), "web", b"{}"),
        key(Some(("GITHUB_REPOSITORY", "acme/api")), "web", b"{}"),
        key(None, "api", b"{}"),
        key(None, "web", b"{\"inputs\":{\"region\":\"eu\"}}"),
    ] {
        assert_ne!(first, other);
    }
}

#[test]
fn what_a_ci_says_is_fitted_into_the_servers_limits() {
    let (title, actor) = (format!("Make it\u{1b}[31m {}", "blue ".repeat(1000)), "ä".repeat(300));
    let url = format!("https://gitlab.example/{}", "x".repeat(2048));
    let mut variables = GITLAB.to_vec();
    variables.extend([("CI_COMMIT_TITLE", &*title), ("GITLAB_USER_LOGIN", &*actor), ("CI_JOB_URL", &*url)]);
    let run = detect(&variables).unwrap();
    let message = run.message.unwrap();
    assert!(message.starts_with("Make it[31m blue") && message.len() == 4096, "{message}");
    assert_eq!((run.actor.unwrap(), run.url), ("ä".repeat(256), None));
}
