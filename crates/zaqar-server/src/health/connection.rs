//! The connection to the server: TCP, TLS with the server's own certificate, or a Unix socket.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};
use zaqar_transport::TlsFiles;

use super::Place;

/// The timeout of each step: connecting, every read, and every write.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A stream in both directions.
pub(super) trait Duplex: Read + Write {}

impl<T: Read + Write> Duplex for T {}

/// A connection to the server.
pub(super) enum Connected {
    /// It takes requests.
    Open(Box<dyn Duplex>),
    /// The server has proved that it has the configured certificate, and asked for the client's,
    /// without which it takes no request.
    CertificateRequired,
}

/// Connects to a server. Unix sockets have no TLS.
///
/// # Errors
/// Those of the system, of TLS, and of a certificate's file that cannot be read.
pub(super) fn connect(place: &Place<'_>, tls: Option<&TlsFiles>) -> io::Result<Connected> {
    let (host, port) = match place {
        Place::Tcp { host, port } => (*host, *port),
        Place::Unix(path) => return Ok(Connected::Open(Box::new(connect_unix(path)?))),
    };
    let stream = TcpStream::connect_timeout(&address(host, port)?, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    match tls {
        None => Ok(Connected::Open(Box::new(stream))),
        Some(files) => handshake(stream, &files.certificate),
    }
}

/// The address to connect to for a listening address: "any address" becomes this machine.
fn address(host: &str, port: u16) -> io::Result<SocketAddr> {
    let found = (host, port).to_socket_addrs()?.next();
    let mut address = found.ok_or_else(|| io::Error::other("the host has no address"))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

/// The system waits without a limit while the socket's queue of connections is full, so a thread
/// connects.
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let (sender, connected) = mpsc::sync_channel(1);
    let path = path.to_path_buf();
    std::thread::spawn(move || sender.send(UnixStream::connect(path)));
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    let stream = connected.recv_timeout(TIMEOUT).map_err(timed_out)??;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Begins TLS. The server must have the first certificate of its configured file; neither names nor
/// authorities matter, as the certificate is known.
fn handshake(mut stream: TcpStream, certificate: &Path) -> io::Result<Connected> {
    let provider = Arc::new(ring::default_provider());
    let pinned = Arc::new(Pinned {
        certificate: first_certificate(certificate)?,
        provider: Arc::clone(&provider),
        is_proved: AtomicBool::new(false),
    });
    let resolver = Arc::new(NoCertificate::default());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pinned) as _)
        .with_client_cert_resolver(Arc::clone(&resolver) as _);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let outcome = connection.complete_io(&mut stream);
    if resolver.was_asked.load(Ordering::Relaxed) && pinned.is_proved.load(Ordering::Relaxed) {
        return Ok(Connected::CertificateRequired);
    }
    outcome?;
    Ok(Connected::Open(Box::new(StreamOwned::new(connection, stream))))
}

fn first_certificate(path: &Path) -> io::Result<CertificateDer<'static>> {
    let failed = |why: &dyn std::fmt::Display| {
        io::Error::other(format!("{} cannot be used as a certificate: {why}", path.display()))
    };
    let mut found = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    match found.next() {
        Some(certificate) => certificate.map_err(|error| failed(&error)),
        None => Err(failed(&"there is none in it")),
    }
}

/// Accepts one certificate, whoever issued it for whatever name.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
    /// The server has proved that it has the certificate's key.
    is_proved: AtomicBool,
}

impl Pinned {
    fn prove(
        &self,
        proof: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.is_proved.store(proof.is_ok(), Ordering::Relaxed);
        proof
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *certificate == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        let why = "its certificate is not the one in cert_file: it is another server, or has not \
                   reloaded the file";
        Err(Error::General(why.to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.prove(verify_tls12_signature(message, certificate, signed, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.prove(verify_tls13_signature(message, certificate, signed, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Has no certificate, and knows whether the server asked for one.
#[derive(Debug, Default)]
struct NoCertificate {
    was_asked: AtomicBool,
}

impl ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _authorities: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.was_asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_means_this_machine() {
        for (host, expected) in
            [("0.0.0.0", "127.0.0.1:7"), ("::", "[::1]:7"), ("192.0.2.1", "192.0.2.1:7")]
        {
            assert_eq!(address(host, 7).unwrap().to_string(), expected);
        }
    }
}
