//! Servers that the tests share. Each ends with the test process: a shell waits until the other end
//! of a pipe is closed.

use std::env;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(60);

/// Two Redis servers: `redis-server`, or the program that `ZAQAR_TEST_REDIS_SERVER` names.
pub(crate) static REDIS: LazyLock<[Server; 2]> = LazyLock::new(|| [redis(), redis()]);

/// Two MongoDB-compatible servers, as each uses one processor, or the one that
/// `ZAQAR_TEST_MONGODB_URI` names.
static MONGO: LazyLock<[(String, Option<Server>); 2]> =
    LazyLock::new(|| match env::var("ZAQAR_TEST_MONGODB_URI") {
        Ok(uri) if !uri.is_empty() => [(uri.clone(), None), (uri, None)],
        _ => [(), ()].map(|()| {
            let server = secantus();
            // Searching its list of retryable writes is slow.
            (format!("mongodb://127.0.0.1:{}/?retryWrites=false", server.port), Some(server))
        }),
    });

/// The server of the stores of this name.
pub(crate) fn mongo_uri(name: &str) -> &'static str {
    let sum: usize = name.bytes().map(usize::from).sum();
    &MONGO[sum % 2].0
}

pub(crate) struct Server {
    _shell: Child,
    pub(crate) port: u16,
}

fn redis() -> Server {
    let program = env::var_os("ZAQAR_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let options = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"];
    start(program, &options)
}

fn secantus() -> Server {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/secantusd-py");
    assert!(
        program.exists(),
        "no MongoDB to test on: set ZAQAR_TEST_MONGODB_URI, or run tools/test once, which \
         installs a compatible server"
    );
    start(program.into(), &["--storage-path", ":memory:"])
}

#[expect(clippy::disallowed_methods, reason = "a process is waited for outside of a runtime")]
fn start(program: OsString, options: &[&str]) -> Server {
    let port = zaqar_storage_testkit::free_port();
    let script = r#""$@" & pid=$!; cat >/dev/null; kill -9 $pid; wait"#;
    let shell = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(program)
        .args(options)
        .args(["--port", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + START;
    while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        assert!(Instant::now() < deadline, "the server does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Server { _shell: shell, port }
}
