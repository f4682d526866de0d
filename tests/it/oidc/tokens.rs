//! Which tokens are let in, and what is said to the others.

use aws_lc_rs::hmac;
use jiff::Timestamp;
use serde_json::json;

use super::{MAIN_OF_WEB, look, server_with, submit};
use crate::harness::issuer::{Issuer, SigningKey, signed};

#[tokio::test]
async fn a_token_of_a_configured_issuer_lets_a_job_in_whatever_kind_of_key_signed_it() {
    for (kind, key) in [("RSA", SigningKey::rsa()), ("EC", SigningKey::ec()), ("Ed25519", SigningKey::ed())] {
        let issuer = Issuer::with_key(key);
        let server = server_with(&issuer, MAIN_OF_WEB);
        let token = issuer.token(&json!({}));
        for _ in 0..3 {
            let accepted = submit(&server, "web", &token).await;
            assert_eq!(accepted.status, 202, "{kind}: {}", accepted.text);
        }
        assert_eq!(look(&server, &token).await.status, 200, "{kind}");
        // Audiences may be several, and times may have fractions.
        let now = Timestamp::now().as_second() as f64;
        let other = issuer.token(&json!({ "aud": ["elsewhere", "singletrack"], "exp": now + 60.5 }));
        assert_eq!(look(&server, &other).await.status, 200, "{kind}");
        assert_eq!(issuer.fetch_count(), 1, "{kind}: the keys are fetched once");
    }
}

#[tokio::test]
async fn a_token_that_is_not_what_it_should_be_is_refused_with_what_is_wrong() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let now = Timestamp::now().as_second();
    for (changes, code, says) in [
        (json!({ "aud": "sts.amazonaws.com" }), "TOKEN_NOT_ACCEPTED", "made for 'sts.amazonaws.com'"),
        (json!({ "aud": ["a", "b"] }), "TOKEN_NOT_ACCEPTED", "SINGLETRACK_OIDC_AUDIENCE"),
        (json!({ "aud": null }), "TOKEN_NOT_ACCEPTED", "made for nobody"),
        (json!({ "iss": "https://gitlab.com" }), "TOKEN_NOT_ACCEPTED", "no tokens of the issuer 'https://gitlab.com'"),
        (json!({ "iss": format!("{}/", issuer.url) }), "TOKEN_NOT_ACCEPTED", "no tokens of the issuer"),
        (json!({ "iss": null }), "TOKEN_NOT_ACCEPTED", "not a signed token"),
        (json!({ "exp": null }), "TOKEN_NOT_ACCEPTED", "does not say when it expires"),
        (json!({ "exp": "soon" }), "TOKEN_NOT_ACCEPTED", "`exp` is not a time"),
        (json!({ "exp": 1e300 }), "TOKEN_NOT_ACCEPTED", "`exp` is not a time"),
        (json!({ "sub": null }), "TOKEN_NOT_ACCEPTED", "must name its subject"),
        (json!({ "sub": "a\nb" }), "TOKEN_NOT_ACCEPTED", "without control characters"),
        (json!({ "iat": now - 1000, "exp": now - 700 }), "TOKEN_EXPIRED", "expired 11m4"),
        (json!({ "iat": now + 90, "nbf": now + 90, "exp": now + 400 }), "TOKEN_NOT_ACCEPTED", "it was issued 1m"),
        (json!({ "nbf": now + 90 }), "TOKEN_NOT_ACCEPTED", "it becomes valid 1m"),
        // A clock that is an hour off, in either direction.
        (
            json!({ "iat": now + 3600, "nbf": now + 3600, "exp": now + 3900 }),
            "TOKEN_NOT_ACCEPTED",
            "set this server's clock",
        ),
        (
            json!({ "iat": now - 3600, "nbf": now - 3600, "exp": now - 3300 }),
            "TOKEN_EXPIRED",
            "it was issued 1h00m ago",
        ),
    ] {
        let refused = look(&server, &issuer.token(&changes)).await;
        assert_eq!(refused.refusal(), (401, code), "{changes}: {}", refused.text);
        let told = refused.body["detail"].as_str().unwrap();
        let near = says.replace("11m4", "11m3");
        assert!(told.contains(says) || told.contains(&near) || told.contains("59m5"), "{changes}: {told}");
    }
    // The clocks may differ by a minute.
    for changes in [
        json!({ "iat": now - 330, "nbf": now - 330, "exp": now - 30 }),
        json!({ "iat": now + 30, "nbf": now + 30, "exp": now + 330 }),
        json!({ "iat": null, "nbf": null }),
    ] {
        let seen = look(&server, &issuer.token(&changes)).await;
        assert_eq!(seen.status, 200, "{changes}: {}", seen.text);
    }
}

#[tokio::test]
async fn a_token_without_a_signature_of_the_issuers_own_key_is_refused() {
    let key = SigningKey::rsa();
    let public = key.jwk("first");
    let issuer = Issuer::with_key(key);
    let other = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    let claims = issuer.claims();
    let header = |algorithm: &str| json!({ "alg": algorithm, "kid": "first", "typ": "JWT" });
    let hmac_with = |secret: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        signed(&header("HS256"), &claims, |message| hmac::sign(&key, message).as_ref().to_vec())
    };
    let good = issuer.token(&json!({}));
    let (front, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = front.split_once('.').unwrap();
    let changed = issuer.token(&json!({ "repository": "mallory/web" }));
    let payload = changed.split('.').nth(1).unwrap();
    let stranger = SigningKey::rsa();
    let ec = SigningKey::ec();
    for (what, token) in [
        ("none", signed(&header("none"), &claims, |_| Vec::new())),
        ("None", signed(&header("None"), &claims, |_| Vec::new())),
        ("no algorithm", signed(&json!({ "kid": "first" }), &claims, |_| Vec::new())),
        ("HMAC with the public key as JSON", hmac_with(public.to_string().as_bytes())),
        ("HMAC with the modulus", hmac_with(public["n"].as_str().unwrap().as_bytes())),
        ("HMAC with nothing", hmac_with(b"")),
        ("RS256 without a signature", signed(&header("RS256"), &claims, |_| Vec::new())),
        ("another key under the same kid", stranger.token("first", &claims)),
        ("another kind of key under the same kid", ec.token("first", &claims)),
        ("the issuer's key for another algorithm", signed(&header("RS512"), &claims, |_| vec![0; 256])),
        ("a key in the header", {
            let own = json!({ "alg": "RS256", "kid": "first", "jwk": stranger.jwk("first") });
            stranger.token_with(&own, &claims)
        }),
        ("a header that must be understood", {
            let critical = json!({ "alg": "RS256", "kid": "first", "crit": ["b64"], "b64": true });
            signed(&critical, &claims, |_| vec![0; 256])
        }),
        ("another issuer's key, in our issuer's name", other.token(&json!({ "iss": issuer.url }))),
        ("other claims under the signature", format!("{head}.{payload}.{signature}")),
        ("half a signature", format!("{front}.{}", &signature[..100])),
        ("no claims", format!("{head}..{signature}")),
        ("claims that are no object", signed(&header("RS256"), &json!([1]), |_| vec![0; 256])),
    ] {
        let refused = look(&server, &token).await;
        assert_eq!(refused.refusal(), (401, "TOKEN_NOT_ACCEPTED"), "{what}: {}", refused.text);
        assert!(!refused.text.contains(signature), "{what}: {}", refused.text);
    }
    assert_eq!(look(&server, &good).await.status, 200, "the others do no harm to the good one");
    assert!(!server.log().contains(signature), "a token is never logged");
}

#[tokio::test]
async fn what_is_no_signed_token_is_a_token_that_the_server_does_not_know() {
    let issuer = Issuer::start();
    let server = server_with(&issuer, MAIN_OF_WEB);
    for token in ["st_abc", "a.b.c", "eyJ", "eyJ.eyJ"] {
        let refused = look(&server, token).await;
        assert_eq!(refused.refusal(), (401, "UNAUTHORIZED"), "{token}: {}", refused.text);
    }
    assert_eq!(issuer.fetch_count(), 0);
}
