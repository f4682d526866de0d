//! The `[tls]` table: the server's own certificate and key. The files are read together with the configuration, so that a
//! pair that does not fit is a problem of the file, and a reload reads them again. See decision 0068.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_cert::{
    Certificate,
    der::{Decode as _, asn1::ObjectIdentifier, oid::AssociatedOid as _},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::{reader::ConfigTable, require};

/// The one protocol that is spoken above TLS.
const ALPN: &[u8] = b"http/1.1";

/// The server's own certificate and key, as they were read.
#[derive(Clone)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    server: Arc<ServerConfig>,
    validity: CertificateTerm,
    names: CertificateNames,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CertificateTerm {
    from: Timestamp,
    until: Timestamp,
}

/// What a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CertificateNames {
    hosts: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Tls {
    /// What a handshake needs.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// When the certificate expires.
    pub fn expires_at(&self) -> Timestamp {
        self.validity.until
    }

    /// Why the certificate does not count at this moment.
    pub fn outdated(&self, now: Timestamp) -> Option<String> {
        let (file, CertificateTerm { from, until }) = (self.cert.display(), self.validity);
        if now < from {
            return Some(format!(
                "`tls.cert`: the certificate in {file} is not valid before {from}; it is {now:.0} here"
            ));
        }
        (now > until).then(|| format!("`tls.cert`: the certificate in {file} expired at {until}; it is {now:.0} here"))
    }

    /// The address under which programs of this machine reach the server, in a form for which the certificate counts if
    /// there is one.
    pub fn authority(&self, address: SocketAddr) -> String {
        let port = address.port();
        if self.names.addresses.contains(&address.ip()) {
            return address.to_string();
        }
        let plain: Vec<_> = self.names.hosts.iter().filter(|name| !name.starts_with('*')).collect();
        let local = plain.iter().find(|name| **name == "localhost" && address.ip().is_loopback());
        local.or(plain.first()).map_or_else(|| address.to_string(), |name| format!("{name}:{port}"))
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        // Another key for the same certificate is the same key.
        (&self.cert, &self.key, &self.chain) == (&other.cert, &other.key, &other.chain)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("cert", &self.cert).field("key", &self.key).finish_non_exhaustive()
    }
}

pub(super) fn read(mut section: ConfigTable<'_>) -> Option<Tls> {
    let file = |text: &str| match text {
        text if text.is_empty() || text.contains('\0') => Err("must name a file".to_owned()),
        text => Ok(PathBuf::from(text)),
    };
    let (cert, key) = (section.parsed("cert", file), section.parsed("key", file));
    for (name, absent) in [("cert", cert.is_none()), ("key", key.is_none())] {
        require(&section, name, absent);
    }
    let problem = |key: &str, why: String| {
        section.document.problem(section.span_of(key), format!("`{}`: {why}", section.path_of(key)));
    };
    let chain = cert.as_ref().and_then(|file| chain(file).map_err(|why| problem("cert", why)).ok());
    let secret = key.as_ref().and_then(|file| secret(file).map_err(|why| problem("key", why)).ok());
    let known = chain.as_ref().and_then(|chain| known(&chain[0]).map_err(|why| problem("cert", why)).ok());
    let tls = match (cert, key, chain, secret, known) {
        (Some(cert), Some(key), Some(chain), Some(secret), Some((validity, names))) => match server(&chain, secret) {
            Ok(server) => Some(Tls { cert, key, chain, server, validity, names }),
            Err(why) => {
                problem("key", format!("{why} ({} and {})", cert.display(), key.display()));
                None
            }
        },
        _ => None,
    };
    section.finish();
    tls
}

/// The server's certificate, and those that lead to its authority.
fn chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| format!("{} is no PEM file: {error}", file.display()))?;
    if chain.is_empty() { Err(format!("there is no CERTIFICATE in {}", file.display())) } else { Ok(chain) }
}

fn secret(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| format!("there is no PRIVATE KEY without a passphrase in {}: {error}", file.display()))
}

/// What the certificate says of itself.
fn known(certificate: &CertificateDer<'_>) -> Result<(CertificateTerm, CertificateNames), String> {
    let unreadable = |error: &dyn fmt::Display| format!("the certificate cannot be read: {error}");
    let certificate = Certificate::from_der(certificate).map_err(|error| unreadable(&error))?.tbs_certificate;
    let at = |time: x509_cert::time::Time| {
        let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    };
    let validity =
        CertificateTerm { from: at(certificate.validity.not_before), until: at(certificate.validity.not_after) };
    let mut names = CertificateNames::default();
    let extensions = certificate.extensions.unwrap_or_default();
    let is_names = |id: &ObjectIdentifier| *id == SubjectAltName::OID;
    for extension in extensions.iter().filter(|extension| is_names(&extension.extn_id)) {
        let listed = SubjectAltName::from_der(extension.extn_value.as_bytes()).map_err(|error| unreadable(&error))?;
        for name in listed.0 {
            match name {
                GeneralName::DnsName(name) => names.hosts.push(name.to_string()),
                GeneralName::IpAddress(bytes) => names.addresses.extend(address(bytes.as_bytes())),
                _ => {}
            }
        }
    }
    Ok((validity, names))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn server(chain: &[CertificateDer<'static>], secret: PrivateKeyDer<'static>) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(default_provider());
    let pair = CertifiedKey::from_der(chain.to_vec(), secret, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key does not belong to the certificate".to_owned()
        }
        error => format!("the key cannot be used: {error}"),
    })?;
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let mut server = server.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(server))
}
