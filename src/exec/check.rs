//! Requests a URL until it answers well: so a pipeline finds out whether the deployed service is alive.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::time::Instant;

use crate::config::{Check, format_duration};

/// How long one try may take, because a server that accepts and never answers must not use up the whole check.
const TRY_LIMIT: Duration = Duration::from_secs(10);

/// How long before its end a check sends the last request. A live server answers within this time.
const LAST_TRY: Duration = Duration::from_millis(500);

/// A check gives up this much earlier than its phase's limit, so that the message names the URL's problem and not the
/// time-out.
const AHEAD: Duration = Duration::from_millis(10);

/// Requests the URL until the first good answer. Each problem that differs from the one before goes to `note`. When the
/// time is up, the error holds the last problem. May be dropped at any time.
pub async fn poll(check: &Check, mut note: impl FnMut(String)) -> Result<(), String> {
    let url = Url::parse(&check.url).map_err(|error| format!("{}: {error}", check.url))?;
    let client = client_for(&url, check.expect_status.is_some())
        .map_err(|error| format!("cannot ask {}: {}", shown(&url), innermost(&error)))?;
    let give_up_at = Instant::now() + check.timeout - AHEAD.min(check.timeout / 10);
    // If the next try would come too late, it is made earlier, so that all of the time is used.
    let last_try_at = give_up_at - LAST_TRY.min(check.timeout / 2);
    let mut last_problem: Option<String> = None;
    loop {
        let begun = Instant::now();
        let try_limit = TRY_LIMIT.min(give_up_at.saturating_duration_since(begun));
        let answer = client.get(url.clone()).timeout(try_limit).send().await;
        let problem = match answer.map(|answer| answer.status().as_u16()) {
            Ok(status) if is_good(status, check.expect_status) => return Ok(()),
            Ok(status) => match check.expect_status {
                Some(expected) => format!("it answered {status} instead of {expected}"),
                None => format!("it answered {status}"),
            },
            // The end of the check cut this try short, so the problem of the try before it says more.
            Err(error) if error.is_timeout() => match &last_problem {
                Some(earlier) if try_limit < TRY_LIMIT => earlier.clone(),
                Some(_) | None => format!("no answer within {}", format_duration(try_limit)),
            },
            Err(error) => innermost(&error),
        };
        if last_problem.as_ref() != Some(&problem) {
            note(format!("{} is not well yet: {problem}", shown(&url)));
        }
        if begun >= last_try_at {
            // Wait for the announced time: the message must not claim a time that has not passed.
            tokio::time::sleep_until(give_up_at).await;
            let waited = format_duration(check.timeout);
            return Err(format!("{} was not well within {waited}: {problem}", shown(&url)));
        }
        last_problem = Some(problem);
        tokio::time::sleep_until((Instant::now() + check.interval).min(last_try_at)).await;
    }
}

fn is_good(status: u16, expected: Option<u16>) -> bool {
    expected.map_or((200..300).contains(&status), |expected| status == expected)
}

fn client_for(url: &Url, exact_status: bool) -> Result<Client, reqwest::Error> {
    let plain = url.scheme() == "http";
    let policy = match (exact_status, plain) {
        // Do not follow redirects: the expected status may be a redirect's.
        (true, _) => Policy::none(),
        (false, false) => Policy::default(),
        (false, true) => Policy::custom(|attempt| {
            let go_on = attempt.url().scheme() == "http" && attempt.previous().len() < 10;
            if go_on { attempt.follow() } else { attempt.stop() }
        }),
    };
    let mut builder = Client::builder().redirect(policy).user_agent("singletrack").pool_max_idle_per_host(0);
    if plain {
        // Do not load the system's certificates: this check verifies none, and loading them takes longer than the
        // check.
        builder = builder.tls_certs_only([]);
    }
    // Use no proxy for an address of this machine.
    let host = url.host_str().unwrap_or_default();
    if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
        builder = builder.no_proxy();
    }
    builder.build()
}

/// The URL without its password, because a password must not get into logs.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        // This fails only for URLs that cannot have a password in the first place.
        let _ = url.set_password(Some("…"));
    }
    url.set_query(None);
    url.to_string()
}

/// The innermost cause, because people understand it: "Connection refused", not "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
