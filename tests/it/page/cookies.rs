//! The cookie of a session: who gets it, and who takes it.

use reqwest::Method;
use serde_json::json;

use super::{Browser, a_token, closed};
use crate::harness::{SINGLETRACK, TestServer, client_with, gated_config, send};

#[tokio::test]
async fn a_token_becomes_a_session_that_scripts_and_other_sites_do_not_get() {
    let (server, token) = closed("sqlite:test.db", "");
    let browser = Browser::of(&server);
    let sent_on = browser.get("/projects/web?find=a%20b").await;
    assert_eq!(sent_on.status, 303);
    assert_eq!(sent_on.location, "/sign-in?to=%2Fprojects%2Fweb%3Ffind%3Da%2520b");
    assert_eq!(browser.get("/").await.location, "/sign-in");

    let page = browser.get(&sent_on.location).await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("name=\"to\" value=\"/projects/web?find=a%20b\""), "{}", page.text);
    assert!(page.text.contains("type=\"password\"") && page.text.contains("autocomplete=\"off\""), "{}", page.text);
    let signed_in = browser.sign_in(&token, "/projects/web?find=a%20b").await;
    assert_eq!((signed_in.status, &*signed_in.location), (303, "/projects/web?find=a%20b"));
    let cookie = signed_in.cookie("singletrack");
    assert!(!cookie.contains(&token), "the token itself stays out of the browser");
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure") && !cookie.contains("Domain"), "{cookie}");
    let page = browser.get("/").await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.text.contains("action=\"/sign-out\"") && page.text.contains("root"), "{}", page.text);

    // Administrators see it, apart from the tokens.
    let admin = client_with(&token);
    let list = send(admin.get(format!("{}/v1/tokens", server.base))).await.body;
    let session = &list["tokens"][0];
    assert!(session["name"].as_str().unwrap().starts_with("root~"), "{list}");
    assert_eq!((&session["isSession"], &session["status"]), (&json!(true), &json!("live")));
    assert_eq!(session["createdBy"], "token:root");
    let list = ["token", "list", "--server", &server.base];
    let told = std::process::Command::new(SINGLETRACK).args(list).env("SINGLETRACK_TOKEN", &token).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.starts_with("SESSION") && told.contains("root~"), "{told}");
    let audit = send(admin.get(format!("{}/v1/audit", server.base))).await.body;
    let line = &audit["entries"][0];
    assert_eq!((&line["action"], &line["caller"]), (&json!("sign_in"), &json!("token:root")), "{line}");
    assert!(line["detail"].as_str().unwrap().contains("root~"), "{line}");
    assert_eq!(line["address"], "127.0.0.1");
}

#[tokio::test]
async fn where_the_browser_came_by_tls_only_a_cookie_counts_that_no_other_host_can_set() {
    let (server, token) = closed("sqlite:test.db", "trusted_proxies = [\"127.0.0.1\"]");
    let browser = Browser::of(&server);
    let tls = |request: reqwest::RequestBuilder| request.header("X-Forwarded-Proto", "https");
    let page = browser.send(tls(browser.request(Method::GET, "/sign-in"))).await;
    assert!(page.cookie("__Host-singletrack-form").contains("; Secure"), "{:?}", page.set);
    let proof = page.proof();
    let form = [("token", &*token), ("csrf", &*proof)];
    let signed_in = browser.send(tls(browser.form("/sign-in", &form))).await;
    assert_eq!(signed_in.status, 303, "{}", signed_in.text);
    let cookie = signed_in.cookie("__Host-singletrack");
    assert!(cookie.contains("; Secure") && cookie.contains("; Path=/;") && !cookie.contains("Domain"), "{cookie}");
    assert_eq!(browser.send(tls(browser.request(Method::GET, "/"))).await.status, 200);

    let value = browser.cookie("__Host-singletrack").unwrap();
    let tossed = Browser::of(&server);
    tossed.set_cookie("singletrack", &value);
    assert_eq!(tossed.send(tls(tossed.request(Method::GET, "/"))).await.status, 303);

    // A proxy that is not trusted is not believed, but the browser's own word is enough to keep the cookie to TLS.
    let (server, token) = closed("sqlite:test.db", "");
    let browser = Browser::of(&server);
    let proof = browser.send(tls(browser.request(Method::GET, "/sign-in"))).await.proof();
    let host = server.base.strip_prefix("http://").unwrap();
    let request = browser.form("/sign-in", &[("token", &*token), ("csrf", &*proof)]);
    let signed_in = browser.send(request.header("Origin", format!("https://{host}"))).await;
    assert!(signed_in.cookie("__Host-singletrack").contains("; Secure"), "{:?}", signed_in.set);
    assert_eq!(browser.get("/").await.status, 200);
}

#[tokio::test]
async fn the_api_takes_no_cookie_and_no_session_in_place_of_a_token() {
    let (server, token) = closed("sqlite:test.db", "");
    let browser = Browser::signed_in(&server, &token).await;
    let refused = browser.get("/v1/projects").await;
    assert_eq!(refused.status, 401, "{}", refused.text);
    let posted = browser.request(Method::POST, "/v1/projects/web/deployments").body("{}");
    assert_eq!(browser.send(posted.header("content-type", "application/json")).await.status, 401);
    let session = browser.cookie("singletrack").unwrap();
    let shown = send(client_with(&session).get(format!("{}/v1/projects", server.base))).await;
    assert_eq!(shown.refusal(), (401, "UNAUTHORIZED"));
    // Nor does it make further sessions.
    let refused = Browser::of(&server).sign_in(&session, "/").await;
    assert_eq!(refused.status, 401, "{}", refused.text);
}

#[tokio::test]
async fn a_server_that_is_open_to_its_machine_asks_nobody_to_sign_in() {
    let server = TestServer::start(&gated_config(""));
    let browser = Browser::of(&server);
    let page = browser.get("/").await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(!page.text.contains("/sign-out"), "{}", page.text);
    let form = page.cookie("singletrack-form");
    assert!(form.contains("; HttpOnly") && form.contains("; SameSite=Lax") && !form.contains("Max-Age"), "{form}");
    assert_eq!(browser.get("/").await.set, Vec::<String>::new(), "it is set once");
    let sent_on = browser.get("/sign-in?to=/projects/web").await;
    assert_eq!((sent_on.status, &*sent_on.location), (303, "/projects/web"));
    // What a former server at this address left in the browser is no obstacle.
    browser.set_cookie("singletrack", "st_0");
    assert_eq!(browser.get("/").await.status, 200);
}

#[tokio::test]
async fn a_session_may_do_what_its_token_may() {
    let (token, table) = a_token("reader", "projects = [\"web\"]\nscopes = [\"read\"]");
    let (blind, blind_table) = a_token("agent", "scopes = [\"work\"]");
    let (admin, admin_table) = a_token("root", "");
    let server = TestServer::start(&gated_config(&format!("{table}{blind_table}{admin_table}[projects.api]")));
    let reader = Browser::signed_in(&server, &token).await;
    assert_eq!(reader.get("/projects/web").await.status, 200);
    assert_eq!(reader.get("/projects/api").await.status, 404);
    let agent = Browser::signed_in(&server, &blind).await;
    let refused = agent.get("/").await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert!(refused.text.contains("href=\"/sign-in\""), "{}", refused.text);
    let other = agent.get("/sign-in").await;
    assert!(other.text.contains("signed in as <b>agent</b>"), "{}", other.text);
    // A browser that signs in as somebody else leaves no session behind.
    let session = agent.cookie("singletrack").unwrap();
    assert_eq!(agent.sign_in(&admin, "/").await.status, 303);
    assert_eq!(agent.get("/projects/api").await.status, 200);
    let former = Browser::of(&server);
    former.set_cookie("singletrack", &session);
    assert_eq!(former.get("/").await.status, 303);
}
