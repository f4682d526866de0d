//! Issuers and rules that change while the server runs.

use reqwest::Method;
use serde_json::json;

use super::{MAIN_OF_WEB, look, server_with, submit, with_token};
use crate::harness::{gated_config, issuer::Issuer, send};

#[tokio::test]
async fn a_reload_changes_who_gets_in_and_fetches_no_keys_anew() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let (web, api) = (issuer.token(&json!({})), issuer.token(&json!({ "repository": "acme/api" })));
    assert_eq!(look(&server, &web).await.status, 200);
    assert_eq!(look(&server, &api).await.refusal(), (403, "NO_OIDC_RULE"));

    let both = MAIN_OF_WEB.replace("\"acme/web\"", "[\"acme/web\", \"acme/api\"]");
    let reloaded = |log: &str| log.contains("keys_changed=oidc");
    server.reload_by_signal(&gated_config(&issuer.config("github", &both)), reloaded).await;
    assert_eq!(look(&server, &web).await.status, 200);
    assert_eq!(look(&server, &api).await.status, 200);

    let less = MAIN_OF_WEB.replace("\"read\", \"submit\", \"cancel\"", "\"read\"");
    server.reload_by_signal(&gated_config(&issuer.config("github", &less)), reloaded).await;
    assert_eq!(submit(&server, "web", &web).await.refusal(), (403, "MISSING_SCOPE"));
    assert_eq!(look(&server, &api).await.refusal(), (403, "NO_OIDC_RULE"));
    assert_eq!(issuer.fetch_count(), 1);
}

#[tokio::test]
async fn what_waits_for_a_job_that_no_rule_lets_in_any_more_ends_at_the_reload() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let token = issuer.token(&json!({}));
    let path = "/v1/projects/web/deployments";
    let accepted = send(with_token(&server, Method::POST, path, &token).json(&json!({}))).await;
    let events = format!("{path}/{}/events", accepted.id());
    let stream = with_token(&server, Method::GET, &events, &token).header("accept", "text/event-stream");
    let stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let poll =
        with_token(&server, Method::GET, &format!("{path}/{}/completion?maxWaitSeconds=60", accepted.id()), &token);
    let poll = tokio::spawn(send(poll));
    server.parked(2).await;
    let other = MAIN_OF_WEB.replace("acme/web", "acme/api");
    let config = gated_config(&issuer.config("github", &other));
    server.reload_by_signal(&config, |log| log.contains("keys_changed=oidc")).await;
    // The stream is still open as far as its job knows, so it has no last event.
    let rest = stream.text().await.unwrap();
    assert!(!rest.contains("event: complete"), "{rest}");
    let refused = poll.await.unwrap();
    assert_eq!(refused.refusal(), (401, "TOKEN_REVOKED"), "{}", refused.text);
    assert_eq!(look(&server, &token).await.refusal(), (403, "NO_OIDC_RULE"));
}
