//! Webhooks as [Standard Webhooks](https://www.standardwebhooks.com) describes them: JSON, with an id, a time stamp, and an
//! HMAC-SHA256 over `id.timestamp.body`.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::client::Undelivered;
use crate::model::NotificationId;

/// The prefix of a secret that is base64.
const ENCODED: &str = "whsec_";

/// The headers that prove who sent this body, and when. Each line of `secret` makes a signature, so that a secret can be
/// exchanged while the receiver knows either.
pub(super) fn headers(
    id: &NotificationId,
    now: Timestamp,
    body: &[u8],
    secret: &str,
) -> Result<HeaderMap, Undelivered> {
    let (id, at) = (format!("msg_{id}"), now.as_second());
    let message = [format!("{id}.{at}.").as_bytes(), body].concat();
    let signatures: Result<Vec<_>, _> =
        secret.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| sign(line, &message)).collect();
    let header = |text: String| HeaderValue::try_from(text).map_err(|_| Undelivered::now("a header is not valid"));
    Ok(HeaderMap::from_iter([
        (HeaderName::from_static("webhook-id"), header(id)?),
        (HeaderName::from_static("webhook-timestamp"), header(at.to_string())?),
        (HeaderName::from_static("webhook-signature"), header(signatures?.join(" "))?),
    ]))
}

fn sign(secret: &str, message: &[u8]) -> Result<String, Undelivered> {
    let key = match secret.strip_prefix(ENCODED) {
        Some(text) => BASE64
            .decode(text.as_bytes())
            .map_err(|_| Undelivered::now(format!("the secret begins with {ENCODED}, and the rest is not base64")))?,
        None => secret.as_bytes().to_vec(),
    };
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), message);
    Ok(format!("v1,{}", BASE64.encode(signature.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the description of Standard Webhooks.
    #[test]
    fn the_signature_is_that_of_the_standard() {
        let message = br#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
        let signature = sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", message).expect("the secret is valid");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_line_of_a_secret_makes_a_signature() {
        let id = NotificationId::parse(&"a".repeat(32)).expect("an id");
        let headers = headers(&id, Timestamp::UNIX_EPOCH, b"{}", "new\n old \n\n").expect("both are valid");
        let signatures = headers["webhook-signature"].to_str().expect("text");
        assert_eq!(signatures.split(' ').count(), 2);
        assert_eq!(headers["webhook-timestamp"], "0");
        assert!(sign("whsec_%", b"").is_err());
    }
}
