//! The rules of TLS, by `sslmode`: which certificates are trusted.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::{
    config::{PostgresUrl, TlsMode},
    store::StoreError,
};

/// The TLS configuration for a connection to this URL.
pub(super) fn config(url: &PostgresUrl) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let unusable = |what: &dyn std::fmt::Display| StoreError::Unusable(format!("cannot set up TLS: {what}"));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = match url.tls() {
        TlsMode::Disable | TlsMode::Prefer => {
            Arc::new(Verifier { strict: None, takes_any_name: true, named: Vec::new(), provider })
        }
        TlsMode::VerifyCa | TlsMode::VerifyFull => {
            let (roots, named) = roots(url.root_certificates())?;
            let roots = Arc::new(roots);
            let strict = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            let strict = strict.build().map_err(|error| unusable(&error))?;
            let takes_any_name = url.tls() == TlsMode::VerifyCa;
            Arc::new(Verifier { strict: Some(strict), takes_any_name, named, provider })
        }
    };
    // The verifiers below decide which certificates are trusted. Each one documents the checks that it leaves out.
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The authorities, and the certificates of the named file.
fn roots(file: Option<&Path>) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), StoreError> {
    let (mut roots, mut named) = (RootCertStore::empty(), Vec::new());
    match file {
        Some(file) => {
            let shown = file.display();
            let unusable = |error: &dyn std::fmt::Display| {
                StoreError::Unusable(format!("cannot read the certificates in {shown}: {error}"))
            };
            let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unusable(&error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                named.push(certificate.clone().into_owned());
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            if roots.is_empty() {
                return Err(StoreError::Unusable(format!("there is no certificate in {shown}")));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(StoreError::Unusable(
                    "this system trusts no certificate authority; name a file of them with sslrootcert=".to_owned(),
                ));
            }
        }
    }
    Ok((roots, named))
}

/// Trusts a certificate that an authority has signed: for the name in the URL, or for any name (`sslmode=verify-ca`).
/// Without authorities it trusts every certificate, which protects only against passive listeners (`sslmode=prefer`). A
/// certificate that is itself in the file of `sslrootcert`, such as the self-signed one of PostgreSQL's manual, is
/// trusted as it is, because the user named it.
#[derive(Debug)]
struct Verifier {
    strict: Option<Arc<WebPkiServerVerifier>>,
    takes_any_name: bool,
    named: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(strict) = &self.strict else { return Ok(ServerCertVerified::assertion()) };
        if self.named.iter().any(|named| named.as_ref() == certificate.as_ref()) {
            return Ok(ServerCertVerified::assertion());
        }
        // The name is checked last, so this error means that every other check passed.
        match strict.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.takes_any_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
