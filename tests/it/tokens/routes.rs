//! Every route, held against every scope, a foreign project, an expired and a revoked token.

use reqwest::{Client, Method};
use serde_json::{Value, json};
use singletrack::{http::route_table, model::Scope};

use super::{Closed, ask, get};
use crate::harness::{Answer, client_with, openapi};

const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const NOBODY: &str = "0199ffff-0000-7000-8000-000000000000";

/// Which scopes let a caller in: one of them is enough. Every route stands here with each of its methods.
const ROUTES: &[(&str, &str, &[Scope])] = {
    use Scope::*;
    &[
        ("get", "/v1/projects", &[Read]),
        ("get", "/v1/projects/{project}", &[Read]),
        ("get", "/v1/projects/{project}/events", &[Read]),
        ("get", "/v1/events", &[Read]),
        ("put", "/v1/projects/{project}/order", &[Admin]),
        ("delete", "/v1/projects/{project}", &[Admin]),
        ("post", "/v1/projects/{project}/release", &[Release]),
        ("post", "/v1/projects/{project}/rollback", &[Submit]),
        ("post", "/v1/projects/{project}/pause", &[Admin]),
        ("post", "/v1/projects/{project}/resume", &[Admin]),
        ("get", "/v1/projects/{project}/deployments", &[Read]),
        ("post", "/v1/projects/{project}/deployments", &[Submit]),
        ("get", "/v1/projects/{project}/deployments/{id}", &[Read]),
        ("get", "/v1/projects/{project}/deployments/{id}/completion", &[Read]),
        ("get", "/v1/projects/{project}/deployments/{id}/turn", &[Submit]),
        ("get", "/v1/projects/{project}/deployments/{id}/events", &[Read]),
        ("post", "/v1/projects/{project}/deployments/{id}/cancel", &[Cancel]),
        ("post", "/v1/projects/{project}/deployments/{id}/redact", &[Admin]),
        ("post", "/v1/projects/{project}/deployments/{id}/heartbeat", &[Work, Submit]),
        ("post", "/v1/projects/{project}/deployments/{id}/reports", &[Work, Submit]),
        ("post", "/v1/projects/{project}/deployments/{id}/finish", &[Work, Submit]),
        ("post", "/v1/claims", &[Work]),
        ("head", "/v1/artifacts/{sha256}", &[Submit, Read, Work]),
        ("get", "/v1/artifacts/{sha256}", &[Read, Work]),
        ("put", "/v1/artifacts/{sha256}", &[Submit]),
        ("get", "/v1/tokens", &[Admin]),
        ("post", "/v1/tokens", &[Admin]),
        ("post", "/v1/tokens/{token}/revoke", &[Admin]),
        ("post", "/v1/admin/reload", &[Admin]),
        ("get", "/v1/audit", &[Admin]),
        ("get", "/v1/notifications", &[Admin]),
        ("post", "/v1/notifications/{id}/retry", &[Admin]),
        ("get", "/healthz", &[]),
        ("get", "/readyz", &[]),
        ("get", "/metrics", &[]),
        ("get", "/openapi.yaml", &[]),
    ]
};

/// A call of a route that changes nothing, whoever is let in: it names nothing that is there, or says what is refused.
async fn call(client: &Client, one: &Closed, method: &str, path: &str, project: &str) -> Answer {
    let path = path.replace("{project}", project).replace("{id}", NOBODY).replace("{sha256}", NOTHING);
    let path = path.replace("{token}", NOBODY);
    let method: Method = method.to_ascii_uppercase().parse().unwrap();
    let query = if method == Method::DELETE { "?nope=1" } else { "" };
    let request = client.request(method.clone(), format!("{}{path}{query}", one.server.base));
    let request = request.header("Singletrack-Lease", NOTHING);
    let request = if method == Method::POST { request.json(&json!({ "nope": 1 })) } else { request };
    crate::harness::send(request).await
}

#[test]
fn every_route_has_its_row() {
    let served: Vec<_> =
        route_table().into_iter().flat_map(|(path, methods)| methods.iter().map(move |(m, _)| (*m, path))).collect();
    let tried: Vec<_> = ROUTES.iter().map(|(method, path, _)| (*method, *path)).collect();
    let missing: Vec<_> = served.iter().filter(|route| !tried.contains(route)).collect();
    assert!(missing.is_empty(), "these routes have no row in ROUTES: {missing:?}");
    let gone: Vec<_> = tried.iter().filter(|route| !served.contains(route)).collect();
    assert!(gone.is_empty(), "there are no such routes: {gone:?}");
}

#[tokio::test]
async fn each_scope_opens_its_routes_and_no_other_one() {
    let one = Closed::start("sqlite:test.db", "");
    for scope in Scope::ALL {
        let (_, user) = one.token(json!({ "name": scope.as_str(), "scopes": [scope.as_str()] })).await;
        for (method, path, scopes) in ROUTES {
            let answer = call(&user, &one, method, path, "web").await;
            let what = format!("{method} {path} with {scope}: {}", answer.text);
            if scopes.is_empty() || scopes.contains(&scope) {
                assert!(![401, 403, 429].contains(&answer.status), "{what}");
            } else if *method == "head" {
                assert_eq!(answer.status, 403, "{what}");
            } else {
                assert_eq!(answer.refusal(), (403, "MISSING_SCOPE"), "{what}");
                let message = answer.body["message"].as_str().unwrap();
                assert!(message.contains(&format!("the scope {}", scopes[0])), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_foreign_project_is_one_that_does_not_exist() {
    let one = Closed::start("sqlite:test.db", "");
    let all = Scope::ALL.map(Scope::as_str);
    let (_, user) = one.token(json!({ "name": "few", "scopes": all, "projects": ["we*b", "api-*"] })).await;
    let foreign = ask(
        &one.admin,
        &one.server,
        Method::POST,
        "/v1/projects/other/deployments",
        json!({ "executor": "client", "claim": true }),
    );
    let id = foreign.await.id();
    for (method, path, _) in ROUTES.iter().filter(|(_, path, _)| path.contains("{project}")) {
        let path = path.replace("{id}", &id);
        let foreign = call(&user, &one, method, &path, "other").await;
        let nobody = call(&user, &one, method, &path, "nobdy").await;
        assert_eq!(foreign.refusal(), (404, "NOT_FOUND"), "{method} {path}: {}", foreign.text);
        let told = |answer: &Answer, name: &str| {
            let mut body = answer.body.clone();
            body["requestId"] = Value::Null;
            body.to_string().replace(name, "")
        };
        assert_eq!(told(&foreign, "other"), told(&nobody, "nobdy"), "{method} {path}");
        assert!(openapi::route(&path.replace("{project}", "x")).is_some());
    }
    let list = get(&user, &one.server, "/v1/projects").await.body;
    assert_eq!(list["projects"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["projects"][0]["project"], "web");
    let claim = json!({ "worker": "w", "claimId": "c", "projects": { "other": ["deploy"] }, "capacity": 1 });
    assert_eq!(ask(&user, &one.server, Method::POST, "/v1/claims", claim).await.refusal(), (404, "NOT_FOUND"));
}

#[tokio::test]
async fn a_page_of_projects_holds_what_a_pattern_stands_for_and_its_cursor_goes_on_behind_others() {
    let one = Closed::start("sqlite:test.db", "");
    for number in 0..30 {
        for name in ["a", "m-web", "z"] {
            let path = format!("/v1/projects/{name}-{number:02}/deployments");
            let made = one.ask(Method::POST, &path, json!({ "executor": "client", "claim": true })).await;
            assert_eq!(made.status, 202, "{}", made.text);
        }
    }
    let (_, user) = one.token(json!({ "name": "few", "scopes": ["read"], "projects": ["m-*", "z-2*"] })).await;
    let (mut names, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = get(&user, &one.server, &format!("/v1/projects?limit=7{cursor}")).await.body;
        names.extend(page["projects"].as_array().unwrap().iter().map(|it| it["project"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(next) = page["nextCursor"].as_str() else { break };
        assert!(next.starts_with("m-") || next.starts_with("z-2"), "a cursor tells of no other project: {next}");
        cursor = format!("&cursor={next}");
    }
    let expected: Vec<_> =
        (0..30).map(|n| format!("m-web-{n:02}")).chain((20..30).map(|n| format!("z-{n:02}"))).collect();
    assert_eq!((names, pages), (expected, 6));
}

#[tokio::test]
async fn an_expired_and_a_revoked_token_open_no_route_that_needs_one() {
    let one = Closed::start("sqlite:test.db", "");
    let all = Scope::ALL.map(Scope::as_str);
    one.token(json!({ "name": "left", "scopes": ["admin"] })).await;
    let (expired, user) = one.token(json!({ "name": "expired", "scopes": all, "expiresInSeconds": 1 })).await;
    let (revoked, _) = one.token(json!({ "name": "revoked", "scopes": all })).await;
    assert_eq!(one.revoke("revoked").await.status, 200);
    while get(&user, &one.server, "/v1/projects").await.status == 200 {}
    for (token, code) in [(expired, "TOKEN_EXPIRED"), (revoked, "TOKEN_REVOKED")] {
        let user = client_with(&token);
        for (method, path, scopes) in ROUTES {
            let answer = call(&user, &one, method, path, "web").await;
            let what = format!("{method} {path} {code}: {}", answer.text);
            // An address that shows many tokens that are not valid is told to wait.
            let refused = [(401, code), (429, "TOO_MANY_ATTEMPTS")];
            match *method {
                _ if scopes.is_empty() => assert!(answer.status < 300, "{what}"),
                "head" => assert!([401, 429].contains(&answer.status), "{what}"),
                // Whoever has a lease may end its work; this lease is nobody's.
                _ if path.contains("heartbeat") || path.contains("reports") || path.contains("finish") => {
                    assert!([400, 404, 409].contains(&answer.status), "{what}");
                }
                _ => assert!(refused.contains(&answer.refusal()), "{what}"),
            }
        }
        // Without a lease not even that.
        let path = format!("/v1/projects/web/deployments/{NOBODY}/heartbeat");
        let bare = ask(&user, &one.server, Method::POST, &path, Value::Null).await;
        assert!([401, 429].contains(&bare.status), "{}", bare.text);
    }
}
