//! Gets the keys of an issuer: by its address, or from where the configuration says. Everything is bounded: the time, the
//! size, and where the keys may come from.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use reqwest::{Certificate, Client, Url, redirect::Policy};
use serde::Deserialize;

use super::token::shown;
use crate::config::OidcIssuer;

/// How long both requests together may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// The largest answer.
const SIZE_LIMIT: usize = 512 << 10;
/// Where an issuer says where its keys are: OpenID Connect Discovery 1.0.
const DISCOVERY: &str = ".well-known/openid-configuration";

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeySource {
    pub name: String,
    pub issuer: String,
    pub jwks_uri: Option<String>,
    pub ca_cert: Option<PathBuf>,
}

impl KeySource {
    pub fn of(issuer: &OidcIssuer) -> Self {
        let OidcIssuer { name, issuer, jwks_uri, ca_cert, .. } = issuer.clone();
        KeySource { name, issuer, jwks_uri, ca_cert }
    }
}

/// Fetches the set of keys, as it is written.
pub(super) async fn keys(source: &KeySource) -> Result<Vec<u8>, String> {
    let limit = TIME_LIMIT.as_secs();
    tokio::time::timeout(TIME_LIMIT, both(source)).await.unwrap_or_else(|_| Err(format!("no answer within {limit} s")))
}

async fn both(source: &KeySource) -> Result<Vec<u8>, String> {
    let jwks_uri = match &source.jwks_uri {
        Some(jwks_uri) => jwks_uri.clone(),
        None => discover(source).await?,
    };
    get(source, &jwks_uri).await
}

async fn discover(source: &KeySource) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Discovered {
        issuer: String,
        jwks_uri: String,
    }
    let text = get(source, &format!("{}/{DISCOVERY}", source.issuer.trim_end_matches('/'))).await?;
    let found: Discovered =
        serde_json::from_slice(&text).map_err(|error| format!("{DISCOVERY} cannot be read: {error}"))?;
    // Whoever answers there speaks for another issuer, or the configuration has another spelling than its tokens.
    if found.issuer != source.issuer {
        return Err(format!("it calls itself '{}'; write the issuer so", shown(&found.issuer)));
    }
    Ok(found.jwks_uri)
}

async fn get(source: &KeySource, address: &str) -> Result<Vec<u8>, String> {
    let url = Url::parse(address).map_err(|error| format!("{}: {error}", shown(address)))?;
    let is_loopback = is_loopback(&url);
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback) {
        return Err(format!("{url} does not begin with https://"));
    }
    let client = client(source, is_loopback, url.scheme() == "https")?;
    let failed = |error: reqwest::Error| format!("{url}: {}", innermost(&error));
    let mut response = client.get(url.clone()).send().await.map_err(failed)?;
    let status = response.status();
    if status.is_redirection() {
        return Err(format!("{url} redirects, and keys are taken only from where they are said to be"));
    }
    if !status.is_success() {
        return Err(format!("{url} answers {status}"));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if text.len() + chunk.len() > SIZE_LIMIT {
            return Err(format!("{url} answers more than {} KiB", SIZE_LIMIT >> 10));
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

/// Made for each fetch, so that an authority that was exchanged counts. Fetches are seldom.
fn client(source: &KeySource, is_loopback: bool, is_encrypted: bool) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("singletrack/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .pool_max_idle_per_host(0);
    if is_loopback {
        builder = builder.no_proxy();
    }
    builder = match &source.ca_cert {
        // Plain HTTP needs no certificates, and reading them takes long.
        _ if !is_encrypted => builder.tls_certs_only([]),
        Some(path) => {
            let unusable = |why: String| format!("ca_cert {}: {why}", path.display());
            let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(innermost(&error)))?;
            builder.tls_certs_merge(certificates)
        }
        None => builder,
    };
    builder.build().map_err(|error| innermost(&error))
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
