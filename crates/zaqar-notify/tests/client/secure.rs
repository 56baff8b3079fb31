//! TLS.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::io::Write;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use zaqar_notify::http::{Options, Roots, RootsError, WebhookClient};
use zaqar_notify::outcome::{Attempt, Failure, Verdict};
use zaqar_notify::target::Target;

use crate::receiver::{Fixed, Receiver, answered, options, post, read_request};

/// A receiver with a certificate for `good.example`, and a client that trusts it.
async fn secure(alpn: &[&[u8]]) -> (Receiver, WebhookClient) {
    secure_with(alpn, options()).await
}

async fn secure_with(alpn: &[&[u8]], options: Options) -> (Receiver, WebhookClient) {
    let names = vec!["good.example".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let receiver = Receiver::start(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_request(&mut stream).await.is_some() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(cert.pem().as_bytes()).unwrap();
    let options = Options { roots: Roots::File(file.path().to_owned()), ..options };
    let resolver = Fixed(vec!["127.0.0.1".parse().unwrap()]);
    (receiver, WebhookClient::with_resolver(&options, resolver).unwrap())
}

fn target(receiver: &Receiver, host: &str) -> Target {
    Target::parse(&format!("https://{host}:{}/", receiver.address.port())).unwrap()
}

#[tokio::test]
async fn a_right_certificate_is_trusted_and_the_connection_kept() {
    let (receiver, client) = secure(&[b"http/1.1"]).await;
    for _ in 0..3 {
        let attempt = post(&client, &target(&receiver, "good.example")).await;
        assert_eq!(answered(attempt).status, 200);
    }
    assert_eq!(receiver.connections(), 1);
}

/// One of HTTP/2 would be in the pool from the beginning.
#[tokio::test]
async fn a_connection_that_is_not_kept_has_http_1() {
    let options = Options { max_kept: 0, ..options() };
    let (receiver, client) = secure_with(&[b"h2", b"http/1.1"], options).await;
    for connections in 1..3 {
        let attempt = post(&client, &target(&receiver, "good.example")).await;
        assert_eq!(answered(attempt).status, 200);
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test]
async fn a_certificate_with_another_name_is_no_connection() {
    let (receiver, client) = secure(&[]).await;
    let attempt = post(&client, &target(&receiver, "bad.example")).await;
    match &attempt {
        Attempt::Failed(Failure::NoConnection(text)) => {
            assert!(text.contains("not valid for name"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(attempt.verdict(), Verdict::Retry(None));
}

#[tokio::test]
async fn an_unknown_authority_is_no_connection() {
    let (receiver, _) = secure(&[]).await;
    let resolver = Fixed(vec!["127.0.0.1".parse().unwrap()]);
    let client = WebhookClient::with_resolver(&options(), resolver).unwrap();
    let attempt = post(&client, &target(&receiver, "good.example")).await;
    assert!(matches!(attempt, Attempt::Failed(Failure::NoConnection(_))), "{attempt:?}");
}

#[tokio::test]
async fn a_receiver_without_tls_is_no_connection() {
    let receiver = Receiver::start(|_, mut stream| async move {
        let _closed = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let resolver = Fixed(vec!["127.0.0.1".parse().unwrap()]);
    let client = WebhookClient::with_resolver(&options(), resolver).unwrap();
    let attempt = post(&client, &target(&receiver, "good.example")).await;
    assert!(matches!(attempt, Attempt::Failed(Failure::NoConnection(_))), "{attempt:?}");
}

#[test]
fn a_file_without_certificates_is_refused() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"no certificate\n").unwrap();
    let missing = file.path().with_extension("missing");
    for path in [file.path().to_owned(), missing] {
        let roots = Roots::File(path.clone());
        match WebhookClient::new(&Options { roots, ..Options::default() }) {
            Err(RootsError::File { path: told, .. }) => assert_eq!(told, path),
            other => panic!("{other:?}"),
        }
    }
}
