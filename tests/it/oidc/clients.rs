//! Real clients in jobs without any secret: GitHub's way to ask for an ID token, and GitLab's variable.

use std::fs;

use jiff::Timestamp;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;

use super::{MAIN_OF_WEB, look, server_with, with_token};
use crate::harness::{
    TestServer,
    client::{Client, Ended},
    gated_config,
    issuer::Issuer,
    send,
};

/// The variables of a job, with where the server is.
struct Job {
    variables: Vec<(String, String)>,
}

impl Job {
    fn new(server: &TestServer, variables: &[(String, String)]) -> Self {
        let own = [
            ("PATH".to_owned(), std::env::var("PATH").unwrap()),
            ("SINGLETRACK_URL".to_owned(), server.base.clone()),
            ("SINGLETRACK_PROJECT".to_owned(), "web".to_owned()),
            ("TEST_DIR".to_owned(), server.dir().display().to_string()),
        ];
        Job { variables: own.into_iter().chain(variables.iter().cloned()).collect() }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn start(&self, args: &[&str]) -> Client {
        let variables: Vec<_> = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Client::start(&variables, args)
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.start(args).ended()
    }
}

/// Whether neither of these is in what a client printed.
#[track_caller]
fn assert_silent(ended: &Ended, secrets: &[&str]) {
    for secret in secrets {
        assert!(!ended.stdout.contains(secret) && !ended.stderr.contains(secret), "{}\n{}", ended.stdout, ended.stderr);
    }
}

#[tokio::test]
async fn jobs_of_two_repositories_and_two_ci_systems_race_for_one_project_without_any_secret() {
    let (github, gitlab) = (Issuer::start(), Issuer::start());
    let config = github.config(
        "github",
        &format!(
            "{MAIN_OF_WEB}
[[oidc.rules]]
claims = {{ repository = \"acme/infra\", ref = \"refs/heads/main\" }}
projects = [\"web\"]
scopes = [\"read\", \"submit\", \"cancel\"]
"
        ),
    ) + &gitlab.config(
        "gitlab",
        r#"
[[oidc.rules]]
claims = { project_path = "ops/web", ref_path = "refs/heads/main" }
projects = ["web"]
scopes = ["read", "submit", "cancel"]
"#,
    );
    let server = TestServer::start(&gated_config(&config));
    server.close_gate();
    let web_token = github.token(&json!({}));
    let infra_token =
        github.token(&json!({ "repository": "acme/infra", "sub": "repo:acme/infra:ref:refs/heads/main" }));
    let ops_token = gitlab.token(&json!({
        "sub": "project_path:ops/web:ref_type:branch:ref:main", "repository": null, "event_name": null,
        "project_path": "ops/web", "ref": "main", "ref_path": "refs/heads/main", "pipeline_source": "push",
    }));
    let web = Job::new(&server, &github.job("secret of web", vec![web_token.clone()]));
    let infra = Job::new(&server, &github.job("secret of infra", vec![infra_token.clone()]));
    let ops =
        Job::new(&server, &[("GITLAB_CI".to_owned(), "true".to_owned())]).with("SINGLETRACK_ID_TOKEN", &ops_token);

    let mut holder = web.start(&["deploy", "--json", "--message", "one"]);
    holder.hears("at the gate");
    let mut second = infra.start(&["run", "--", "sh", "-c", "echo token=$SINGLETRACK_ID_TOKEN$SINGLETRACK_TOKEN"]);
    second.hears("waiting for web#1");
    let mut third = ops.start(&["deploy", "--json", "--pipeline", "quick"]);
    third.hears("waiting for web#1");
    server.open_gate();
    let (holder, second, third) = (holder.ended(), second.ended(), third.ended());
    for ended in [&holder, &second, &third] {
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_silent(ended, &[&web_token, &infra_token, &ops_token, "secret of", "::add-mask::"]);
    }
    assert_eq!(second.stdout, "token=\n");
    let by = |id: &str| server.callers(id).first().cloned().unwrap_or_default();
    let listed = crate::harness::client_with(&web_token);
    let page: serde_json::Value =
        listed.get(format!("{}/v1/projects/web/deployments", server.base)).send().await.unwrap().json().await.unwrap();
    let mut deployments = page["deployments"].as_array().unwrap().clone();
    deployments.reverse();
    let times: Vec<_> = deployments.iter().map(|one| (one["startedAt"].as_str(), one["endedAt"].as_str())).collect();
    assert!(times.is_sorted_by(|one, next| one.1 <= next.0), "no two ran at once: {times:?}");
    let callers: Vec<_> = deployments.iter().map(|one| by(one["id"].as_str().unwrap())).collect();
    assert_eq!(
        callers,
        [
            "oidc:github:repo:acme/web:ref:refs/heads/main",
            "oidc:github:repo:acme/infra:ref:refs/heads/main",
            "oidc:gitlab:project_path:ops/web:ref_type:branch:ref:main",
        ]
    );
    assert_eq!(github.audiences(), ["singletrack", "singletrack"], "each job asks once");
}

#[tokio::test]
async fn a_token_that_expires_while_its_job_waits_is_replaced_and_the_place_in_line_stays() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let now = Timestamp::now().as_second();
    // The server takes it until a minute after its end; the client would use it for minutes.
    let short = |seconds: i64| {
        issuer.token(
            &json!({ "iat": now - 360, "nbf": now - 360, "exp": now - 60 + seconds, "jti": format!("{seconds}") }),
        )
    };
    let holder = Job::new(&server, &issuer.job("holder", vec![short(4), issuer.token(&json!({}))]));
    let waiter = Job::new(&server, &issuer.job("waiter", vec![short(5), issuer.token(&json!({}))]));
    let mut holding = holder.start(&["deploy", "--json"]);
    holding.hears("at the gate");
    let mut waiting = waiter.start(&["deploy", "--json", "--pipeline", "quick"]);
    waiting.hears("waiting for web#1");
    // Both have asked for another token by the time at which both of them are parked again.
    while issuer.audiences().len() < 4 {
        tokio::task::yield_now().await;
    }
    server.open_gate();
    let (holding, waiting) = (holding.ended(), waiting.ended());
    assert_eq!((holding.code, waiting.code), (Some(0), Some(0)), "{}\n{}", holding.stderr, waiting.stderr);
    assert_eq!(waiting.json()["number"], 2, "it kept its place");
}

#[tokio::test]
async fn a_killed_run_gets_a_token_of_its_own_to_say_so() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let token = issuer.token(&json!({}));
    let job = Job::new(&server, &issuer.job("secret", vec![token.clone()]));
    let mut running = job.start(&["run", "--lease", "10m", "--", "sh", "-c", "echo at work >&2; sleep 1000"]);
    running.hears("at work");
    running.signal(Signal::KILL);
    let get = async |below: &str| {
        let path = format!("/v1/projects/web/deployments{below}");
        send(with_token(&server, Method::GET, &path, &token)).await
    };
    let id = get("?limit=1").await.body["deployments"][0]["id"].as_str().unwrap().to_owned();
    // It would still run if the lease had to end it.
    let ended = get(&format!("/{id}/completion?maxWaitSeconds=60")).await;
    assert_eq!(ended.status, 200, "{}", ended.text);
    assert_eq!(ended.body["error"]["code"], "WORKER_LOST", "{}", ended.text);
}

#[tokio::test]
async fn a_token_file_that_is_exchanged_is_read_again_when_its_token_has_expired() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let now = Timestamp::now().as_second();
    let file = server.path("token");
    let fresh = issuer.token(&json!({}));
    let holder = Job::new(&server, &[]).with("SINGLETRACK_TOKEN", &fresh);
    let mut holding = holder.start(&["deploy"]);
    holding.hears("at the gate");
    let short = issuer.token(&json!({ "iat": now - 360, "nbf": now - 360, "exp": now - 55 }));
    fs::write(&file, &short).unwrap();
    let path = file.display().to_string();
    let waiting = Job::new(&server, &[]).start(&["wait", "--token-file", &path, "1"]);
    server.parked(2).await;
    fs::write(&file, &fresh).unwrap();
    while look(&server, &short).await.status == 200 {
        tokio::task::yield_now().await;
    }
    server.open_gate();
    let (holding, waiting) = (holding.ended(), waiting.ended());
    assert_eq!((holding.code, waiting.code), (Some(0), Some(0)), "{}\n{}", holding.stderr, waiting.stderr);
}

#[test]
fn a_job_that_gets_no_token_is_told_what_its_workflow_lacks() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let refused = issuer.job("secret", vec![issuer.token(&json!({ "repository": "mallory/web" }))]);
    let unknown = Issuer::start().job("secret", vec![String::new()]);
    let denied = [refused[0].clone(), refused[1].clone(), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN".into(), "other".into())];
    for (variables, code, says) in [
        (vec![("GITHUB_ACTIONS".to_owned(), "true".to_owned())], 125, "permissions: id-token: write"),
        (vec![("GITLAB_CI".to_owned(), "true".to_owned())], 125, "id_tokens: SINGLETRACK_ID_TOKEN"),
        (refused.to_vec(), 125, "NO_OIDC_RULE"),
        (denied.to_vec(), 125, "the CI makes no ID token: HTTP 403"),
        (unknown.to_vec(), 125, "its answer has no token"),
    ] {
        let ended = Job::new(&server, &variables).run(&["list"]);
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
}

#[test]
fn a_token_that_is_given_is_shown_and_none_is_asked_for() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let given = issuer.token(&json!({}));
    let variables = issuer.job("secret", vec![issuer.token(&json!({}))]);
    let ended = Job::new(&server, &variables).with("SINGLETRACK_TOKEN", &given).run(&["list"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(issuer.audiences(), [""; 0]);
    let ended = Job::new(&server, &variables).with("SINGLETRACK_OIDC_AUDIENCE", "deploys/eu").run(&["list"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let ended = Job::new(&server, &variables).run(&["list", "--oidc-audience", "a&b"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(issuer.audiences(), ["deploys%2Feu", "a%26b"]);
}
