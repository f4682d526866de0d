//! The end of a session: with its token, with its time, and when somebody signs out.

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use super::{Browser, a_token, closed};
use crate::harness::{Answer, TestServer, client_with, gated_config, postgres, send};

/// Makes a token at run time.
async fn made(server: &TestServer, admin: &Client, wish: Value) -> String {
    let made = send(admin.post(format!("{}/v1/tokens", server.base)).json(&wish)).await;
    assert_eq!(made.status, 201, "{}", made.text);
    made.body["token"].as_str().unwrap().to_owned()
}

async fn revoke(server: &TestServer, admin: &Client, name: &str) -> Answer {
    send(admin.post(format!("{}/v1/tokens/{name}/revoke", server.base)).json(&json!({}))).await
}

/// The open stream of the browser's page.
async fn live(browser: &Browser) -> Response {
    let stream = browser.request(Method::GET, "/live").header("accept", "text/event-stream");
    let stream = stream.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    stream
}

#[track_caller]
fn is_out(page: &super::browser::Page, browser: &Browser) {
    assert_eq!((page.status, &*page.location), (303, "/sign-in?why=ended"), "{}", page.text);
    assert_eq!(browser.cookie("singletrack"), None, "the browser forgets what is of no use any more");
}

#[tokio::test]
async fn a_session_ends_when_its_token_is_revoked_and_so_does_its_open_page() {
    for store in ["sqlite:test.db".to_owned(), postgres::shared().store().await, "memory:".to_owned()] {
        let (server, root) = closed(&store, "");
        let admin = client_with(&root);
        let token = made(&server, &admin, json!({ "name": "alice", "scopes": ["read"] })).await;
        let (browser, other) = (Browser::signed_in(&server, &token).await, Browser::signed_in(&server, &root).await);
        let stream = live(&browser).await;
        assert_eq!(revoke(&server, &admin, "alice").await.status, 200);
        // The stream ends, or this never comes back.
        stream.text().await.unwrap();
        is_out(&browser.get("/").await, &browser);
        assert!(browser.get("/sign-in?why=ended").await.text.contains("Your session has ended"));
        assert_eq!(other.get("/").await.status, 200, "a session of another token goes on");
        let list = send(admin.get(format!("{}/v1/tokens", server.base))).await.body;
        let session = list["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .find(|token| token["name"].as_str().is_some_and(|name| name.starts_with("alice~")));
        assert_eq!(session.unwrap()["status"], "revoked", "{list}");
        let refused = Browser::of(&server).sign_in(&token, "/").await;
        assert_eq!(refused.status, 401);
        assert!(refused.text.contains("This token was revoked"), "{}", refused.text);
    }
}

#[tokio::test]
async fn a_session_ends_with_the_time_of_its_token_and_with_its_own() {
    let (server, root) = closed("sqlite:test.db", "[page]\nsession = \"3s\"\n");
    let admin = client_with(&root);
    let token = made(&server, &admin, json!({ "name": "short", "scopes": ["read"], "expiresInSeconds": 2 })).await;
    let (short, own) = (Browser::of(&server), Browser::signed_in(&server, &root).await);
    let signed_in = short.sign_in(&token, "/").await;
    let cookie = signed_in.cookie("singletrack");
    assert!(["; Max-Age=0", "; Max-Age=1", "; Max-Age=2"].iter().any(|age| cookie.contains(age)), "{cookie}");
    for browser in [&short, &own] {
        // The stream ends, or this never comes back.
        live(browser).await.text().await.unwrap();
        is_out(&browser.get("/").await, browser);
    }
    let admin_is_there = send(admin.get(format!("{}/v1/projects", server.base))).await;
    assert_eq!(admin_is_there.status, 200, "a token outlives its sessions");
}

#[tokio::test]
async fn a_reload_changes_what_a_session_may_do_and_ends_it_with_its_token() {
    let (token, table) = a_token("reader", "");
    let (_, other) = a_token("root", "");
    let less = table.replace("name = ", "scopes = [\"submit\"]\nname = ");
    let server = TestServer::start(&gated_config(&format!("{table}{other}")));
    let browser = Browser::signed_in(&server, &token).await;
    assert_eq!(browser.get("/").await.status, 200);
    let reloaded = |log: &str| log.contains("keys_changed=tokens");
    server.reload_by_signal(&gated_config(&format!("{less}{other}")), reloaded).await;
    assert_eq!(browser.get("/").await.status, 403, "it may not look any more");
    server.reload_by_signal(&gated_config(&format!("{table}{other}")), reloaded).await;
    let stream = live(&browser).await;
    server.reload_by_signal(&gated_config(&other), reloaded).await;
    stream.text().await.unwrap();
    is_out(&browser.get("/").await, &browser);
}

#[tokio::test]
async fn whoever_signs_out_takes_the_session_along_at_every_server() {
    let store = postgres::shared().store().await;
    let (token, table) = a_token("root", "");
    let config = gated_config(&table);
    let (one, two) = (TestServer::start_on(&store, &config), TestServer::start_on(&store, &config));
    let browser = Browser::signed_in(&one, &token).await;
    let elsewhere = browser.at(&two);
    assert_eq!(elsewhere.get("/").await.status, 200, "another server knows it at once");
    let stream = live(&elsewhere).await;
    let copied = [browser.at(&one), browser.at(&two)];
    let signed_out = browser.submit("/", "/sign-out", &[]).await;
    assert_eq!((signed_out.status, &*signed_out.location), (303, "/sign-in?why=out"));
    assert_eq!(browser.cookie("singletrack"), None);
    assert!(browser.get("/sign-in?why=out").await.text.contains("You are signed out"));
    stream.text().await.unwrap();
    for browser in &copied {
        is_out(&browser.get("/").await, browser);
    }
    let audit = send(client_with(&token).get(format!("{}/v1/audit", one.base))).await.body;
    let told: Vec<_> = (0..2).map(|at| (&audit["entries"][at]["action"], &audit["entries"][at]["caller"])).collect();
    assert_eq!(told, [(&json!("sign_out"), &json!("token:root")), (&json!("sign_in"), &json!("token:root"))]);
}

#[tokio::test]
async fn an_administrator_ends_a_session_by_its_name() {
    let (server, root) = closed("sqlite:test.db", "");
    let admin = client_with(&root);
    let token = made(&server, &admin, json!({ "name": "alice", "scopes": ["read"] })).await;
    let browser = Browser::signed_in(&server, &token).await;
    let list = send(admin.get(format!("{}/v1/tokens", server.base))).await.body;
    let name = list["tokens"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(revoke(&server, &admin, &name).await.status, 200);
    is_out(&browser.get("/").await, &browser);
    assert_eq!(Browser::signed_in(&server, &token).await.get("/").await.status, 200, "the token goes on");
    let audit = send(admin.get(format!("{}/v1/audit?action=token_revoke", server.base))).await.body;
    assert_eq!(audit["entries"][0]["detail"], format!("session {name}"), "{audit}");
}

#[tokio::test]
async fn a_session_goes_on_after_a_restart() {
    let (mut server, root) = closed("sqlite:test.db", "");
    let browser = Browser::signed_in(&server, &root).await;
    assert!(server.terminate().success());
    server.boot();
    assert_eq!(browser.get("/").await.status, 200);
}
