//! What a token's claims allow: this project and not that one, this branch and not a stranger's pull request.

use reqwest::Method;
use serde_json::json;

use super::{MAIN_OF_WEB, look, server_with, submit, with_token};
use crate::harness::{issuer::Issuer, send};

#[tokio::test]
async fn a_token_for_one_project_sees_no_other() {
    let issuer = Issuer::start();
    let rules = format!(
        "{MAIN_OF_WEB}
[[oidc.rules]]
claims = {{ repository = \"acme/api\" }}
projects = [\"api\", \"api-*\"]
scopes = [\"read\"]
[projects.api]
[projects.api-eu]
"
    );
    let server = server_with(&issuer, &rules);
    let web = issuer.token(&json!({}));
    let api = issuer.token(&json!({ "repository": "acme/api" }));
    assert_eq!(look(&server, &web).await.status, 200);
    assert_eq!(look(&server, &api).await.refusal(), (404, "NOT_FOUND"));
    assert_eq!(submit(&server, "api", &web).await.refusal(), (404, "NOT_FOUND"));
    let refused = submit(&server, "api", &api).await;
    assert_eq!(refused.refusal(), (403, "MISSING_SCOPE"), "{}", refused.text);
    assert!(refused.body["detail"].as_str().unwrap().contains("oidc:github:repo:acme/web:ref:refs/heads/main"));
    let list = send(with_token(&server, Method::GET, "/v1/projects", &api)).await;
    let names: Vec<_> = list.body["projects"].as_array().unwrap().iter().map(|one| one["project"].clone()).collect();
    assert_eq!(names, [json!("api"), json!("api-eu")]);
}

#[tokio::test]
async fn a_token_of_another_repository_branch_or_environment_meets_no_rule_and_is_told_what_it_has() {
    let issuer = Issuer::start();
    let rules = r#"
[[oidc.rules]]
claims = { repository = "acme/*", ref = ["refs/heads/main", "refs/tags/v*"], environment = "production" }
projects = ["*"]
scopes = ["read", "submit"]
"#;
    let server = server_with(&issuer, rules);
    for changes in [json!({}), json!({ "repository": "acme/api" }), json!({ "ref": "refs/tags/v1.2" })] {
        assert_eq!(look(&server, &issuer.token(&changes)).await.status, 200, "{changes}");
    }
    for changes in [
        json!({ "repository": "mallory/web" }),
        json!({ "repository": "Acme/web" }),
        json!({ "repository": "acme-evil/web" }),
        json!({ "repository": null }),
        json!({ "repository": ["mallory/web"] }),
        json!({ "repository": 7 }),
        json!({ "repository": { "acme/web": true } }),
        json!({ "ref": "refs/heads/main2" }),
        json!({ "ref": "refs/heads/feature/refs/heads/main" }),
        json!({ "environment": "staging" }),
        json!({ "environment": null }),
    ] {
        let refused = look(&server, &issuer.token(&changes)).await;
        assert_eq!(refused.refusal(), (403, "NO_OIDC_RULE"), "{changes}: {}", refused.text);
        let told = refused.body["detail"].as_str().unwrap();
        for name in ["repository", "ref", "environment"] {
            assert!(told.contains(name), "{changes}: {told}");
        }
    }
}

#[tokio::test]
async fn a_pull_request_gets_in_only_where_a_rule_says_so() {
    let issuer = Issuer::start();
    // `repository` is the base repository, also where a fork makes the request.
    let rules = r#"
[[oidc.rules]]
claims = { repository = "acme/web" }
projects = ["web"]
scopes = ["read", "submit"]
[[oidc.rules]]
claims = { repository = "acme/preview" }
projects = ["preview"]
scopes = ["read", "submit"]
pull_requests = true
[projects.preview]
"#;
    let server = server_with(&issuer, rules);
    for request in [
        json!({ "event_name": "pull_request", "ref": "refs/pull/17/merge", "head_ref": "main", "sub": "repo:acme/web:pull_request" }),
        json!({ "event_name": "pull_request_target", "ref": "refs/heads/main", "head_ref": "main" }),
    ] {
        let refused = submit(&server, "web", &issuer.token(&request)).await;
        assert_eq!(refused.refusal(), (403, "NO_OIDC_RULE"), "{request}: {}", refused.text);
        assert!(refused.body["detail"].as_str().unwrap().contains("pull_requests = true"), "{}", refused.text);
        let mut preview = request.clone();
        preview["repository"] = json!("acme/preview");
        let preview = issuer.token(&preview);
        assert_eq!(submit(&server, "preview", &preview).await.refusal().1, "UNKNOWN_PIPELINE", "it is let in");
        assert_eq!(submit(&server, "web", &preview).await.status, 404);
    }
    assert_eq!(submit(&server, "web", &issuer.token(&json!({}))).await.status, 202);
}

#[tokio::test]
async fn the_audit_log_names_the_job_and_not_what_its_client_says() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let token = issuer.token(&json!({}));
    let path = "/v1/projects/web/deployments";
    let accepted = send(with_token(&server, Method::POST, path, &token).json(&json!({ "actor": "mallory" }))).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    let cancel = format!("{path}/{}/cancel", accepted.id());
    let cancelled = send(with_token(&server, Method::POST, &cancel, &token).json(&json!({}))).await;
    assert!(cancelled.status < 300, "{}", cancelled.text);
    let callers = server.callers(&accepted.id());
    let job = "oidc:github:repo:acme/web:ref:refs/heads/main";
    assert!(!callers.is_empty() && callers.iter().any(|caller| caller == job), "{callers:?}");
    assert!(!callers.iter().any(|caller| caller.contains("mallory")), "{callers:?}");
}
