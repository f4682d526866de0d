//! Gets the keys of an issuer: by its address, or from where the configuration says. Everything is bounded: the time, the
//! size, and where the keys may come from.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use reqwest::{
    Certificate, Client, Url,
    header::{ACCEPT, CONTENT_TYPE},
    redirect::Policy,
};
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
    within_limit(both(source)).await
}

async fn both(source: &KeySource) -> Result<Vec<u8>, String> {
    let jwks_uri = match &source.jwks_uri {
        Some(jwks_uri) => jwks_uri.clone(),
        None => discover(source).await?.jwks_uri,
    };
    get(source, &jwks_uri).await
}

/// What an issuer says of itself.
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Where an issuer lets people log in.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    /// Where a browser is sent.
    pub authorization: String,
    /// Where this server asks for a person's token.
    pub token: String,
    /// Whether a client's secret stands in the form there, because the issuer takes it in no other way.
    pub takes_secret_in_form: bool,
}

/// Asks an issuer where it lets people log in.
pub(super) async fn endpoints(source: &KeySource) -> Result<Endpoints, String> {
    let found = within_limit(discover(source)).await?;
    let told = |endpoint: Option<String>, name: &str| endpoint.ok_or_else(|| format!("it names no {name}"));
    let authorization = told(found.authorization_endpoint, "authorization_endpoint")?;
    checked(&authorization)?;
    let methods = found.token_endpoint_auth_methods_supported.unwrap_or_default();
    let takes = |method: &str| methods.iter().any(|known| known == method);
    Ok(Endpoints {
        authorization,
        token: told(found.token_endpoint, "token_endpoint")?,
        takes_secret_in_form: takes("client_secret_post") && !takes("client_secret_basic"),
    })
}

/// Sends a form, with the credentials of a client if it shows them so; answers the status and the text.
pub(super) async fn send_form(
    source: &KeySource,
    address: &str,
    form: String,
    basic: Option<(String, String)>,
) -> Result<(u16, Vec<u8>), String> {
    within_limit(ask(source, address, Some((form, basic)))).await
}

async fn within_limit<T>(asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let limit = TIME_LIMIT.as_secs();
    tokio::time::timeout(TIME_LIMIT, asked).await.unwrap_or_else(|_| Err(format!("no answer within {limit} s")))
}

async fn discover(source: &KeySource) -> Result<Discovered, String> {
    let text = get(source, &format!("{}/{DISCOVERY}", source.issuer.trim_end_matches('/'))).await?;
    let found: Discovered =
        serde_json::from_slice(&text).map_err(|error| format!("{DISCOVERY} cannot be read: {error}"))?;
    // Whoever answers there speaks for another issuer, or the configuration has another spelling than its tokens.
    if found.issuer != source.issuer {
        return Err(format!("it calls itself '{}'; write the issuer so", shown(&found.issuer)));
    }
    Ok(found)
}

async fn get(source: &KeySource, address: &str) -> Result<Vec<u8>, String> {
    match ask(source, address, None).await? {
        (200..=299, text) => Ok(text),
        (status, _) => Err(format!("{} answers {status}", shown(address))),
    }
}

/// An address that is asked only by TLS, unless it is on this machine.
fn checked(address: &str) -> Result<Url, String> {
    let url = Url::parse(address).map_err(|error| format!("{}: {error}", shown(address)))?;
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url)) {
        return Err(format!("{url} does not begin with https://"));
    }
    Ok(url)
}

/// Asks with GET, or sends a form.
async fn ask(
    source: &KeySource,
    address: &str,
    form: Option<(String, Option<(String, String)>)>,
) -> Result<(u16, Vec<u8>), String> {
    let url = checked(address)?;
    let client = client(source, is_loopback(&url), url.scheme() == "https")?;
    let failed = |error: reqwest::Error| format!("{url}: {}", innermost(&error));
    let request = match form {
        Some((form, basic)) => {
            let request = client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
            match basic {
                Some((id, secret)) => request.basic_auth(id, Some(secret)),
                None => request,
            }
        }
        None => client.get(url.clone()),
    };
    let mut response = request.header(ACCEPT, "application/json").send().await.map_err(failed)?;
    let status = response.status();
    if status.is_redirection() {
        return Err(format!("{url} redirects, and nothing is taken but from where it is said to be"));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if text.len() + chunk.len() > SIZE_LIMIT {
            return Err(format!("{url} answers more than {} KiB", SIZE_LIMIT >> 10));
        }
        text.extend_from_slice(&chunk);
    }
    Ok((status.as_u16(), text))
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
