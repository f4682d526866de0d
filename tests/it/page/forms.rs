//! Every form proves that it came from a page of the browser that sends it.

use reqwest::Method;
use serde_json::json;

use super::{Browser, closed};
use crate::harness::{TestServer, client_with, gated_config, send};

#[tokio::test]
async fn a_form_without_the_right_proof_does_nothing() {
    let (server, token) = closed("sqlite:test.db", "");
    let (one, other) = (Browser::signed_in(&server, &token).await, Browser::signed_in(&server, &token).await);
    let stranger = Browser::of(&server).get("/sign-in").await.proof();
    let (own, others) = (one.get("/").await.proof(), other.get("/").await.proof());
    assert_ne!(own, others);
    let longer = format!("{own}0");
    for proof in ["", "x", &others, &stranger, &longer, &own[1..], &own.to_uppercase()] {
        let refused = one.post("/sign-out", &[("csrf", proof)]).await;
        assert_eq!(refused.status, 403, "{proof}: {}", refused.text);
        assert!(refused.text.contains("oad the page again"), "{}", refused.text);
    }
    assert_eq!(one.post("/sign-out", &[]).await.status, 403);
    let json = one.request(Method::POST, "/sign-out").json(&json!({ "csrf": own }));
    assert_eq!(one.send(json).await.status, 415);
    let large = "x".repeat(70_000);
    assert_eq!(one.post("/sign-out", &[("csrf", &own), ("more", &large)]).await.status, 413);
    assert_eq!(one.get("/").await.status, 200, "the session is still there");
    assert_eq!(one.post("/sign-out", &[("csrf", &own)]).await.status, 303);
    assert_eq!(other.get("/").await.status, 200);

    // Where people sign in, a page of another site could sign them in as somebody else.
    let victim = Browser::of(&server);
    victim.get("/sign-in").await;
    let refused = victim.post("/sign-in", &[("token", &token), ("csrf", &stranger)]).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let refused = Browser::of(&server).post("/sign-in", &[("token", &token), ("csrf", "")]).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let audit = send(client_with(&token).get(format!("{}/v1/audit?action=sign_in", server.base))).await.body;
    assert_eq!(audit["entries"].as_array().unwrap().len(), 2, "{audit}");
}

#[tokio::test]
async fn a_page_of_another_site_sends_no_form_whatever_it_knows() {
    let (server, token) = closed("sqlite:test.db", "");
    let browser = Browser::signed_in(&server, &token).await;
    let proof = browser.get("/").await.proof();
    let form = || browser.form("/sign-out", &[("csrf", &proof)]);
    let host = server.base.strip_prefix("http://").unwrap();
    for (name, value) in [
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        let request = form().header(name, value).header("Sec-Fetch-Mode", "navigate");
        let refused = browser.send(request.header("Sec-Fetch-Dest", "document")).await;
        assert_eq!(refused.status, 403, "{name}: {value}");
    }
    let own = form().header("Origin", format!("http://{host}")).header("Sec-Fetch-Site", "same-origin");
    assert_eq!(browser.send(own).await.status, 303);
}

#[tokio::test]
async fn on_an_open_server_a_form_carries_a_proof_of_its_browser() {
    let server = TestServer::start(&gated_config(""));
    let (one, other) = (Browser::of(&server), Browser::of(&server));
    other.get("/").await;
    one.get("/").await;
    for browser in [&one, &other] {
        assert_eq!(browser.post("/sign-out", &[("csrf", "")]).await.status, 403);
        assert_eq!(browser.post("/sign-out", &[]).await.status, 403);
    }
    // A page without any form shows none of it, so the proof is computed as the server does.
    let proof = {
        use sha2::{Digest as _, Sha256};
        let secret = one.cookie("singletrack-form").unwrap();
        data_encoding::HEXLOWER.encode(&Sha256::digest(format!("csrf{secret}")))
    };
    assert_eq!(other.post("/sign-out", &[("csrf", &proof)]).await.status, 403);
    let done = one.post("/sign-out", &[("csrf", &proof)]).await;
    assert_eq!((done.status, &*done.location), (303, "/"));
}
