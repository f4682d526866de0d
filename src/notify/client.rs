//! One HTTP request to a target: bounded in time and size, to addresses that the rule allows, without proxies and
//! redirects.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use reqwest::{
    Certificate, Client, Method, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};

use super::address::GuardedResolver;
use crate::config::{NotifyTarget, require_allowed};

/// How long the connection may take, and the whole request.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer that is read. The rest of a longer one is not read.
const SIZE_LIMIT: usize = 256 << 10;
/// How much of a refusal's text is told, in characters.
const SHOWN_LIMIT: usize = 200;

/// Why a notification was not sent.
#[derive(Debug)]
pub(super) struct Undelivered {
    /// What happened, for operators. Never a secret, nor an address that is one.
    pub why: String,
    /// In how long the target wants to be asked again.
    pub asked: Option<Duration>,
    /// Whether trying again is useless.
    pub is_final: bool,
}

impl Undelivered {
    /// It may succeed another time.
    pub(super) fn now(why: impl Into<String>) -> Self {
        Undelivered { why: why.into(), asked: None, is_final: false }
    }

    /// It never will.
    pub(super) fn forever(why: impl Into<String>) -> Self {
        Undelivered { is_final: true, ..Undelivered::now(why) }
    }
}

/// What a target answered.
#[derive(Debug)]
pub(super) struct TargetAnswer {
    pub status: StatusCode,
    pub body: Vec<u8>,
    asked: Option<Duration>,
}

impl TargetAnswer {
    /// The answer of a target that took it.
    pub(super) fn success(self) -> Result<TargetAnswer, Undelivered> {
        if self.status.is_success() { Ok(self) } else { Err(self.refused()) }
    }

    /// The body of a success, as JSON.
    pub(super) fn json(self) -> Result<serde_json::Value, Undelivered> {
        let body = self.success()?.body;
        serde_json::from_slice(&body).map_err(|_| Undelivered::now("the target's answer cannot be read"))
    }

    /// Why it is a refusal.
    pub(super) fn refused(self) -> Undelivered {
        let TargetAnswer { status, body, asked } = self;
        let text: String = String::from_utf8_lossy(&body)
            .chars()
            .map(|letter| if letter.is_control() { ' ' } else { letter })
            .take(SHOWN_LIMIT)
            .collect();
        let told = if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) };
        let why = if status.is_redirection() {
            format!("the target answers {status}, and redirects are not followed; write its final address")
        } else {
            format!("the target answers {status}{told}")
        };
        Undelivered { why, asked, is_final: status == StatusCode::GONE }
    }
}

/// The client of one delivery. It is made anew for each, so that certificates that were exchanged count, and no connection
/// is kept to an address that was looked up long ago. Reads files, so it blocks.
pub(super) fn client(target: &NotifyTarget, url: &str) -> Result<Client, Undelivered> {
    let mut builder = Client::builder()
        .user_agent(concat!("singletrack/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_LIMIT)
        .timeout(REQUEST_LIMIT)
        .dns_resolver(GuardedResolver::new(target.allowed.clone()));
    builder = match &target.ca_cert {
        // Plain HTTP needs no certificates, and reading them takes long.
        _ if url.starts_with("http://") => builder.tls_certs_only([]),
        Some(path) => {
            let unusable = |why: String| Undelivered::now(format!("ca_cert {}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(innermost(&error)))?;
            builder.tls_certs_merge(certificates)
        }
        None => builder,
    };
    builder.build().map_err(|error| Undelivered::now(innermost(&error)))
}

/// Sends JSON, or nothing, and reads the answer.
pub(super) async fn send(
    client: &Client,
    target: &NotifyTarget,
    method: Method,
    url: &str,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
) -> Result<TargetAnswer, Undelivered> {
    // A host that is an address is never looked up, so it is examined here.
    require_allowed(url, &target.allowed).map_err(|why| Undelivered::now(format!("the address {why}")))?;
    let url = Url::parse(url).map_err(|_| Undelivered::now("the target's address is not valid"))?;
    let mut request = client.request(method, url).headers(headers);
    if let Some(body) = body {
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body);
    }
    let failed = |error: reqwest::Error| Undelivered::now(in_words(&error));
    let mut response = request.send().await.map_err(failed)?;
    let (status, asked) = (response.status(), asked_wait(&response, Timestamp::now()));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk[..chunk.len().min(SIZE_LIMIT - body.len())]);
        if body.len() >= SIZE_LIMIT {
            break;
        }
    }
    Ok(TargetAnswer { status, body, asked })
}

/// In how long the target wants to be asked again: seconds, or a moment.
fn asked_wait(response: &Response, now: Timestamp) -> Option<Duration> {
    retry_after(response.headers().get(RETRY_AFTER)?.to_str().ok()?, now)
}

fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let wait: SignedDuration = at.duration_since(now);
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// What went wrong, without the address, which may be a secret.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        let (connect, all) = (CONNECT_LIMIT.as_secs(), REQUEST_LIMIT.as_secs());
        return format!("no answer in time: a connection may take {connect} s, and a request {all} s");
    }
    innermost(error)
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // The outermost one has the address in it.
    if std::ptr::addr_eq(cause, error) { "the request could not be sent".to_owned() } else { cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_as_a_moment() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        let seconds = |text| retry_after(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Sun, 01 Mar 2026 12:01:00 GMT"), Some(60));
        assert_eq!(seconds("Sun, 01 Mar 2026 11:00:00 GMT"), Some(0));
        assert_eq!(seconds("soon"), None);
        assert_eq!(seconds("-5"), None);
    }
}
