//! The servers that the tests of one binary share, with a database for each test.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mongodb::options::ClientOptions;
use mongodb::{Client, Database};
use zaqar_storage_mongo::{Mongo, Options};

/// Set this to test on an existing server: a mongod, a replica set or a mongos.
pub(crate) const URI: &str = "ZAQAR_TEST_MONGODB_URI";

const START: Duration = Duration::from_secs(60);
/// Long, as the compatible server is slow and the machine may be busy.
const TIMEOUT: Duration = Duration::from_secs(100);

/// The URI of the server with the databases of a store. The compatible server uses one processor,
/// so there are two, over which the stores are spread.
pub(crate) fn uri(name: &str) -> &'static str {
    static SERVERS: OnceLock<[(String, Option<Child>); 2]> = OnceLock::new();
    let servers = SERVERS.get_or_init(|| {
        if let Ok(uri) = std::env::var(URI)
            && !uri.is_empty()
        {
            return [(uri.clone(), None), (uri, None)];
        }
        [(), ()].map(|()| {
            let (port, server) = start(&compatible_server());
            // Its lookup of retryable writes is slow.
            (format!("mongodb://127.0.0.1:{port}/?retryWrites=false"), Some(server))
        })
    });
    &servers[usize::from(name.bytes().last().unwrap_or_default()) % 2].0
}

fn compatible_server() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/secantusd-py");
    assert!(
        program.exists(),
        "no MongoDB to test on: set {URI}, or run tools/test once, which installs a compatible server"
    );
    program
}

/// Starts a server that exits with this process: a shell waits for the end of a pipe, which closes
/// when this process ends.
#[expect(clippy::disallowed_methods, reason = "a process is waited for outside of a runtime")]
fn start(program: &Path) -> (u16, Child) {
    let port = zaqar_storage_testkit::free_port();
    let script = r#""$0" --port "$1" --storage-path :memory: & cat >/dev/null; kill $!"#;
    let server = Command::new("sh")
        .args(["-c", script])
        .arg(program)
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let deadline = Instant::now() + START;
    while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        assert!(Instant::now() < deadline, "the server has not started in time");
        std::thread::sleep(Duration::from_millis(50));
    }
    (port, server)
}

/// Opens the store in the database of this name.
pub(crate) async fn open(name: &str) -> Mongo {
    Mongo::open(options(name)).await.unwrap()
}

pub(crate) fn options(name: &str) -> Options {
    Options {
        deadline: TIMEOUT,
        command_timeout: TIMEOUT,
        // The tests simulate time.
        max_clock_skew: None,
        ..Options::new(uri(name), name)
    }
}

/// A unique name.
pub(crate) fn name() -> String {
    format!("test_{:032x}", rand::random::<u128>())
}

/// The database of a store's name.
pub(crate) async fn database(name: &str) -> Database {
    let mut options = ClientOptions::parse(uri(name)).await.unwrap();
    // On a busy machine the server may be slow.
    options.connect_timeout = Some(TIMEOUT);
    options.server_selection_timeout = Some(TIMEOUT);
    Client::with_options(options).unwrap().database(&format!("{name}_server"))
}
