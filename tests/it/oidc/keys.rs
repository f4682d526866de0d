//! The issuer's keys: fetched seldom, exchanged without a restart, and bounded whatever the issuer does.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{MAIN_OF_WEB, look, server_with};
use crate::harness::{
    TestServer, client_with, gated_config,
    issuer::{Issuer, KeysAnswer, SigningKey},
};

#[tokio::test]
async fn keys_are_exchanged_without_a_restart() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let old = issuer.token(&json!({}));
    assert_eq!(look(&server, &old).await.status, 200);
    let second = SigningKey::rsa();
    issuer.show_keys(vec![issuer.first_key(), second.jwk("second")]);
    let new = second.token("second", &issuer.claims());
    let seen = look(&server, &new).await;
    assert_eq!(seen.status, 200, "{}", seen.text);
    assert_eq!(look(&server, &old).await.status, 200, "the old key goes on as long as the issuer shows it");
    assert_eq!(issuer.fetch_count(), 2);
}

#[tokio::test]
async fn a_key_that_left_the_set_takes_its_tokens_along() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let old = issuer.token(&json!({}));
    assert_eq!(look(&server, &old).await.status, 200);
    let second = SigningKey::ec();
    issuer.show_keys(vec![second.jwk("second")]);
    assert_eq!(look(&server, &second.token("second", &issuer.claims())).await.status, 200);
    let refused = look(&server, &old).await;
    assert_eq!(refused.refusal(), (401, "TOKEN_NOT_ACCEPTED"), "{}", refused.text);
    assert!(refused.body["detail"].as_str().unwrap().contains("has not the key 'first'"), "{}", refused.text);
}

#[tokio::test]
async fn a_thousand_tokens_with_unknown_keys_cause_one_fetch() {
    let issuer = Issuer::start();
    let server = Arc::new(server_with(&issuer, MAIN_OF_WEB));
    let good = issuer.token(&json!({}));
    assert_eq!(look(&server, &good).await.status, 200);
    let stranger = Arc::new(SigningKey::ec());
    let claims = issuer.claims();
    for batch in 0..20 {
        let tokens: Vec<_> = (0..50).map(|nth| stranger.token(&format!("unknown {batch} {nth}"), &claims)).collect();
        for refused in join_all(tokens.iter().map(|token| look(&server, token))).await {
            assert!(refused.status == 401 || refused.status == 429, "{}", refused.text);
        }
    }
    assert_eq!(look(&server, &good).await.status, 200, "the others go on");
    // A slow machine may take longer than the pause between two fetches.
    assert!((2..=4).contains(&issuer.fetch_count()), "{} fetches", issuer.fetch_count());
}

#[tokio::test]
async fn many_first_tokens_share_one_fetch() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let tokens: Vec<_> = (0..50).map(|nth| issuer.token(&json!({ "jti": format!("{nth}") }))).collect();
    for seen in join_all(tokens.iter().map(|token| look(&server, token))).await {
        assert_eq!(seen.status, 200, "{}", seen.text);
    }
    assert_eq!(issuer.fetch_count(), 1);
}

#[tokio::test]
async fn an_issuer_without_usable_keys_is_said_to_be_out_of_reach_and_the_reason_is_told() {
    let weak = json!({ "kty": "RSA", "kid": "first", "n": "AQAB".repeat(20), "e": "AQAB" });
    let mut encryption = SigningKey::ec().jwk("first");
    encryption["use"] = json!("enc");
    let mut operations = SigningKey::ec().jwk("first");
    operations["key_ops"] = json!(["sign"]);
    let secret = json!({ "kty": "oct", "kid": "first", "k": "c2VjcmV0", "alg": "HS256" });
    let set = |keys: Vec<Value>| KeysAnswer::Text(200, json!({ "keys": keys }).to_string());
    let many = (0..101).map(|nth| SigningKey::ed().jwk(&format!("{nth}"))).collect();
    for (what, answer, says) in [
        ("an error", KeysAnswer::Text(500, "{}".to_owned()), "answers 500"),
        ("no JSON", KeysAnswer::Text(200, "<html>".to_owned()), "cannot be read"),
        ("a redirect", KeysAnswer::Redirect, "redirects"),
        (
            "too much",
            KeysAnswer::Text(200, format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(600_000))),
            "more than 512 KiB",
        ),
        ("too many keys", set(many), "at most 100"),
        ("no keys", set(Vec::new()), "no key that can check a signature"),
        ("keys of other kinds", set(vec![weak, encryption, operations, secret, json!(7)]), "no key that can check"),
    ] {
        let issuer = Issuer::start();
        issuer.answer(answer);
        let server = server_with(&issuer, MAIN_OF_WEB);
        let refused = look(&server, &issuer.token(&json!({}))).await;
        assert_eq!(refused.refusal(), (503, "ISSUER_UNREACHABLE"), "{what}: {}", refused.text);
        assert!(refused.body["detail"].as_str().unwrap().contains(says), "{what}: {}", refused.text);
        assert_eq!(refused.body["retryable"], true);
    }
}

#[tokio::test]
async fn an_issuer_that_hangs_holds_up_nobody_whose_token_is_known() {
    let issuer = Issuer::start();
    let (token, table) = crate::harness::a_token();
    let config = format!("{}{table}", issuer.config("github", MAIN_OF_WEB));
    let server = TestServer::start(&gated_config(&config));
    server.close_gate();
    let known = issuer.token(&json!({}));
    assert_eq!(look(&server, &known).await.status, 200);
    issuer.answer(KeysAnswer::Hang);
    let stranger = SigningKey::ec().token("second", &issuer.claims());
    let waits = look(&server, &stranger);
    let others = async {
        issuer_was_asked(&issuer).await;
        for _ in 0..20 {
            assert_eq!(look(&server, &known).await.status, 200);
            let plain = client_with(&token).get(format!("{}/v1/projects/web", server.base)).send().await.unwrap();
            assert_eq!(plain.status(), 200);
        }
    };
    let (refused, ()) = tokio::join!(waits, others);
    assert_eq!(refused.refusal(), (503, "ISSUER_UNREACHABLE"), "{}", refused.text);
    assert!(refused.body["detail"].as_str().unwrap().contains("no answer within 5 s"), "{}", refused.text);
    // Tokens of the keys that are there are still taken.
    let fresh = issuer.token(&json!({ "jti": "another" }));
    assert_eq!(look(&server, &fresh).await.status, 200);
}

/// Waits, off the runtime, until the issuer was asked for its keys a second time.
async fn issuer_was_asked(issuer: &Issuer) {
    while issuer.fetch_count() < 2 {
        tokio::task::yield_now().await;
    }
}
