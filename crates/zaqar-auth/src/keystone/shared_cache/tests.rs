//! Entries that keystonemiddleware wrote, and memcached servers that do as they are told.

use std::sync::Mutex;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn secret() -> Secret<String> {
    Secret::new("k".to_owned())
}

#[test]
fn servers_are_read() {
    let tcp = |host: &str, port| Some(MemcachedServer::Tcp(host.to_owned(), port));
    for (text, expected) in [
        ("cache", tcp("cache", 11_211)),
        ("10.0.0.1:22122", tcp("10.0.0.1", 22_122)),
        ("inet:cache:1", tcp("cache", 1)),
        ("inet6:[::1]:1", tcp("::1", 1)),
        ("inet6:[::1]", tcp("::1", 11_211)),
        ("unix:/run/cache", Some(MemcachedServer::Unix("/run/cache".into()))),
        ("", None),
        ("cache:port", None),
        ("[::1]:1", None),
        ("inet6:[::1]1", None),
    ] {
        assert_eq!(MemcachedServer::parse(text), expected, "{text}");
    }
}

/// Written by keystonemiddleware 13.0.1 for the token `tok`, with the secret `k`.
#[test]
fn entries_are_keystonemiddlewares() {
    let key = "tokens/1a7674eb4ee78df7e1ac439a93c3fa8e3c945784d4dec9fd8e3011738b2f1d62";
    assert_eq!(protection::plain_key("tok"), key);
    let mac = Keys::mac("tok", &secret());
    assert_eq!(mac.cache_key(), "tokens/b'V/l4eVWW8t9eN7rQPRAzyg=='");
    let entry = b"7ifpHLhi16poJuCrKErNNXwggfMGLchYOQwkdB912XjND+epnmbyu3oOzSmk/7aYeyJ0b2tlbiI6I\
        HsiZXhwaXJlc19hdCI6ICIyMDI2LTEyLTAxVDAwOjAwOjAwWiIsICJ1c2VyIjogeyJpZCI6ICJ1IiwgIm5hbWUiOi\
        AibiIsICJkb21haW4iOiB7ImlkIjogImQiLCAibmFtZSI6ICJEIn19LCAibWV0aG9kcyI6IFsicGFzc3dvcmQiXSw\
        gImNhdGFsb2ciOiBbXSwgInZlcnNpb24iOiAidjMiLCAiYXV0aF90b2tlbiI6ICJ0b2sifX0=";
    let document: Value = serde_json::from_slice(&mac.open(entry).unwrap()).unwrap();
    assert_eq!(document["token"]["user"]["id"], "u");
    let encrypt = Keys::encrypt("tok", &secret());
    assert_eq!(encrypt.cache_key(), "tokens/b'c54bnn1AAt0H8rf6XKYNEw=='");
    let entry = b"yoYpikov2WtjXGHqRmWTQFSo3KheMvlOBeVph0PUBeCXNkg+K01H5FagR1kAtunYMyyP6EikYNzw\
        +iWLysH1WZtv1rNvbeR0tvGITr3HpLOiDZ66dE/64JPUl+pcB+7EKiUtITq/i+OBwvdQuj04jBXWp9NYuwgkF6QuW\
        ENbnW4vUIJyNBVWj0eYuNR8xjE9LDHSdF1OBBxgn9naujom3yP33yLrPPmTpO+rod2yXlc2Q90hCyyl1ivEgBVBVX\
        hUy7QkCnIv4tSIf6i7aHQiQ9+NT/ocYlJZoN7O66krTMncNfpHQqw/uKqGVEQcHRej08EoVb5kYiWDujHtpaM+k7J\
        cdZ049EtTTu+Lx/scqnQ=";
    let document: Value = serde_json::from_slice(&encrypt.open(entry).unwrap()).unwrap();
    assert_eq!(document["token"]["user"]["id"], "u");
    for keys in [mac, encrypt] {
        let entry = keys.seal(b"{}");
        assert_eq!(keys.open(&entry).unwrap(), b"{}");
        for at in [0, 63, 64, entry.len() - 1] {
            let mut changed = entry.clone();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(keys.open(&changed), None, "changed at {at}");
        }
        assert_eq!(keys.open(b"short"), None);
        let other = Secret::new("other".to_owned());
        assert_eq!(Keys::mac("tok", &other).open(&entry), None);
    }
}

#[test]
fn a_key_has_python_memcacheds_hash() {
    assert_eq!(hash(b""), 0);
    assert_eq!(hash(b"tokens/abc"), 30_021);
    assert_eq!(hash(b"1234567890"), 9_757);
}

/// A memcached that answers each request with the next of these texts, on connections that it
/// counts; `""` closes the connection, and where there are none left it says nothing.
async fn serve(answers: &[&str]) -> (MemcachedServer, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let mut answers: Vec<String> = answers.iter().rev().map(|text| (*text).to_owned()).collect();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            heard.lock().unwrap().push("connection".to_owned());
            let mut request = vec![0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut request).await {
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                heard.lock().unwrap().push(text);
                match answers.pop() {
                    Some(answer) if answer.is_empty() => break,
                    Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                    None => std::future::pending().await,
                }
            }
        }
    });
    (MemcachedServer::Tcp("127.0.0.1".to_owned(), port), asked)
}

fn cache(servers: Vec<MemcachedServer>) -> Arc<SharedCache> {
    let options = SharedCacheOptions {
        servers,
        protection: Protection::None,
        timeout: Duration::from_millis(300),
        dead_for: Duration::from_secs(300),
        unused_for: Duration::from_secs(60),
        connections: 2,
    };
    Arc::new(SharedCache::new(&options, 60))
}

fn value(token: &str, entry: &str) -> String {
    format!("VALUE {} 0 {}\r\n{entry}\r\nEND\r\n", protection::plain_key(token), entry.len())
}

#[tokio::test]
async fn an_entry_is_found_and_a_connection_kept_until_it_breaks() {
    let entry = value("t", r#"{"token": 1}"#);
    let old = value("t", r#"[{"token": 1}, "2026-12-01T00:00:00Z"]"#);
    let (server, asked) =
        serve(&[&entry, "END\r\n", "", &old, "SERVER_ERROR no\r\n", &entry]).await;
    let cache = cache(vec![server]);
    assert_eq!(cache.get("t").await, Some(json!({"token": 1})));
    assert_eq!(cache.get("t").await, None);
    // The connection that was kept is closed: asked again on another.
    assert_eq!(cache.get("t").await, Some(json!({"token": 1})));
    assert_eq!(cache.get("t").await, None, "it has no memory");
    assert_eq!(cache.get("t").await, Some(json!({"token": 1})));
    let connections = |asked: &[String]| asked.iter().filter(|text| *text == "connection").count();
    assert_eq!(connections(&asked.lock().unwrap()), 2);
}

#[tokio::test]
async fn what_is_no_answer_leaves_the_server_alone() {
    let (t, u) = (protection::plain_key("t"), protection::plain_key("u"));
    let long = "x".repeat(600);
    for answer in [
        "ERROR\r\n".to_owned(),
        "VALUE\r\n".to_owned(),
        format!("VALUE {u} 0 2\r\n{{}}\r\nEND\r\n"),
        format!("VALUE {t} 0 1048577\r\n"),
        format!("VALUE {t} 0 2\r\n{{}}\r\nMORE\r\n"),
        format!("VALUE {t} 0 x\r\n{{}}\r\nEND\r\n"),
        format!("{long}\r\n"),
        String::new(),
        // Nothing at all.
        "-".to_owned(),
    ] {
        let answers: &[&str] = if answer == "-" { &[] } else { &[&answer] };
        let (server, asked) = serve(answers).await;
        let cache = cache(vec![server]);
        assert_eq!(cache.get("t").await, None, "{answer}");
        let before = asked.lock().unwrap().len();
        assert_eq!(cache.get("t").await, None, "{answer}");
        assert_eq!(asked.lock().unwrap().len(), before, "{answer}: it is left alone");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_stood_in_for() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = MemcachedServer::Tcp("127.0.0.1".to_owned(), gone.port());
    // Of these tokens some are the other's.
    let tokens: Vec<String> = (0..8).map(|n| format!("token-{n}")).collect();
    let answers: Vec<_> = tokens.iter().map(|_| "END\r\n").collect();
    let (there, asked) = serve(&answers).await;
    let cache = cache(vec![gone, there]);
    for token in tokens.iter().chain(&tokens[..1]) {
        assert_eq!(cache.get(token).await, None);
    }
    let asked = asked.lock().unwrap().iter().filter(|text| text.starts_with("get")).count();
    assert!(asked >= tokens.len() - 1, "{asked}");
}

#[tokio::test]
async fn an_entry_is_written_with_its_life() {
    let (server, asked) = serve(&["STORED\r\n"]).await;
    let cache = cache(vec![server]);
    cache.put("t", Bytes::from_static(b"{}"));
    let expected = format!("set {} 0 60 2\r\n{{}}\r\n", protection::plain_key("t"));
    while asked.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(asked.lock().unwrap()[1], expected);
}

fn server(server: MemcachedServer) -> Memcached {
    let options = SharedCacheOptions {
        servers: Vec::new(),
        protection: Protection::None,
        timeout: Duration::from_secs(3),
        dead_for: Duration::from_secs(300),
        unused_for: Duration::from_secs(60),
        connections: 1,
    };
    Memcached::new(&server, &options)
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_connections_are_in_use_is_not_away() {
    let gone = server(MemcachedServer::Unix("/nonexistent/socket".into()));
    let all = gone.hold().await;
    assert!(matches!(gone.get("k").await, Outcome::NotAsked));
    assert!(gone.may_ask() && gone.may_ask(), "it is away");
    let too_large = vec![0; 1024 * 1024 + 1];
    assert!(matches!(gone.set("k", &too_large, 1).await, Outcome::NotAsked));
    drop(all);
    assert!(matches!(gone.get("k").await, Outcome::Failed(_)));
    assert!(!gone.may_ask());
}

#[tokio::test(start_paused = true)]
async fn one_request_looks_whether_a_server_is_back() {
    let gone = server(MemcachedServer::Unix("/nonexistent/socket".into()));
    assert!(matches!(gone.get("k").await, Outcome::Failed(_)));
    tokio::time::advance(Duration::from_secs(301)).await;
    assert!(gone.may_ask());
    assert!(!gone.may_ask(), "a second one does not wait, too");
    // The first one was cancelled.
    tokio::time::advance(Duration::from_secs(4)).await;
    assert!(gone.may_ask());
    assert!(matches!(gone.get("k").await, Outcome::Failed(_)));
    tokio::time::advance(Duration::from_secs(299)).await;
    assert!(!gone.may_ask());
}

#[tokio::test]
async fn a_connection_that_is_unused_for_long_is_closed() {
    let (address, asked) = serve(&["END\r\n", "END\r\n", "END\r\n"]).await;
    let server = server(address);
    let connections = || asked.lock().unwrap().iter().filter(|one| *one == "connection").count();
    for (seconds, expected) in [(0, 1), (59, 1), (61, 2)] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
        assert!(matches!(server.get("k").await, Outcome::Answered(None)));
        assert_eq!(connections(), expected, "after {seconds} s");
    }
}
