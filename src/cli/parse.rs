//! Parses the values of flags; each error says which values are valid.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use reqwest::Url;

use crate::{
    config::parse_duration,
    model::{DeploymentName, Glob, IdempotencyKey, ORDER_LIMIT, ProjectName, Scope, Status, token::require_token_name},
};

pub(super) fn parse_server(text: &str) -> Result<Url, String> {
    const EXAMPLE: &str = "write it as http://HOST:PORT or https://HOST";
    if text.is_empty() {
        return Err(format!("it is empty; {EXAMPLE}"));
    }
    if !text.contains("://") {
        return Err(format!("it has no scheme; write http://{text} or https://{text}"));
    }
    let url = Url::parse(text).map_err(|error| format!("it is not a URL ({error}); {EXAMPLE}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("its scheme is {}; {EXAMPLE}", url.scheme()));
    }
    // A password in the URL is refused later, because an error here would be printed together with the whole value.
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("it goes on after its path; {EXAMPLE}"));
    }
    Ok(url)
}

pub(super) fn parse_project(text: &str) -> Result<ProjectName, String> {
    text.parse().map_err(|error: crate::model::InvalidId| error.to_string())
}

pub(super) fn parse_deployment(text: &str) -> Result<DeploymentName, String> {
    text.parse().map_err(|error: crate::model::InvalidId| format!("{error}; `singletrack list` shows them"))
}

pub(super) fn parse_key(text: &str) -> Result<IdempotencyKey, String> {
    text.parse().map_err(|error: crate::model::InvalidId| error.to_string())
}

pub(super) fn parse_text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it is empty; leave the flag out".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) fn parse_order(text: &str) -> Result<u64, String> {
    let order = text.trim().parse().ok().filter(|order| *order <= ORDER_LIMIT);
    order.ok_or_else(|| format!("it is a whole number from 0 to {ORDER_LIMIT}, such as the CI's build number"))
}

pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    // The wire counts whole seconds, and the server takes up to a day.
    if timeout < Duration::from_secs(1) || timeout > Duration::from_secs(24 * 60 * 60) {
        return Err("it is from 1s to 24h".to_owned());
    }
    Ok(timeout)
}

/// How long a token is valid.
pub(super) fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = parse_duration(text)?;
    if lifetime < Duration::from_secs(1) { Err("it is at least 1s".to_owned()) } else { Ok(lifetime) }
}

pub(super) fn parse_scope(text: &str) -> Result<Scope, String> {
    text.parse().map_err(|error: crate::model::InvalidScope| error.to_string())
}

pub(super) fn parse_glob(text: &str) -> Result<Glob, String> {
    Glob::of_projects(text).map_err(|error| error.to_string())
}

pub(super) fn parse_token_name(text: &str) -> Result<String, String> {
    require_token_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// A number of things.
pub(super) fn parse_count<T: TryFrom<u64>>(limits: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let count =
            text.trim().parse().ok().filter(|count| limits.contains(count)).and_then(|count| T::try_from(count).ok());
        count.ok_or_else(|| format!("it is a whole number from {} to {}", limits.start(), limits.end()))
    }
}

pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write it as IP:PORT, such as 127.0.0.1:7878, 0.0.0.0:7878 or [::1]:7878".to_owned())
}

pub(super) fn parse_input(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("write it as NAME=VALUE".to_owned()),
    }
}

pub(super) fn parse_status(text: &str) -> Result<Status, String> {
    [Status::Pending, Status::Running, Status::Succeeded, Status::Failed, Status::Cancelled]
        .into_iter()
        .find(|status| status.as_str().eq_ignore_ascii_case(text))
        .ok_or_else(|| "it is one of PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_url_with_a_scheme_and_nothing_after_its_path() {
        assert!(parse_server("http://127.0.0.1:7878").is_ok());
        assert!(parse_server("https://deploy.example/track").is_ok());
        for (text, says) in [
            ("", "empty"),
            ("localhost:7878", "write http://localhost:7878"),
            ("deploy.example", "write http://deploy.example"),
            ("ftp://deploy.example", "scheme is ftp"),
            ("http://", "not a URL"),
            ("http://deploy.example/?a=b", "goes on after its path"),
        ] {
            let error = parse_server(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn an_input_has_a_name() {
        assert_eq!(parse_input("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_input("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_input("a").is_err());
        assert!(parse_input("=b").is_err());
    }
}
