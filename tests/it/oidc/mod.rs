//! Tokens of OIDC issuers: real ones, signed with keys that the test makes, and shown by an issuer of the test's own.

mod claims;
mod clients;
mod configured;
mod keys;
mod recipes;
mod reloaded;
mod tokens;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, gated_config, issuer::Issuer, send};

/// A rule for the jobs of `acme/web` on `main`.
const MAIN_OF_WEB: &str = r#"
[[oidc.rules]]
claims = { repository = "acme/web", ref = "refs/heads/main" }
projects = ["web"]
scopes = ["read", "submit", "cancel"]
"#;

/// A server that takes this issuer's tokens by these rules.
fn server_with(issuer: &Issuer, rules: &str) -> TestServer {
    let server = TestServer::start(&gated_config(&issuer.config("github", rules)));
    server.close_gate();
    server
}

/// A request with a token.
fn with_token(server: &TestServer, method: Method, path: &str, token: &str) -> RequestBuilder {
    server.request(method, path).bearer_auth(token)
}

/// Looks at `web` with this token.
async fn look(server: &TestServer, token: &str) -> Answer {
    send(with_token(server, Method::GET, "/v1/projects/web", token)).await
}

/// Submits to a project with this token.
async fn submit(server: &TestServer, project: &str, token: &str) -> Answer {
    let wish: Value = json!({ "pipeline": "quick", "onConflict": "queue" });
    send(with_token(server, Method::POST, &format!("/v1/projects/{project}/deployments"), token).json(&wish)).await
}
