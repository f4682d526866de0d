//! How a server is reached: connections, proxies, and whom to trust.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use reqwest::{Certificate, Url};

use super::error::SetupError;

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// An HTTP client for this server; `ca_cert` is an additional certificate authority.
pub(super) fn http_client(base: &Url, ca_cert: Option<&Path>) -> Result<reqwest::Client, SetupError> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("singletrack/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(15))
        // There is never more than a parked poll and one other call.
        .pool_max_idle_per_host(2)
        .pool_idle_timeout(Duration::from_secs(20));
    if is_loopback(base) {
        // A proxy for the internet cannot reach servers of this machine.
        builder = builder.no_proxy();
        // `localhost` means both of these addresses, whatever /etc/hosts says, and the server listens on one of them.
        if let Some(name) = base.domain() {
            let [v4, v6] = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
            builder = builder.resolve_to_addrs(name, &[SocketAddr::new(v4, 0), SocketAddr::new(v6, 0)]);
        }
    }
    builder = match (base.scheme(), ca_cert) {
        // Reading the system's certificates takes most of the start-up time, and plain HTTP needs no certificates.
        ("http", _) => builder.tls_certs_only([]),
        (_, Some(path)) => builder.tls_certs_merge(certificates(path)?),
        (_, None) => builder,
    };
    let needs_authorities = base.scheme() == "https";
    builder.build().map_err(|error| SetupError::Http { why: root_cause(&error), needs_authorities })
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, SetupError> {
    let unusable = |why: String| SetupError::Authority { path: path.to_owned(), why };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(root_cause(&error)))?;
    if certificates.is_empty() { Err(unusable("no certificate in it".to_owned())) } else { Ok(certificates) }
}

/// Whether this is a server of this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let by_name = host == "localhost" || host.ends_with(".localhost");
    by_name || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The innermost cause of an error.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
