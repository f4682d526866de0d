//! Making, listing, using and revoking.

use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Closed, ask, get, stores};
use crate::harness::{SINGLETRACK, TestServer, client_with, gated_config, postgres};

/// A command of the command line, as somebody with this token.
fn command(server: &TestServer, token: Option<&str>, args: &[&str]) -> Command {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", &server.base).args(args).stdin(Stdio::null());
    command.envs(token.map(|token| ("SINGLETRACK_TOKEN", token)));
    command
}

/// Its exit code, its standard output and its standard error.
fn ended(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_token_is_made_used_listed_and_revoked_from_the_command_line_and_is_shown_once() {
    for store in stores().await {
        let mut one = Closed::start(&store, "");
        let run = |args: &[&str]| ended(command(&one.server, Some(&one.token), args));
        let made = run(&["token", "create", "ci", "--scope", "read,submit", "--project", "web*", "--expires", "90d"]);
        let (code, token, told) = made;
        assert_eq!(code, 0, "{told}");
        let token = token.trim();
        assert!(token.starts_with("st_") && told.contains("shown once") && told.contains("web*"), "{told}");
        assert!(!told.contains(token) && !told.contains("still need no token"), "{told}");

        let user = client_with(token);
        assert_eq!(get(&user, &one.server, "/v1/projects/web").await.status, 200);
        assert_eq!(get(&user, &one.server, "/v1/projects/api").await.refusal(), (404, "NOT_FOUND"));
        let refused = ask(&user, &one.server, Method::POST, "/v1/projects/web/release", json!({ "reason": "x" })).await;
        assert_eq!(refused.refusal(), (403, "MISSING_SCOPE"));
        assert!(refused.body["message"].as_str().unwrap().contains("release"), "{}", refused.text);

        let (code, list, _) = run(&["token", "list"]);
        assert!(code == 0 && list.contains("ci") && list.contains("live") && list.contains("web*"), "{list}");
        let listed = one.listed("ci").await;
        assert_eq!(listed["scopes"], json!(["read", "submit"]));
        assert_eq!(listed["createdBy"], "token:root");

        let (code, told, _) = run(&["token", "revoke", "ci"]);
        assert!(code == 0 && told.contains("revoked") && told.contains("token:root"), "{told}");
        assert_eq!(get(&user, &one.server, "/v1/projects").await.refusal(), (401, "TOKEN_REVOKED"));
        let (code, _, told) = ended(command(&one.server, Some(token), &["list"]));
        assert!(code == 125 && told.contains("TOKEN_REVOKED") && told.contains("token create"), "{code} {told}");

        // The record stays over a restart, and the token's last use with it.
        assert!(one.server.terminate().success());
        one.server.boot();
        let listed = one.listed("ci").await;
        assert_eq!((&listed["status"], &listed["revokedBy"]), (&json!("revoked"), &json!("token:root")));
        assert!(listed["lastUsedAt"].is_string(), "{listed}");
        assert_eq!(get(&user, &one.server, "/v1/projects").await.refusal(), (401, "TOKEN_REVOKED"));
        assert!(!one.server.log().contains(&token[3..]), "{}", one.server.log());
        if store.starts_with("sqlite") {
            let file = std::fs::read(one.server.path("test.db")).unwrap();
            assert!(!file.windows(token.len()).any(|window| window == token.as_bytes()));
        }
    }
}

#[tokio::test]
async fn a_token_gives_no_more_than_its_maker_has() {
    let one = Closed::start("sqlite:test.db", "");
    let wish = json!({ "name": "lead", "scopes": ["admin", "read"], "projects": ["web-*", "api"] });
    let (_, lead) = one.token(wish).await;
    let make = async |name: &str, scopes: Value, projects: Value| {
        let wish = json!({ "name": name, "scopes": scopes, "projects": projects });
        ask(&lead, &one.server, Method::POST, "/v1/tokens", wish).await
    };
    for (scopes, projects) in [
        (json!(["submit"]), json!(["api"])),
        (json!(["read", "release"]), json!(["api"])),
        (json!(["read"]), json!(["*"])),
        (json!(["read"]), json!(["web*"])),
        (json!(["read"]), json!(["api", "shop"])),
        (json!(["read"]), json!(["ap*"])),
    ] {
        let refused = make("more", scopes.clone(), projects.clone()).await;
        assert_eq!(refused.refusal(), (403, "MISSING_SCOPE"), "{scopes} {projects}: {}", refused.text);
    }
    assert_eq!(make("less", json!(["read"]), json!(["web-eu-*"])).await.status, 201);
    let same = make("same", json!(["read", "admin"]), Value::Null).await;
    assert_eq!(same.body["projects"], json!(["web-*", "api"]), "{}", same.text);

    // A token of other projects is one that does not exist, to see and to revoke.
    one.token(json!({ "name": "foreign", "scopes": ["read"], "projects": ["shop"] })).await;
    one.token(json!({ "name": "all", "scopes": ["read"] })).await;
    let list = get(&lead, &one.server, "/v1/tokens").await.body;
    let names: Vec<_> = list["tokens"].as_array().unwrap().iter().map(|token| token["name"].clone()).collect();
    assert_eq!(names, ["same", "less", "lead"]);
    let revoke =
        async |name: &str| ask(&lead, &one.server, Method::POST, &format!("/v1/tokens/{name}/revoke"), json!({})).await;
    let nobody = revoke("nobody").await;
    for name in ["foreign", "all"] {
        let refused = revoke(name).await;
        assert_eq!(refused.body["message"], nobody.body["message"], "{}", refused.text);
    }
    assert_eq!(revoke("less").await.body["status"], "revoked");
}

#[tokio::test]
async fn bad_wishes_for_tokens_are_refused_in_words_that_say_what_is_taken() {
    let server = TestServer::gated();
    let good = json!({ "name": "ci", "scopes": ["read"], "projects": ["web"], "expiresInSeconds": 60 });
    for (field, value, told) in [
        ("name", json!(""), "1 to 64"),
        ("name", json!("a b"), "1 to 64"),
        ("name", json!("a/b"), "1 to 64"),
        ("name", json!("\u{202e}ic\u{1b}[2J"), "\\u{202e}ic\\u{1b}[2J"),
        ("name", json!("0199ffff-0000-7000-8000-000000000000"), "1 to 64"),
        ("name", json!("x".repeat(65)), "1 to 64"),
        ("scopes", json!([]), "at least one"),
        ("scopes", json!(["write"]), "one of read, submit"),
        ("projects", json!([]), "leave it out"),
        ("projects", json!(["../x"]), "project name"),
        ("projects", json!(["we b*"]), "pattern"),
        ("projects", json!(vec!["a"; 101]), "100"),
        ("expiresInSeconds", json!(0), "from 1 to 31622400"),
        ("expiresInSeconds", json!(u64::MAX >> 12), "from 1 to 31622400"),
    ] {
        let mut wish = good.clone();
        wish[field] = value.clone();
        let refused = server.post("/v1/tokens", wish).await;
        assert_eq!(refused.refusal(), (400, "INVALID_BODY"), "{field} {value}: {}", refused.text);
        let message = refused.body["message"].as_str().unwrap();
        assert!(message.contains(told) && message.contains(field), "{field} {value}: {message}");
    }
    assert_eq!(server.get("/v1/tokens").await.body["tokens"], json!([]));
    assert_eq!(server.post("/v1/tokens", good).await.status, 201);
}

#[tokio::test]
async fn of_the_live_tokens_no_two_have_one_name_and_a_name_is_free_again_afterwards() {
    for store in stores().await {
        let one = Closed::start(&store, "");
        let make = async |name: &str, seconds: u64| {
            let wish = json!({ "name": name, "scopes": ["read"], "expiresInSeconds": seconds });
            one.ask(Method::POST, "/v1/tokens", wish).await
        };
        let made = futures_util::future::join_all((0..4).map(|_| make("ci", 600))).await;
        let mut statuses: Vec<_> = made.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409]);
        assert_eq!(make("root", 600).await.refusal(), (409, "TOKEN_CONFLICT"), "a token of the configuration has it");
        let first = one.revoke("ci").await.body;
        assert_eq!(make("ci", 1).await.status, 201);
        while make("ci", 600).await.status != 201 {
            tokio::task::yield_now().await;
        }
        // A name means the live one; and again, what was revoked is told and nothing else is ended.
        let second = one.revoke("ci").await.body;
        assert_ne!(first["id"], second["id"]);
        let again = one.revoke(first["id"].as_str().unwrap()).await;
        assert_eq!((again.status, &again.body["revokedAt"]), (200, &first["revokedAt"]));
        assert_eq!(one.revoke("root").await.refusal(), (404, "NOT_FOUND"));
    }
}

#[tokio::test]
async fn two_administrators_who_revoke_at_once_are_both_told_and_the_last_one_stays() {
    let store = postgres::shared().store().await;
    // The configuration's token may not administer, so somebody must.
    let open = TestServer::start_on(&store, &gated_config(""));
    let mut tokens = Vec::new();
    for name in ["one", "two"] {
        let made = open.post("/v1/tokens", json!({ "name": name, "scopes": ["admin"] })).await;
        tokens.push(made.body["token"].as_str().unwrap().to_owned());
    }
    let (_, table) = super::root_token();
    let closed = TestServer::start_on(&store, &gated_config(&format!("{table}\nscopes = [\"read\"]")));
    let revoke = async |by: &str, name: &str, wish: Value| {
        ask(&client_with(by), &closed, Method::POST, &format!("/v1/tokens/{name}/revoke"), wish).await
    };
    // Each revokes the other: one of them comes first.
    let (first, second) = tokio::join!(revoke(&tokens[0], "two", json!({})), revoke(&tokens[1], "one", json!({})));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert!(statuses == [200, 401] || statuses == [200, 409], "{} {}", first.text, second.text);
    let (left, name) = if first.status == 200 { (&tokens[0], "one") } else { (&tokens[1], "two") };
    let refused = revoke(left, name, json!({})).await;
    assert_eq!(refused.refusal(), (409, "TOKEN_CONFLICT"));
    assert!(refused.body["message"].as_str().unwrap().contains("--even-if-last"), "{}", refused.text);
    assert_eq!(revoke(left, name, json!({ "evenIfLast": true })).await.status, 200);
    assert_eq!(revoke(left, name, json!({})).await.refusal(), (401, "TOKEN_REVOKED"));
}

#[tokio::test]
async fn a_server_without_tokens_in_its_configuration_stays_open_to_its_machine_and_says_so() {
    let server = TestServer::gated();
    let (code, token, told) = ended(command(&server, None, &["token", "create", "ci", "--scope", "read"]));
    assert!(code == 0 && told.contains("still need no token"), "{told}");
    assert_eq!(server.get("/v1/projects").await.status, 200);
    assert_eq!(server.get("/v1/tokens").await.body["tokens"][0]["createdBy"], "local");
    // Whoever shows a token gets what the token gives, also through a proxy; a token that ended gives nothing.
    let user = client_with(token.trim());
    let through = || user.get(format!("{}/v1/projects", server.base)).header("X-Forwarded-For", "203.0.113.9");
    assert_eq!(crate::harness::send(through()).await.status, 200);
    let submit = ask(&user, &server, Method::POST, "/v1/projects/web/deployments", json!({})).await;
    assert_eq!(submit.refusal(), (403, "MISSING_SCOPE"));
    assert_eq!(server.post("/v1/tokens/ci/revoke", json!({})).await.status, 200);
    assert_eq!(get(&user, &server, "/v1/projects").await.refusal(), (401, "TOKEN_REVOKED"));
    // One that this server never knew is for another server, and counts as none.
    let stranger = client_with(&super::root_token().0);
    assert_eq!(get(&stranger, &server, "/v1/projects").await.status, 200);
}

#[tokio::test]
async fn other_machines_are_served_where_tokens_were_made_at_run_time() {
    let mut server = TestServer::gated();
    let made = server.post("/v1/tokens", json!({ "name": "only", "scopes": ["read"] })).await;
    let user = client_with(made.body["token"].as_str().unwrap());
    assert!(server.terminate().success());
    server.base = "http://0.0.0.0:0".to_owned();
    server.boot();
    server.base = server.base.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(get(&user, &server, "/v1/projects").await.status, 200);
    assert_eq!(server.get("/v1/projects").await.refusal(), (401, "UNAUTHORIZED"), "nobody comes in without one");
}

#[tokio::test]
async fn a_token_that_another_server_made_a_moment_ago_works_at_once() {
    let store = postgres::shared().store().await;
    let one = Closed::start(&store, "");
    let other = one.beside(&store, "");
    for number in 0..10 {
        let (_, user) = one.token(json!({ "name": format!("ci-{number}"), "scopes": ["read"] })).await;
        assert_eq!(get(&user, &other.server, "/v1/projects").await.status, 200);
    }
}

#[test]
fn check_config_warns_of_a_token_for_projects_that_the_configuration_does_not_have() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.toml");
    let table = |patterns: &str| format!("{}\nprojects = [{patterns}]\n", super::root_token().1);
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(SINGLETRACK);
        command.arg("check-config").arg(&file);
        ended(command)
    };
    let (code, _, told) = check(&gated_config(&table("\"web\", \"w*b\", \"wbe\", \"shop-*\"")));
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("\"wbe\"") && told.contains("\"shop-*\"") && told.lines().count() == 2, "{told}");
    let (code, _, told) = check(&table("\"web\", \"shop-*\""));
    assert!(code == 0 && told.contains("\"shop-*\"") && told.lines().count() == 1, "{told}");
    for (patterns, why) in [("\"../*\"", "invalid pattern"), ("\"../x\"", "invalid project name"), ("", "is empty")] {
        let (code, _, told) = check(&table(patterns));
        assert!(code == 78 && told.contains(why), "{patterns}: {told}");
    }
    let (code, _, told) = check("trusted_proxies = [\"10.0.0.0/8\", \"fd00::1\", \"proxy.example\"]");
    assert!(code == 78 && told.contains("`trusted_proxies`") && told.lines().count() == 1, "{told}");
}
