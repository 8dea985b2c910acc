//! Client certificates by the thousand, signed by the stack's own CA and kept in memory.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;

/// One person or device: an enrolled email, and the TLS configuration that proves it.
pub struct Identity {
    pub email: String,
    pub tls: Arc<ClientConfig>,
}

/// The email of user number `n`; `bench/run` enrols them under the same names.
pub fn email(n: usize) -> String {
    format!("device-{n:07}@bench.example")
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<rustls::RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Authority {
    /// Reads `ca.crt` and `ca.key` of the stack.
    pub fn read(certs: &Path) -> io::Result<Self> {
        let certificate = fs::read_to_string(certs.join("ca.crt"))?;
        let key = KeyPair::from_pem(&fs::read_to_string(certs.join("ca.key"))?).map_err(io::Error::other)?;
        let mut roots = rustls::RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(io::Error::other)?;
        roots.add(der).map_err(io::Error::other)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(io::Error::other)?;
        Ok(Self { issuer, roots: Arc::new(roots), provider: Arc::new(ring::default_provider()) })
    }

    /// `count` different people, spread evenly over a table of `users` rows, so that a large table is
    /// really touched all over.
    pub fn identities(&self, count: usize, users: usize) -> io::Result<Vec<Identity>> {
        (0..count).map(|n| self.identity(email(n % users.min(count) * (users / count).max(1)))).collect()
    }

    fn identity(&self, email: String) -> io::Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, email.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
        let mut tls = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .map_err(io::Error::other)?;
        // Where handshakes are counted, each is a whole one.
        tls.resumption = Resumption::disabled();
        Ok(Identity { email, tls: Arc::new(tls) })
    }
}
