//! Who submitted, cancelled and released a deployment, and what ran it.

use serde_json::{Value, json};

use crate::{
    harness::{TestServer, a_token, client_with, gated_config, send},
    live::{on_each_engine, prints},
};

/// A token with this name and these scopes, and the table for it.
fn token(name: &str, scopes: &str) -> (String, String) {
    let (token, table) = a_token();
    (token, format!("{}\nscopes = {scopes}\n", table.replace("\"ci\"", &format!("\"{name}\""))))
}

/// Posts with this token.
async fn post(server: &TestServer, token: &str, path: &str, body: Value) -> Value {
    let url = format!("{}{path}", server.base);
    let answer = send(client_with(token).post(url).json(&body)).await;
    assert!(answer.status < 300, "{path}: {}", answer.text);
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_says_who_willed_what_of_it_as_the_server_knows_them_and_as_they_say() {
    let (ci, ci_table) = token("ci", r#"["read", "submit"]"#);
    let (ops, ops_table) = token("ops", r#"["read", "cancel", "release"]"#);
    let config = gated_config(&format!("{ci_table}{ops_table}"));
    on_each_engine(&config, async |mut server| {
        server.client = client_with(&ci);
        server.close_gate();
        let one = server.accepted(json!({ "actor": "alice" })).await;
        let deployment = server.deployment(&one, "").await.body;
        assert_eq!(deployment["submittedBy"], json!({ "identity": "token:ci", "actor": "alice" }));
        assert_eq!((&deployment["cancelledBy"], &deployment["releasedBy"]), (&Value::Null, &Value::Null));
        server.event(&one, |event| event["type"] == "log").await;

        let path = format!("/v1/projects/web/deployments/{one}/cancel");
        post(&server, &ops, &path, json!({ "reason": "not now", "actor": "bob" })).await;
        // The first one counts.
        post(&server, &ops, &path, json!({ "actor": "carol" })).await;
        let told = server.event(&one, |event| event["type"] == "cancel").await;
        let bob = json!({ "identity": "token:ops", "actor": "bob" });
        assert_eq!(told["by"], bob);
        let ended = server.finished(&one).await;
        assert_eq!((&ended["status"], &ended["cancelledBy"]), (&json!("CANCELLED"), &bob));
        assert!(ended["worker"].as_str().is_some_and(|worker| worker.starts_with("server")), "{ended}");

        let two = server.accepted(json!({ "actor": "alice" })).await;
        server.event(&two, |event| event["type"] == "log").await;
        let body = json!({ "reason": "it is stuck", "evenIfAlive": true });
        let released = post(&server, &ops, "/v1/projects/web/release", body).await;
        assert_eq!(released["released"]["releasedBy"], json!({ "identity": "token:ops" }));
        let ended = server.finished(&two).await;
        assert_eq!(ended["releasedBy"], json!({ "identity": "token:ops" }));
        assert_eq!(ended["error"]["message"], "released by token:ops: it is stuck");
        let listed = server.deployments().await;
        assert_eq!(listed, [ended, server.deployment(&one, "").await.body]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_give_the_name_of_their_user_and_show_who_did_it() {
    let server = TestServer::gated();
    let one = server.at_the_gate().await;
    let command = |args: &[&str]| {
        let output = server.tool(args).env("SINGLETRACK_URL", &server.base).env("USER", "bob").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    command(&["cancel", "--project", "web", &one, "--wait"]);
    let told = prints(&server, &["status", "--project", "web", &one]);
    for line in ["caller      local", "cancelled   by bob (local)", "worker      server"] {
        assert!(told.lines().any(|told| told == line), "{line}: {told}");
    }
    let log = server.tool(&["logs", "--project", "web", &one]).env("SINGLETRACK_URL", &server.base).output().unwrap();
    let log = String::from_utf8(log.stderr).unwrap();
    assert!(log.contains("the deployment is asked to stop by bob\n"), "{log}");

    let two = server.at_the_gate().await;
    command(&["release", "--project", "web", "--reason", "stuck", "--even-if-alive"]);
    let told = prints(&server, &["status", "--project", "web", &two]);
    assert!(told.lines().any(|told| told == "released    by bob (local)"), "{told}");
}
