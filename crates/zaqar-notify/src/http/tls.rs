//! Trusted certificates.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The environment variable that Python's requests, and so the original, reads.
const BUNDLE: &str = "REQUESTS_CA_BUNDLE";

/// The source of CA certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Roots {
    /// The file that `REQUESTS_CA_BUNDLE` names, if it is set, else the system's.
    #[default]
    System,
    /// A PEM file.
    File(PathBuf),
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read or has no certificate.
    #[error("no certificate can be read from {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// TLS itself cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// A client's TLS configuration. A system without certificates is no error here: webhooks over http
/// work, and those over https fail with a clear message.
pub(super) fn config(roots: &Roots) -> Result<ClientConfig, RootsError> {
    let bundle = || std::env::var_os(BUNDLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let mut store = RootCertStore::empty();
    match roots {
        Roots::File(path) => store_file(&mut store, path.clone())?,
        Roots::System => match bundle() {
            Some(path) => store_file(&mut store, path)?,
            None => {
                let found = rustls_native_certs::load_native_certs();
                store.add_parsable_certificates(found.certs);
            }
        },
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(store).with_no_client_auth())
}

fn store_file(store: &mut RootCertStore, path: PathBuf) -> Result<(), RootsError> {
    let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect);
    let certificates: Vec<_> = match read {
        Ok(certificates) => certificates,
        Err(source) => return Err(RootsError::File { path, source }),
    };
    if certificates.is_empty() {
        let source = rustls::pki_types::pem::Error::NoItemsFound;
        return Err(RootsError::File { path, source });
    }
    store.add_parsable_certificates(certificates);
    Ok(())
}
