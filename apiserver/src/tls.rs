//! A certificate authority and a server certificate, made at start and never written anywhere.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::server::Error;

/// What the server shows, and what clients need to trust it.
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) acceptor: TlsAcceptor,
}

impl Identity {
    /// A fresh identity for a server at `address`.
    pub(crate) fn new(address: IpAddr) -> Result<Identity, Error> {
        let wrong = |error: rcgen::Error| Error::Tls(error.to_string());
        let mut ca = CertificateParams::new(Vec::new()).map_err(wrong)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "Fairway demo cluster");
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().map_err(wrong)?).map_err(wrong)?;

        let names = vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into(), address.to_string()];
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate =
            CertificateParams::new(names).map_err(wrong)?.signed_by(&key, &ca).map_err(wrong)?;

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)
            })
            .map_err(|error| Error::Tls(error.to_string()))?;
        Ok(Identity { ca_pem: ca.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// Base64, as kubeconfig files want certificates.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}
