//! Where a browser goes that is not signed in, and where it comes from.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::{Browser, closed};
use crate::harness::{TestServer, client_with, gated_config, send};

/// A person who follows a link on a page of another site.
fn by_link(request: RequestBuilder, site: &str) -> RequestBuilder {
    let request = request.header("Sec-Fetch-Site", site).header("Sec-Fetch-Mode", "navigate");
    request.header("Sec-Fetch-Dest", "document")
}

#[tokio::test]
async fn nobody_is_sent_to_another_site_after_signing_in() {
    let (server, token) = closed("sqlite:test.db", "");
    for to in [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\/evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        " //evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
        "/sign-out",
    ] {
        let browser = Browser::of(&server);
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("to", to).finish();
        let page = browser.get(&format!("/sign-in?{query}")).await;
        assert!(page.text.contains("name=\"to\" value=\"/\""), "{to}: {}", page.text);
        let signed_in = browser.post("/sign-in", &[("token", &token), ("to", to), ("csrf", &page.proof())]).await;
        assert_eq!((signed_in.status, &*signed_in.location), (303, "/"), "{to}");
    }
}

#[tokio::test]
async fn a_link_of_another_site_leads_a_browser_that_is_signed_in_to_its_page() {
    let (server, token) = closed("sqlite:test.db", "");
    let browser = Browser::signed_in(&server, &token).await;
    // The browser keeps the session's cookie back at first.
    let stranger = Browser::of(&server);
    let page = stranger.send(by_link(stranger.request(Method::GET, "/projects/web?a=%22%3E"), "cross-site")).await;
    assert_eq!(page.status, 200);
    let again = "<meta http-equiv=\"refresh\" content=\"0; url=/projects/web?a=%22%3E\">";
    assert!(page.text.contains(again), "{}", page.text);
    let marker = page.cookie("singletrack-again").to_owned();
    assert!(marker.contains("; SameSite=Lax") && marker.contains("; HttpOnly"), "{marker}");
    browser.set_cookie("singletrack-again", "1");
    let page =
        browser.send(browser.request(Method::GET, "/projects/web").header("Sec-Fetch-Site", "same-origin")).await;
    assert_eq!(page.status, 200);
    assert_eq!(browser.cookie("singletrack-again"), None, "the next link is followed in the same way");

    // At most once, also where the browser takes that for a request of another site.
    let second = stranger.send(by_link(stranger.request(Method::GET, "/projects/web"), "cross-site")).await;
    assert_eq!((second.status, &*second.location), (303, "/sign-in?to=%2Fprojects%2Fweb"));
    // A sister site's link comes with the cookie.
    let sister = browser.send(by_link(browser.request(Method::GET, "/projects/web"), "same-site")).await;
    assert_eq!(sister.status, 200);
    // A slash too many does not lead away.
    let stranger = Browser::of(&server);
    let page = stranger.send(by_link(stranger.request(Method::GET, "//evil.example/"), "cross-site")).await;
    assert!(!page.text.contains("url=//"), "{}", page.text);
}

#[tokio::test]
async fn a_page_of_another_site_loads_nothing_of_this_server() {
    let (server, token) = closed("sqlite:test.db", "");
    let open = TestServer::start(&gated_config(""));
    for (server, browser) in [(&server, Browser::signed_in(&server, &token).await), (&open, Browser::of(&open))] {
        let request = |path: &str| browser.request(Method::GET, path).header("Sec-Fetch-Site", "cross-site");
        for (mode, dest) in [("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("navigate", "embed")] {
            let refused = request("/").header("Sec-Fetch-Mode", mode).header("Sec-Fetch-Dest", dest);
            assert_eq!(browser.send(refused).await.status, 403, "{mode} {dest}");
        }
        assert_eq!(
            browser.send(by_link(browser.request(Method::GET, "/v1/projects"), "cross-site")).await.status / 100,
            4
        );
        let with_origin =
            by_link(browser.request(Method::GET, "/"), "cross-site").header("Origin", "https://a.example");
        assert_eq!(browser.send(with_origin).await.status, 403);
        assert!(server.base.starts_with("http://127.0.0.1"));
    }
    let browser = Browser::of(&open);
    assert_eq!(browser.send(by_link(browser.request(Method::GET, "/"), "cross-site")).await.status, 200);
}

#[tokio::test]
async fn without_a_session_a_form_and_a_stream_are_refused_and_not_sent_on() {
    let (server, _) = closed("sqlite:test.db", "");
    let browser = Browser::of(&server);
    let stream = browser.send(server.request(Method::GET, "/live").header("accept", "text/event-stream")).await;
    assert_eq!(stream.status, 401, "{}", stream.text);
    let signed_out = browser.submit("/sign-in", "/sign-out", &[]).await;
    assert_eq!(signed_out.status, 303, "whoever is out may sign out");
    let foreign = Browser::of(&server).get("/sign-in").await;
    assert_eq!(foreign.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn wrong_tokens_are_told_plainly_and_limited_as_elsewhere() {
    let (server, token) = closed("sqlite:test.db", "");
    let browser = Browser::of(&server);
    let empty = browser.sign_in("", "/").await;
    assert!(empty.status == 400 && empty.text.contains("Paste a token"), "{}", empty.text);
    let wrong = || singletrack::http::new_token().unwrap().token;
    let first = browser.sign_in(&wrong(), "/projects/web").await;
    assert_eq!(first.status, 401);
    assert!(first.text.contains("does not know this token"), "{}", first.text);
    assert!(first.text.contains("name=\"to\" value=\"/projects/web\""), "where the person was going is kept");
    let mut statuses = Vec::new();
    for _ in 0..45 {
        statuses.push(browser.sign_in(&wrong(), "/").await);
    }
    let limited: Vec<_> = statuses.iter().filter(|page| page.status == 429).collect();
    assert!(limited.len() >= 10, "{}", limited.len());
    assert!(limited[0].text.contains("Too many wrong tokens") && limited[0].headers.contains_key("retry-after"));
    assert!(statuses[..25].iter().all(|page| page.status == 401));
    assert_eq!(browser.sign_in(&token, "/").await.status, 303, "a valid token works meanwhile");
    let metrics = server.get("/metrics").await.text;
    let counted =
        metrics.lines().find(|line| line.starts_with("singletrack_refused_requests_total{code=\"TOO_MANY_ATTEMPTS\"}"));
    assert_eq!(counted.unwrap().rsplit(' ').next().unwrap(), limited.len().to_string());
    let is_told = async || {
        let audit = send(client_with(&token).get(format!("{}/v1/audit?action=refused", server.base))).await.body;
        audit["entries"].as_array().unwrap().iter().any(|line| {
            let detail = line["detail"].as_str().unwrap();
            line["address"] == json!("127.0.0.1") && detail.contains("UNAUTHORIZED: POST /sign-in")
        })
    };
    // Attempts are gathered for some seconds.
    while !is_told().await {
        tokio::task::yield_now().await;
    }
}
