//! TLS of a listener, with files that are reloaded when they change.

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zaqar_core::StateLog;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the files are checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How often unusable files are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes that TLS adds to a connection: its state, and two buffers of one record each.
pub(crate) const TLS_BYTES: usize = 48 * 1024;

/// The PEM files of a listener's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// If set, every client must present a certificate that one of these authorities signed.
    pub client_authorities: Option<PathBuf>,
}

/// The TLS configuration cannot be used. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or does not have the expected PEM contents.
    #[error("{} cannot be used as {what}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The expected contents.
        what: &'static str,
        /// The reason.
        source: rustls::pki_types::pem::Error,
    },
    /// A file contains no certificate.
    #[error("{} contains no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The certificate does not match the key or the authorities.
    #[error("the certificate in {} cannot be used with its key and authorities: {reason}",
        path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// TLS of a listener. New connections use the files that were loaded last.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    protocols: Vec<Vec<u8>>,
    loaded: RwLock<Loaded>,
    log: StateLog,
}

#[derive(Debug, Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// Digest of the contents of all files.
    digest: u64,
}

impl Tls {
    /// Loads the files. `protocols` are offered through ALPN (RFC 7301), in order of preference.
    ///
    /// # Errors
    /// [`TlsError`] when a file is missing, unreadable, or does not match the others.
    pub fn load(files: TlsFiles, protocols: &[&str]) -> Result<Self, TlsError> {
        let protocols: Vec<_> = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let digest = digest(&files);
        let config = Arc::new(read(&files, &protocols)?);
        let loaded = RwLock::new(Loaded { config, digest });
        let log = StateLog::with_interval(LOG_INTERVAL);
        Ok(Self { files, protocols, loaded, log })
    }

    /// Reloads the files if their contents have changed, and returns whether they had. On an error
    /// the old certificate stays in use. Blocks while it reads files.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn reload(&self) -> Result<bool, TlsError> {
        let digest = digest(&self.files);
        if digest == self.loaded.read().unwrap_or_else(PoisonError::into_inner).digest {
            return Ok(false);
        }
        let config = Arc::new(read(&self.files, &self.protocols)?);
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        *loaded = Loaded { config, digest };
        Ok(true)
    }

    /// Reloads the files within seconds after they change, until `shutdown`. Files that cannot be
    /// used are logged once a minute, and once when they can be used again.
    pub async fn watch(self: Arc<Self>, shutdown: CancellationToken) {
        let mut ticks = interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let tls = Arc::clone(&self);
            let Ok(reloaded) = tokio::task::spawn_blocking(move || tls.reload()).await else {
                return;
            };
            self.log_reload(reloaded);
        }
    }

    fn log_reload(&self, reloaded: Result<bool, TlsError>) {
        let certificate = self.files.certificate.display();
        match reloaded {
            Ok(changed) => {
                let recovered = self.log.success().is_some();
                if changed || recovered {
                    info!(%certificate, "TLS certificate reloaded");
                }
            }
            Err(error) => {
                if self.log.failure().is_some() {
                    warn!(%error, "cannot reload TLS files, the old certificate stays in use");
                }
            }
        }
    }

    /// Performs the TLS handshake of a connection, within 10 s.
    ///
    /// # Errors
    /// Those of the handshake, or `TimedOut`.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner).config);
        timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await?
    }
}

/// Digest of the bytes of all files; a file that cannot be read counts as empty.
fn digest(files: &TlsFiles) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in [&files.certificate, &files.key].into_iter().chain(&files.client_authorities) {
        let bytes = std::fs::read(path).unwrap_or_default();
        hasher.write_usize(bytes.len());
        hasher.write(&bytes);
    }
    hasher.finish()
}

fn read(files: &TlsFiles, protocols: &[Vec<u8>]) -> Result<ServerConfig, TlsError> {
    let unusable = |reason: &dyn std::fmt::Display| TlsError::Unusable {
        path: files.certificate.clone(),
        reason: reason.to_string(),
    };
    let chain = certificates(&files.certificate, "a certificate")?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::File {
        path: files.key.clone(),
        what: "a private key",
        source,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, "certificates of authorities")? {
                roots.add(authority).map_err(|error| unusable(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(&error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(&error))?;
    config.alpn_protocols = protocols.to_vec();
    Ok(config)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_path_buf(), what, source };
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let found = read.map_err(failed)?;
    if found.is_empty() {
        return Err(TlsError::Empty { path: path.to_path_buf() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;

    /// A certificate authority, and a directory with a certificate that it signed for `localhost`.
    struct Authority {
        issuer: CertifiedIssuer<'static, KeyPair>,
        directory: tempfile::TempDir,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer =
                CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let made = Self { issuer, directory: tempfile::tempdir().unwrap() };
            made.renew();
            std::fs::write(made.path("ca.pem"), made.issuer.pem()).unwrap();
            made
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn signed(&self) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            (certificate.pem(), key.serialize_pem())
        }

        /// Replaces the certificate and the key.
        fn renew(&self) {
            let (certificate, key) = self.signed();
            std::fs::write(self.path("cert.pem"), certificate).unwrap();
            std::fs::write(self.path("key.pem"), key).unwrap();
        }

        fn files(&self, asks_clients: bool) -> TlsFiles {
            TlsFiles {
                certificate: self.path("cert.pem"),
                key: self.path("key.pem"),
                client_authorities: asks_clients.then(|| self.path("ca.pem")),
            }
        }

        fn client(&self, shows_certificate: bool) -> TlsConnector {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let config = if shows_certificate {
                let (certificate, key) = self.signed();
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            } else {
                builder.with_no_client_auth()
            };
            TlsConnector::from(Arc::new(config))
        }
    }

    /// Sends a byte and reads the echo; returns the certificate that the client received.
    async fn echoed(tls: &Tls, client: TlsConnector) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serving = async {
            let mut stream = tls.accept(listener.accept().await?.0).await?;
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
            stream.shutdown().await
        };
        let requesting = async {
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = client.connect(name, TcpStream::connect(address).await?).await?;
            stream.write_u8(7).await?;
            assert_eq!(stream.read_u8().await?, 7);
            let seen = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
            Ok(seen)
        };
        let (served, seen) = tokio::join!(serving, requesting);
        served.and(seen)
    }

    #[tokio::test]
    async fn new_files_are_used_and_broken_ones_are_not() {
        let authority = Authority::new();
        let tls = Tls::load(authority.files(false), &["http/1.1"]).unwrap();
        let first = echoed(&tls, authority.client(false)).await.unwrap();
        assert!(!tls.reload().unwrap(), "nothing changed");
        std::fs::write(authority.path("key.pem"), "no key").unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("key.pem") && error.contains("private key"), "{error}");
        assert_eq!(echoed(&tls, authority.client(false)).await.unwrap(), first);
        // The key of another certificate.
        let (_, other) = authority.signed();
        std::fs::write(authority.path("key.pem"), other).unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("cert.pem") && error.contains("key"), "{error}");
        authority.renew();
        assert!(tls.reload().unwrap());
        assert_ne!(echoed(&tls, authority.client(false)).await.unwrap(), first);
    }

    #[tokio::test]
    async fn with_authorities_a_client_must_show_a_certificate() {
        let authority = Authority::new();
        let tls = Tls::load(authority.files(true), &[]).unwrap();
        echoed(&tls, authority.client(true)).await.unwrap();
        echoed(&tls, authority.client(false)).await.unwrap_err();
        let other = Authority::new();
        let stranger = Tls::load(
            TlsFiles { client_authorities: Some(other.path("ca.pem")), ..authority.files(false) },
            &[],
        );
        echoed(&stranger.unwrap(), authority.client(true)).await.unwrap_err();
    }

    #[test]
    fn an_error_names_the_file() {
        let authority = Authority::new();
        let missing =
            TlsFiles { certificate: authority.path("none.pem"), ..authority.files(false) };
        assert!(Tls::load(missing, &[]).unwrap_err().to_string().contains("none.pem"));
        std::fs::write(authority.path("empty.pem"), "").unwrap();
        let empty = TlsFiles { certificate: authority.path("empty.pem"), ..authority.files(false) };
        assert!(Tls::load(empty, &[]).unwrap_err().to_string().contains("empty.pem"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_has_ten_seconds() {
        let authority = Authority::new();
        let tls = Tls::load(authority.files(false), &[]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let error = tls.accept(stream).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
