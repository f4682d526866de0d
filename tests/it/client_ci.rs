//! What each CI says about itself, by the variables that its documentation names.

use std::collections::BTreeMap;

use singletrack::cli::ci::{CiRun, Environment, System};

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
    ("BITBUCKET_STEP_RUN_NUMBER", "1"),
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

const GITEA: &[(&str, &str)] = &[
    ("CI", "true"),
    ("GITEA_ACTIONS", "true"),
    ("GITHUB_ACTIONS", "true"),
    ("GITHUB_SERVER_URL", "https://gitea.example"),
    ("GITHUB_REPOSITORY", "acme/web"),
    ("GITHUB_REF_NAME", "main"),
    ("GITHUB_SHA", "3f2a1b"),
    ("GITHUB_ACTOR", "alice"),
    ("GITHUB_RUN_ID", "1"),
    ("GITHUB_RUN_NUMBER", "12"),
    ("GITHUB_RUN_ATTEMPT", "1"),
    ("GITHUB_JOB", "deploy"),
];
const FORGEJO: &[(&str, &str)] = &[
    ("FORGEJO_ACTIONS", "true"),
    ("GITEA_ACTIONS", "true"),
    ("GITHUB_ACTIONS", "true"),
    ("GITHUB_SERVER_URL", "https://forgejo.example"),
    ("GITHUB_REPOSITORY", "acme/web"),
    ("GITHUB_REF_NAME", "main"),
    ("GITHUB_SHA", "3f2a1b"),
    ("GITHUB_ACTOR", "alice"),
    ("GITHUB_RUN_NUMBER", "12"),
    ("GITHUB_RUN_ATTEMPT", "1"),
];
const DRONE: &[(&str, &str)] = &[
    ("CI", "true"),
    ("DRONE", "true"),
    ("DRONE_SYSTEM_HOST", "drone.example"),
    ("DRONE_REPO", "acme/web"),
    ("DRONE_BRANCH", "main"),
    ("DRONE_COMMIT_SHA", "3f2a1b"),
    ("DRONE_COMMIT_MESSAGE", "Make it blue\n"),
    ("DRONE_BUILD_TRIGGER", "@hook"),
    ("DRONE_COMMIT_AUTHOR", "alice"),
    ("DRONE_BUILD_LINK", "https://drone.example/acme/web/12"),
    ("DRONE_BUILD_EVENT", "push"),
    ("DRONE_BUILD_NUMBER", "12"),
];
const TEAMCITY: &[(&str, &str)] = &[
    ("TEAMCITY_VERSION", "2025.07"),
    ("BUILD_NUMBER", "1.0.12"),
    ("BUILD_VCS_NUMBER", "3f2a1b"),
    ("BUILD_URL", "https://teamcity.example/build/12"),
];
const SEMAPHORE: &[(&str, &str)] = &[
    ("CI", "true"),
    ("SEMAPHORE", "true"),
    ("SEMAPHORE_ORGANIZATION_URL", "https://acme.semaphoreci.com"),
    ("SEMAPHORE_WORKFLOW_ID", "w-1"),
    ("SEMAPHORE_WORKFLOW_NUMBER", "12"),
    ("SEMAPHORE_WORKFLOW_RERUN", "false"),
    ("SEMAPHORE_JOB_ID", "j-1"),
    ("SEMAPHORE_GIT_REF_TYPE", "branch"),
    ("SEMAPHORE_GIT_REF", "refs/heads/main"),
    ("SEMAPHORE_GIT_BRANCH", "main"),
    ("SEMAPHORE_GIT_SHA", "3f2a1b"),
    ("SEMAPHORE_GIT_COMMITTER", "alice"),
];
const CODEBUILD: &[(&str, &str)] = &[
    ("CI", "true"),
    ("CODEBUILD_BUILD_ID", "web:b1"),
    ("CODEBUILD_BUILD_ARN", "arn:aws:codebuild:eu-west-1:1:build/web:b1"),
    ("CODEBUILD_BUILD_NUMBER", "12"),
    ("CODEBUILD_BUILD_URL", "https://console.aws.amazon.com/codebuild/web:b1"),
    ("CODEBUILD_WEBHOOK_TRIGGER", "branch/main"),
    ("CODEBUILD_RESOLVED_SOURCE_VERSION", "3f2a1b"),
    ("CODEBUILD_INITIATOR", "alice"),
];
const TRAVIS: &[(&str, &str)] = &[
    ("CI", "true"),
    ("TRAVIS", "true"),
    ("TRAVIS_BRANCH", "main"),
    ("TRAVIS_PULL_REQUEST", "false"),
    ("TRAVIS_EVENT_TYPE", "push"),
    ("TRAVIS_COMMIT", "3f2a1b"),
    ("TRAVIS_COMMIT_MESSAGE", "Make it blue"),
    ("TRAVIS_JOB_ID", "77"),
    ("TRAVIS_BUILD_NUMBER", "12"),
    ("TRAVIS_JOB_WEB_URL", "https://travis.example/acme/web/jobs/77"),
];

const EVERY: [&[(&str, &str)]; 15] = [
    GITHUB, GITLAB, BUILDKITE, CIRCLECI, JENKINS, AZURE, BITBUCKET, WOODPECKER, GITEA, FORGEJO, DRONE, TEAMCITY,
    SEMAPHORE, CODEBUILD, TRAVIS,
];

/// The same variables, some of them changed or added.
fn with(base: &[(&'static str, &'static str)], changes: &[(&'static str, &'static str)]) -> CiRun {
    let kept = base.iter().copied().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    let variables: Vec<_> = kept.chain(changes.iter().copied()).collect();
    detect(&variables).unwrap()
}

#[test]
fn each_system_tells_who_deploys_what() {
    for (variables, system, url) in [
        (GITHUB, System::GitHub, "https://github.com/acme/web/actions/runs/4711"),
        (GITLAB, System::GitLab, "https://gitlab.example/acme/web/-/jobs/77"),
        (BUILDKITE, System::Buildkite, "https://buildkite.com/acme/web/builds/12#j-1"),
        (CIRCLECI, System::CircleCi, "https://circleci.com/gh/acme/web/12"),
        (JENKINS, System::Jenkins, "https://jenkins.example/job/web/12/"),
        (AZURE, System::Azure, "https://dev.azure.com/acme/web%20site/_build/results?buildId=12"),
        (BITBUCKET, System::Bitbucket, "https://bitbucket.org/acme/web/pipelines/results/12"),
        (WOODPECKER, System::Woodpecker, "https://ci.example/repos/1/pipeline/12"),
        (GITEA, System::Gitea, "https://gitea.example/acme/web/actions/runs/12"),
        (FORGEJO, System::Forgejo, "https://forgejo.example/acme/web/actions/runs/12"),
        (DRONE, System::Drone, "https://drone.example/acme/web/12"),
        (SEMAPHORE, System::Semaphore, "https://acme.semaphoreci.com/workflows/w-1"),
        (CODEBUILD, System::CodeBuild, "https://console.aws.amazon.com/codebuild/web:b1"),
        (TRAVIS, System::Travis, "https://travis.example/acme/web/jobs/77"),
        (TEAMCITY, System::TeamCity, "https://teamcity.example/build/12"),
    ] {
        let run = detect(variables).unwrap_or_else(|| panic!("{system:?} is not recognised"));
        assert_eq!(run.system, system);
        assert_eq!(run.commit.as_deref(), Some("3f2a1b"), "{system:?}");
        assert_eq!(run.url.as_deref(), Some(url), "{system:?}");
        // TeamCity's variables tell neither branch nor user.
        let (name, actor) = if system == System::TeamCity { (None, None) } else { (Some("main"), Some("alice")) };
        assert_eq!(run.ref_name.as_deref(), name, "{system:?}");
        let actor = if system == System::Travis { None } else { actor };
        assert_eq!(run.actor.as_deref(), actor, "{system:?}");
    }
    for variables in [BUILDKITE, DRONE, TRAVIS, GITLAB] {
        assert_eq!(detect(variables).unwrap().message.as_deref(), Some("Make it blue"));
    }
}

#[test]
fn a_build_number_is_taken_only_where_it_tells_the_age_of_the_commit() {
    for variables in [GITHUB, GITLAB, BUILDKITE, AZURE, BITBUCKET, WOODPECKER, GITEA, FORGEJO, DRONE, SEMAPHORE, TRAVIS]
    {
        assert_eq!(detect(variables).unwrap().order, Some(12), "{variables:?}");
    }
    assert_eq!(with(GITHUB, &[("GITHUB_EVENT_NAME", "push")]).order, Some(12));
    assert_eq!(with(JENKINS, &[("BRANCH_NAME", "main")]).order, Some(12), "a multibranch project builds each push");
    for run in [
        // Given when a job or a build starts.
        detect(CIRCLECI).unwrap(),
        detect(CODEBUILD).unwrap(),
        detect(TEAMCITY).unwrap(),
        detect(JENKINS).unwrap(),
        // Given when another run ends.
        with(GITHUB, &[("GITHUB_EVENT_NAME", "workflow_run")]),
        with(GITHUB, &[("GITHUB_EVENT_NAME", "deployment_status")]),
        with(GITLAB, &[("CI_PIPELINE_SOURCE", "pipeline")]),
        with(GITLAB, &[("CI_PIPELINE_SOURCE", "parent_pipeline")]),
        with(BUILDKITE, &[("BUILDKITE_SOURCE", "trigger_job")]),
        with(AZURE, &[("BUILD_REASON", "BuildCompletion")]),
        with(AZURE, &[("BUILD_REASON", "ResourceTrigger")]),
        // Given anew for an old commit.
        with(BUILDKITE, &[("BUILDKITE_REBUILT_FROM_BUILD_ID", "b-0")]),
        with(WOODPECKER, &[("CI_PIPELINE_PARENT", "9")]),
        with(DRONE, &[("DRONE_BUILD_PARENT", "9")]),
        with(DRONE, &[("DRONE_BUILD_EVENT", "promote")]),
        with(SEMAPHORE, &[("SEMAPHORE_WORKFLOW_RERUN", "true")]),
        with(TRAVIS, &[("TRAVIS_EVENT_TYPE", "api")]),
        // More than the wire takes.
        with(GITHUB, &[("GITHUB_RUN_NUMBER", "9007199254740992")]),
    ] {
        assert_eq!(run.order, None, "{run:?}");
    }
}

#[test]
fn no_key_is_made_from_a_system_that_does_not_tell_its_attempts_apart() {
    for variables in
        [GITHUB, GITLAB, BUILDKITE, CIRCLECI, JENKINS, AZURE, BITBUCKET, WOODPECKER, DRONE, SEMAPHORE, CODEBUILD]
    {
        assert!(detect(variables).unwrap().key("web", b"{}").is_some(), "{variables:?}");
    }
    for run in [
        detect(GITEA).unwrap(),
        detect(FORGEJO).unwrap(),
        detect(TRAVIS).unwrap(),
        detect(TEAMCITY).unwrap(),
        with(GITHUB, &[("GITHUB_RUN_ATTEMPT", "")]),
        with(GITHUB, &[("ACT", "true")]),
        with(AZURE, &[("SYSTEM_JOBATTEMPT", "")]),
        with(BITBUCKET, &[("BITBUCKET_STEP_RUN_NUMBER", "")]),
        with(JENKINS, &[("JENKINS_URL", ""), ("BUILD_TAG", "jenkins-web-12")]),
    ] {
        assert_eq!(run.key("web", b"{}"), None, "{run:?}");
    }
}

#[test]
fn what_is_detected_is_cleaned_and_cut_and_never_refused() {
    let run =
        with(GITLAB, &[("CI_COMMIT_TITLE", "fix \u{1b}[31mred\u{1b}[0m\u{85}x"), ("GITLAB_USER_LOGIN", "al\u{8}ice")]);
    assert_eq!(run.message.as_deref(), Some("fix red\u{fffd}x"));
    assert_eq!(run.actor.as_deref(), Some("al\u{fffd}ice"));
    let long: &'static str = Box::leak("é".repeat(5000).into_boxed_str());
    let run = with(GITLAB, &[("CI_COMMIT_TITLE", long), ("CI_COMMIT_REF_NAME", long)]);
    assert_eq!(run.message, Some(format!("{}…", "é".repeat(499))));
    assert_eq!(run.ref_name, Some(format!("{}…", "é".repeat(1023))));
    assert_eq!(with(GITLAB, &[("CI_JOB_URL", "ftp://x")]).url, None, "what is no page is left out");
    assert_eq!(with(GITLAB, &[("CI_COMMIT_TITLE", "\n\u{1b}[0m\n")]).message, None);
}

#[test]
fn a_system_is_not_taken_for_another_one_whose_variables_it_sets() {
    assert_eq!(with(WOODPECKER, &[("DRONE", "true"), ("DRONE_BUILD_NUMBER", "12")]).system, System::Woodpecker);
    assert_eq!(with(TEAMCITY, &[("JENKINS_HOME", "/var/jenkins")]).system, System::TeamCity);
    let unnamed = [("BUILD_NUMBER", "12"), ("BUILD_TAG", "jenkins-web-12"), ("JOB_NAME", "web")];
    assert_eq!(detect(&unnamed).unwrap().system, System::Jenkins, "a server that does not know its own address");
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
fn tags_are_named_as_people_do_and_a_request_by_the_ref_to_which_its_commit_belongs() {
    let name = |base, changes: &[(&'static str, &'static str)]| with(base, changes).ref_name.unwrap();
    assert_eq!(name(BUILDKITE, &[("BUILDKITE_TAG", "v1")]), "v1");
    assert_eq!(name(CIRCLECI, &[("CIRCLE_TAG", "v1")]), "v1");
    assert_eq!(name(JENKINS, &[("TAG_NAME", "v1")]), "v1");
    assert_eq!(name(BITBUCKET, &[("BITBUCKET_TAG", "v1")]), "v1");
    assert_eq!(name(WOODPECKER, &[("CI_COMMIT_TAG", "v1")]), "v1");
    assert_eq!(name(DRONE, &[("DRONE_TAG", "v1")]), "v1");
    assert_eq!(name(SEMAPHORE, &[("SEMAPHORE_GIT_TAG_NAME", "v1")]), "v1");
    assert_eq!(name(CODEBUILD, &[("CODEBUILD_WEBHOOK_TRIGGER", "tag/v1")]), "v1");
    assert_eq!(name(TRAVIS, &[("TRAVIS_TAG", "v1")]), "v1");
    assert_eq!(name(AZURE, &[("BUILD_SOURCEBRANCH", "refs/tags/v1")]), "v1");
    assert_eq!(
        name(
            GITLAB,
            &[
                ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "feature"),
                ("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "acme/web"),
                ("CI_MERGE_REQUEST_PROJECT_PATH", "acme/web"),
            ]
        ),
        "feature"
    );
}

#[test]
fn a_forks_branch_never_stands_as_a_branch_of_ours() {
    let name = |base, changes: &[(&'static str, &'static str)]| with(base, changes).ref_name;
    // Somebody's fork, in which the branch is called `main`, as ours is.
    for (found, wanted) in [
        (
            name(
                GITHUB,
                &[
                    ("GITHUB_EVENT_NAME", "pull_request"),
                    ("GITHUB_HEAD_REF", "main"),
                    ("GITHUB_REF", "refs/pull/17/merge"),
                    ("GITHUB_REF_NAME", "17/merge"),
                ],
            ),
            "refs/pull/17/merge",
        ),
        (name(GITHUB, &[("GITHUB_HEAD_REF", "main"), ("GITHUB_REF_NAME", "17/merge")]), "refs/pull/17/merge"),
        (
            name(
                GITLAB,
                &[
                    ("CI_COMMIT_REF_NAME", "main"),
                    ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "main"),
                    ("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "mallory/web"),
                    ("CI_MERGE_REQUEST_PROJECT_PATH", "acme/web"),
                ],
            ),
            "mallory:main",
        ),
        (
            name(
                GITLAB,
                &[
                    ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "main"),
                    ("CI_MERGE_REQUEST_EVENT_TYPE", "merged_result"),
                    ("CI_MERGE_REQUEST_REF_PATH", "refs/merge-requests/1/merge"),
                ],
            ),
            "refs/merge-requests/1/merge",
        ),
        (
            name(
                BUILDKITE,
                &[
                    ("BUILDKITE_PULL_REQUEST", "17"),
                    ("BUILDKITE_PULL_REQUEST_REPO", "https://github.com/mallory/web.git"),
                    ("BUILDKITE_REPO", "git@github.com:acme/web.git"),
                ],
            ),
            "mallory:main",
        ),
        (
            name(
                BUILDKITE,
                &[
                    ("BUILDKITE_PULL_REQUEST", "17"),
                    ("BUILDKITE_PULL_REQUEST_REPO", "https://github.com/Acme/web"),
                    ("BUILDKITE_REPO", "git@github.com:acme/web.git"),
                ],
            ),
            "main",
        ),
        (
            name(
                AZURE,
                &[("SYSTEM_PULLREQUEST_SOURCEBRANCH", "refs/heads/main"), ("BUILD_SOURCEBRANCH", "refs/pull/17/merge")],
            ),
            "refs/pull/17/merge",
        ),
        (name(JENKINS, &[("CHANGE_BRANCH", "main"), ("BRANCH_NAME", "PR-17")]), "PR-17"),
        (
            name(
                WOODPECKER,
                &[
                    ("CI_PIPELINE_EVENT", "pull_request"),
                    ("CI_COMMIT_SOURCE_BRANCH", "main"),
                    ("CI_COMMIT_REF", "refs/pull/17/head"),
                ],
            ),
            "refs/pull/17/head",
        ),
        (
            name(
                DRONE,
                &[
                    ("DRONE_PULL_REQUEST", "17"),
                    ("DRONE_SOURCE_BRANCH", "main"),
                    ("DRONE_COMMIT_REF", "refs/pull/17/head"),
                ],
            ),
            "refs/pull/17/head",
        ),
        (
            name(
                SEMAPHORE,
                &[
                    ("SEMAPHORE_GIT_REF_TYPE", "pull-request"),
                    ("SEMAPHORE_GIT_REF", "refs/semaphoreci/abc"),
                    ("SEMAPHORE_GIT_PR_BRANCH", "main"),
                ],
            ),
            "refs/semaphoreci/abc",
        ),
        (name(CODEBUILD, &[("CODEBUILD_WEBHOOK_TRIGGER", "pr/17")]), "pr/17"),
        (name(TRAVIS, &[("TRAVIS_PULL_REQUEST", "17"), ("TRAVIS_PULL_REQUEST_BRANCH", "main")]), "refs/pull/17/merge"),
    ] {
        assert_eq!(found.as_deref(), Some(wanted));
    }
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
