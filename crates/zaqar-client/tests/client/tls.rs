//! TLS over both transports: which certificates are trusted.

use std::fs;
use std::path::PathBuf;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use zaqar_client::{Client, Error, Retries, Tls};

use crate::support::Server;

struct Secure {
    server: Server,
    url: String,
    websocket: String,
    certificate: PathBuf,
    _directory: TempDir,
}

impl Secure {
    /// A server whose certificate is for `localhost`, signed by itself.
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let path = |name: &str| directory.path().join(name);
        let (certificate, key) = (path("cert.pem"), path("key.pem"));
        fs::write(&certificate, cert.pem()).unwrap();
        fs::write(&key, signing_key.serialize_pem()).unwrap();
        let files =
            format!("cert_file = {}\nkey_file = {}\n", certificate.display(), key.display());
        let server = Server::with(&format!(
            "[drivers:transport:wsgi]\n{files}[drivers:transport:websocket]\n{files}"
        ));
        let named = |url: &str, scheme: &str| {
            url.replacen("http:", scheme, 1)
                .replacen("ws:", scheme, 1)
                .replace("127.0.0.1", "localhost")
        };
        let url = named(&server.url, "https:");
        let websocket = named(&server.websocket_url, "wss:");
        Self { server, url, websocket, certificate, _directory: directory }
    }

    fn client(&self, url: &str, tls: Tls) -> Client {
        let builder = Client::builder().url(url).project(&self.server.project);
        builder.tls(tls).retries(Retries::never()).build().unwrap()
    }
}

#[tokio::test]
async fn a_certificate_must_be_trusted_and_for_the_host() {
    let secure = Secure::start();
    let known = Tls::CaFile(secure.certificate.clone());
    let client = secure.client(&secure.url, known.clone());
    client.ping().await.unwrap();
    let (socket, _events) = client.websocket(&secure.websocket).await.unwrap();
    socket.request("ping_node", serde_json::json!({})).await.unwrap();

    let unknown = secure.client(&secure.url, Tls::System);
    let error = unknown.ping().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(unknown.websocket(&secure.websocket).await.is_err());

    let other = secure.url.replace("localhost", "127.0.0.1");
    let error = secure.client(&other, known).ping().await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    secure.client(&other, Tls::Insecure).ping().await.unwrap();
}

#[test]
fn a_file_without_a_certificate_is_rejected() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let build = |path: PathBuf| {
        Client::builder().url("https://h").project("p").tls(Tls::CaFile(path)).build()
    };
    let error = build(file.path().to_owned()).unwrap_err().to_string();
    assert!(error.contains("no certificate is in it"), "{error}");
    assert!(build(PathBuf::from("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
}
