//! People log in at an OIDC issuer.

use reqwest::{Client, Method, redirect::Policy};
use serde_json::{Value, json};

use super::{Browser, a_token, browser::Page, part};
use crate::harness::{TestServer, client_with, gated_config, issuer::Issuer, postgres, send};

const RULES: &str = "
[[page.oidc.rules]]
claims = { groups = \"deployers\" }
projects = [\"*\"]
scopes = [\"read\", \"cancel\"]
";

/// The configuration of a server that is reached there.
fn config(issuer: &Issuer, base: &str, more: &str, rules: &str) -> String {
    let log_in = format!(
        "[[page.oidc]]\nname = \"corp\"\nissuer = \"{}\"\nclient_id = \"deploys\"\nrequest_scopes = [\"email\"]\n\
         person_claim = \"email\"\n{more}\n{rules}",
        issuer.url
    );
    gated_config(&format!("public_url = \"{base}\"\n{log_in}"))
}

/// A server where people log in, and its administrator.
async fn server(store: &str, issuer: &Issuer, more: &str) -> (TestServer, Client) {
    let (token, table) = a_token("root", "");
    let server = TestServer::start_on(store, &gated_config(&table));
    configure(&server, issuer, &format!("{more}\n"), &format!("{RULES}{table}")).await;
    (server, client_with(&token))
}

async fn configure(server: &TestServer, issuer: &Issuer, more: &str, rules: &str) {
    let config = config(issuer, &server.base, more, rules);
    server.reload_by_signal(&config, |log| log.contains("keys_changed=")).await;
}

/// Sends the browser to the issuer; answers where the issuer sends it back.
async fn at_issuer(browser: &Browser, to: &str) -> String {
    let sent = browser.get(&format!("/sign-in/with/corp?to={to}")).await;
    assert_eq!(sent.status, 303, "{}", sent.text);
    let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let back = client.get(&sent.location).send().await.unwrap();
    let back = back.headers()["location"].to_str().unwrap().to_owned();
    back[back.find("/sign-in/back").unwrap()..].to_owned()
}

/// The browser comes back, by a link of another site.
async fn back(browser: &Browser, path: &str) -> Page {
    let request = browser.request(Method::GET, path).header("Sec-Fetch-Site", "cross-site");
    browser.send(request.header("Sec-Fetch-Mode", "navigate").header("Sec-Fetch-Dest", "document")).await
}

async fn logged_in(server: &TestServer) -> Browser {
    let browser = Browser::of(server);
    let page = back(&browser, &at_issuer(&browser, "/").await).await;
    assert_eq!(page.status, 200, "{}", page.text);
    browser
}

async fn audit(server: &TestServer, admin: &Client, query: &str) -> Vec<Value> {
    let audit = send(admin.get(format!("{}/v1/audit?{query}", server.base))).await.body;
    audit["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn whoever_logs_in_at_the_issuer_gets_a_session_with_what_the_rules_allow() {
    for store in ["sqlite:test.db".to_owned(), postgres::shared().store().await] {
        let issuer = Issuer::start();
        let (server, admin) = server(&store, &issuer, "").await;
        let browser = Browser::of(&server);
        let page = browser.get("/sign-in?to=/projects/web").await;
        let link = "href=\"/sign-in/with/corp?to=%2Fprojects%2Fweb\">Sign in with corp</a>";
        assert!(page.text.contains(link), "{}", page.text);
        let sent = browser.get("/sign-in/with/corp?to=/projects/web").await;
        let kept = sent.cookie("singletrack-log-in");
        assert!(
            kept.contains("; HttpOnly") && kept.contains("; SameSite=Lax") && kept.contains("; Max-Age=600"),
            "{kept}"
        );
        let path = at_issuer(&browser, "/projects/web").await;
        let page = back(&browser, &path).await;
        assert_eq!(page.status, 200, "{}", page.text);
        assert!(page.text.contains("content=\"0; url=/projects/web\""), "{}", page.text);
        assert!(page.cookie("singletrack").contains("; SameSite=Strict"), "{:?}", page.set);
        assert_eq!(browser.cookie("singletrack-log-in"), None);
        let page = browser.get("/projects/web").await;
        assert!(page.status == 200 && page.text.contains("alice@example.com"), "{} {}", page.status, page.text);

        let entry = &audit(&server, &admin, "").await[0];
        assert_eq!((&entry["action"], &entry["caller"]), (&json!("sign_in"), &json!("oidc:corp:alice@example.com")));
        let list = send(admin.get(format!("{}/v1/tokens", server.base))).await.body;
        let session = &list["tokens"][0];
        assert!(session["name"].as_str().unwrap().starts_with("corp~"), "{list}");
        assert_eq!((&session["scopes"], &session["isSession"]), (&json!(["read", "cancel"]), &json!(true)));
        // A code works once, and a way back is gone once.
        let again = back(&browser, &path).await;
        assert_eq!(again.status, 400, "{}", again.text);
        let out = browser.submit("/", "/sign-out", &[]).await;
        assert_eq!(out.status, 303);
        assert_eq!(audit(&server, &admin, "action=sign_out").await[0]["caller"], "oidc:corp:alice@example.com");
    }
}

#[tokio::test]
async fn a_way_back_counts_only_in_the_browser_that_went_there() {
    let issuer = Issuer::start();
    let (server, _) = server("sqlite:test.db", &issuer, "").await;
    let (one, other) = (Browser::of(&server), Browser::of(&server));
    let (of_one, of_other) = (at_issuer(&one, "/").await, at_issuer(&other, "/").await);
    // Somebody else's way back signs nobody in as that person.
    for path in [&of_other, "/sign-in/back", "/sign-in/back?code=code-1", "/sign-in/back?code=code-1&state=x"] {
        let browser = Browser::of(&server);
        let kept = one.cookie("singletrack-log-in").unwrap();
        browser.set_cookie("singletrack-log-in", &kept);
        let refused = back(&browser, path).await;
        assert_eq!(refused.status, 400, "{path}: {}", refused.text);
        assert!(refused.text.contains("begin again") && browser.cookie("singletrack").is_none(), "{}", refused.text);
    }
    assert_eq!(back(&Browser::of(&server), &of_one).await.status, 400, "without the cookie");
    assert_eq!(issuer.unused_codes(), 2, "the issuer was asked for none of them");
    // A code of another browser's log-in does not fit to this one's verifier.
    let code = part(&of_other, "code=", "&");
    let own = part(&of_one, "code=", "&");
    let refused = back(&one, &of_one.replace(&format!("code={own}"), &format!("code={code}"))).await;
    assert_eq!(refused.status, 401, "{}", refused.text);
    assert!(refused.text.contains("invalid_grant"), "{}", refused.text);
    // Another issuer's answer is none.
    let mixed = of_other.replace("iss=http", "iss=https");
    assert_eq!(back(&other, &mixed).await.status, 400);
}

#[tokio::test]
async fn a_token_that_is_not_for_this_log_in_is_not_taken_and_the_screen_says_why() {
    let issuer = Issuer::start();
    let (server, admin) = server("sqlite:test.db", &issuer, "").await;
    for (person, status, says) in [
        (json!({ "nonce": "of another log-in" }), 401, "of another log-in"),
        (json!({ "nonce": null }), 401, "of another log-in"),
        (json!({ "aud": "wiki" }), 401, "made for another client"),
        (json!({ "aud": ["deploys", "wiki"] }), 401, "made for another client"),
        (json!({ "azp": "wiki" }), 401, "made for another client"),
        (json!({ "iss": "https://evil.example" }), 401, "names another issuer"),
        (json!({ "exp": 1_000_000 }), 401, "expired"),
        (json!({ "email_verified": false }), 401, "not verified your address"),
        (json!({ "email": null }), 401, "must name its subject (`email`)"),
        (json!({ "groups": ["staff"] }), 403, "no rule of this server lets you in"),
        (json!({ "groups": null }), 403, "no rule of this server lets you in"),
    ] {
        issuer.person(person.clone());
        let browser = Browser::of(&server);
        let refused = back(&browser, &at_issuer(&browser, "/projects/web").await).await;
        assert_eq!(refused.status, status, "{person}: {}", refused.text);
        let text = refused.text.replace("&#96;", "`");
        assert!(text.contains(says), "{person}: {text}");
        assert!(
            text.contains("Sign in with corp") && text.contains("to=%2Fprojects%2Fweb"),
            "it can be tried again: {text}"
        );
        assert_eq!(browser.cookie("singletrack"), None, "{person}");
    }
    issuer.person(json!({}));
    let browser = Browser::of(&server);
    let path = at_issuer(&browser, "/").await;
    let state = part(&path, "state=", "&");
    let denied = format!("/sign-in/back?error=access_denied&error_description=%3Cb%3Eno%3C/b%3E&state={state}");
    let refused = back(&browser, &denied).await;
    assert_eq!(refused.status, 401, "{}", refused.text);
    assert!(refused.text.contains("access_denied") && !refused.text.contains("<b>no"), "{}", refused.text);
    assert!(audit(&server, &admin, "action=sign_in").await.is_empty());
    assert_eq!(Browser::of(&server).get("/sign-in/with/nobody").await.status, 404);
}

#[tokio::test]
async fn a_client_with_a_secret_shows_it_as_the_issuer_wants() {
    for in_form in [false, true] {
        let issuer = Issuer::start();
        issuer.client_secret("s3cret", in_form);
        let (server, _) = server("sqlite:test.db", &issuer, "client_secret_file = \"secret\"").await;
        std::fs::write(server.path("secret"), "wrong\n").unwrap();
        let browser = Browser::of(&server);
        let refused = back(&browser, &at_issuer(&browser, "/").await).await;
        assert!(refused.status == 401 && refused.text.contains("invalid_client"), "{}", refused.text);
        std::fs::write(server.path("secret"), "s3cret\n").unwrap();
        assert_eq!(logged_in(&server).await.get("/").await.status, 200);
        assert!(!server.log().contains("s3cret"));
    }
}

#[tokio::test]
async fn a_reload_changes_what_people_may_do_and_ends_the_sessions_of_those_who_are_out() {
    let issuer = Issuer::start();
    let (server, _) = server("sqlite:test.db", &issuer, "").await;
    let browser = logged_in(&server).await;
    let stream = browser.request(Method::GET, "/live").header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let (_, table) = a_token("root", "");
    configure(&server, &issuer, "", &format!("{}{table}", RULES.replace("\"read\", ", ""))).await;
    stream.text().await.unwrap();
    assert_eq!(browser.get("/").await.status, 403, "the rule gives less");
    configure(&server, &issuer, "", &format!("{RULES}{table}")).await;
    assert_eq!(browser.get("/").await.status, 200);
    configure(&server, &issuer, "", &format!("{}{table}", RULES.replace("deployers", "admins"))).await;
    let out = browser.get("/").await;
    assert_eq!((out.status, &*out.location), (303, "/sign-in?why=ended"));
    let other = logged_in_again(&server).await;
    assert_eq!(other.status, 403, "{}", other.text);
    server.reload_by_signal(&gated_config(&table), |log| log.contains("keys_changed=")).await;
    assert_eq!(Browser::of(&server).get("/sign-in/with/corp").await.status, 404);
}

async fn logged_in_again(server: &TestServer) -> Page {
    let browser = Browser::of(server);
    back(&browser, &at_issuer(&browser, "/").await).await
}

#[tokio::test]
async fn where_people_log_in_nobody_gets_in_without() {
    let issuer = Issuer::start();
    let server = TestServer::start(&config(&issuer, "http://127.0.0.1:1", "", RULES));
    assert_eq!(Browser::of(&server).get("/").await.status, 303);
    assert_eq!(server.get("/v1/projects").await.refusal(), (401, "UNAUTHORIZED"));
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_is_told_on_the_screen() {
    let issuer = Issuer::start();
    let (server, _) = server("sqlite:test.db", &issuer, "").await;
    let config = config(&issuer, &server.base, "", RULES).replace(&issuer.url, "http://127.0.0.1:9/none");
    server.reload_by_signal(&config, |log| log.contains("keys_changed=")).await;
    let refused = Browser::of(&server).get("/sign-in/with/corp").await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(
        refused.text.contains("cannot be asked at the moment") && refused.text.contains("name=\"token\""),
        "{}",
        refused.text
    );
}
