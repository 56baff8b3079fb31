//! Servers that the tests start: `redis-server`, or the program in `ZAQAR_TEST_REDIS_SERVER`. They
//! end with the test process, however it ends.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zaqar_storage_testkit::free_port;

/// How long events such as a failover may take.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(120);
/// Milliseconds after which a silent server is considered dead: longer than any test, unless the
/// test needs a failover.
const NEVER: &str = "600000";
const SOON: &str = "3000";
/// How long [`Server::ask`] waits for a server that hangs.
const ASK_TIMEOUT: Duration = Duration::from_millis(300);
/// The offset of the bus port of a Cluster node.
const BUS: u16 = 10_000;

fn program() -> OsString {
    env::var_os("ZAQAR_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// The major version of the server under test: some options of tests are newer than Redis 6.2.
pub(crate) static MAJOR: LazyLock<u32> = LazyLock::new(|| {
    let ran = Command::new(program()).arg("--version").output().expect("the server starts");
    let answer = String::from_utf8_lossy(&ran.stdout).into_owned();
    let version = answer.split_whitespace().find_map(|word| word.strip_prefix("v="));
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    major.unwrap_or_else(|| panic!("--version says {answer}"))
});

/// A server, or a Sentinel.
pub(crate) struct Server {
    /// A shell that kills the server when its standard input is closed.
    shell: Option<Child>,
    pub(crate) port: u16,
    dir: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// Starts a server without persistence.
    pub(crate) fn start(options: &[&str]) -> Self {
        let memory_only = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
        Self::start_as(&[&memory_only, options].concat(), |dir| {
            vec!["--unixsocket".to_owned(), path(&dir.join("socket")).to_owned()]
        })
    }

    /// Starts a Sentinel with this configuration.
    fn start_sentinel(configuration: &str) -> Self {
        Self::start_as(&["--sentinel"], |dir| {
            let file = dir.join("sentinel.conf");
            fs::write(&file, configuration).expect("a temporary file");
            vec![path(&file).to_owned()]
        })
    }

    /// Starts a node that does not belong to a Cluster yet.
    fn start_node(options: &[&str]) -> Self {
        let fixed = ["--cluster-enabled", "yes", "--cluster-migration-barrier", "99"];
        let memory_only = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
        let mut ports = std::iter::repeat_with(|| rand::random_range(12_000..15_000));
        let port = ports.find(|port| is_free(*port) && is_free(port + BUS));
        let port = port.expect("the range of ports is endless");
        Self::start_at(port, &[&fixed[..], &memory_only, options].concat(), |_| Vec::new())
    }

    fn start_as(options: &[&str], first: impl FnOnce(&Path) -> Vec<String>) -> Self {
        Self::start_at(free_port(), options, first)
    }

    fn start_at(port: u16, options: &[&str], first: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut arguments = first(dir.path());
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let mut server = Self { shell: None, port, dir, arguments };
        server.launch();
        server
    }

    /// Adds options for the next start.
    pub(crate) fn add_options(&mut self, options: &[&str]) {
        self.arguments.extend(options.iter().map(|option| (*option).to_owned()));
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the server again after it has ended.
    pub(crate) fn launch(&mut self) {
        let port = self.port.to_string();
        let log = self.dir.path().join("log");
        let shell = Command::new("sh")
            .args(["-c", "\"$@\" & pid=$!; cat > /dev/null; kill -9 $pid 2> /dev/null; wait", "sh"])
            .arg(program())
            .args(&self.arguments)
            .args(["--port", &port, "--bind", "127.0.0.1", "--dir", path(self.dir.path())])
            .args(["--pidfile", path(&self.pid_file()), "--logfile", path(&log)])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts");
        self.shell = Some(shell);
        wait_until("the server answers", || {
            self.try_cli(&["PING"])
                .is_some_and(|answer| answer == "PONG" || answer.contains("LOADING"))
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The URI of its socket.
    pub(crate) fn uri(&self) -> String {
        format!("redis:{}", path(&self.socket()))
    }

    /// Runs a command with `redis-cli`.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let answer = self.try_cli(command).unwrap_or_else(|| panic!("redis-cli {command:?}"));
        assert!(!answer.starts_with("ERR "), "{command:?}: {answer}");
        answer
    }

    fn try_cli(&self, command: &[&str]) -> Option<String> {
        let ran = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(command)
            .output()
            .expect("redis-cli starts");
        ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    }

    /// A field of `INFO`; empty while there is no answer, because Sentinels close all connections
    /// to a server whose role they change.
    pub(crate) fn info(&self, field: &str) -> String {
        let info = self.try_cli(&["INFO", "everything"]).unwrap_or_default();
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    /// The answer to a command, over a new connection: much faster than `redis-cli`. `None` if the
    /// server hangs, is gone, or answers an error. Lists are joined by newlines.
    pub(crate) fn ask(&self, command: &str) -> Option<String> {
        ask(self.port, command).ok().flatten()
    }

    /// Whether it is a master with a connected replica.
    pub(crate) fn is_master_with_replica(&self) -> bool {
        self.ask("INFO replication")
            .is_some_and(|info| info.contains("role:master") && info.contains("state=online"))
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        self.end();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = fs::read_to_string(self.pid_file()).expect("the server has written its pid");
        let sent = Command::new("kill").args([&format!("-{name}"), pid.trim()]).status();
        assert!(sent.expect("kill starts").success(), "the server gets the signal {name}");
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.path().join("pid")
    }

    fn end(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            shell.wait().expect("the shell ends");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A master and its replicas, monitored by three Sentinels.
pub(crate) struct Watched {
    /// The first one is the master at the beginning.
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: [Server; 3],
}

impl Watched {
    /// With one replica, which is never promoted.
    pub(crate) fn start() -> Self {
        Self::with(1, NEVER)
    }

    /// With so many replicas, and Sentinels that detect when the master is killed.
    pub(crate) fn that_fails_over(replicas: usize) -> Self {
        Self::with(replicas, SOON)
    }

    fn with(replicas: usize, millis: &str) -> Self {
        let mut servers = vec![Server::start(&[])];
        let port = servers[0].port.to_string();
        let of_master = ["--replicaof", "127.0.0.1", &port];
        servers.extend((0..replicas).map(|_| Server::start(&of_master)));
        let configuration = format!(
            "sentinel monitor zaqar 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds zaqar {millis}\n\
             sentinel failover-timeout zaqar 6000\n"
        );
        let sentinels = [(); 3].map(|()| Server::start_sentinel(&configuration));
        let watched = Self { servers, sentinels };
        let count = replicas.to_string();
        wait_until("the Sentinels know each other and the replicas", || {
            watched.sentinels.iter().all(|sentinel| {
                let master = sentinel.cli(&["SENTINEL", "MASTER", "zaqar"]);
                let words: Vec<_> = master.lines().collect();
                let field = |name| {
                    words[1 + words.iter().position(|word| *word == name).expect("it answers")]
                };
                field("num-other-sentinels") == "2" && field("num-slaves") == count
            })
        });
        wait_until("the replicas are in operation", || {
            watched.servers[1..].iter().all(|it| it.info("master_link_status") == "up")
        });
        watched
    }

    /// The server that has replaced the first one: a Sentinel names it, and it is a master with a
    /// replica.
    pub(crate) fn successor(&self) -> Option<&Server> {
        let answer = self.sentinels.iter().find_map(|sentinel| {
            let answer = sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME zaqar")?;
            let port: u16 = answer.lines().nth(1)?.parse().ok()?;
            (port != self.servers[0].port).then_some(port)
        })?;
        let server = self.servers.iter().find(|server| server.port == answer)?;
        (self.servers.len() == 2 || server.is_master_with_replica()).then_some(server)
    }

    /// Starts the old master again as a replica, which Sentinels would do after ten seconds.
    pub(crate) fn bring_back(&mut self) {
        let mut successor = 0;
        wait_until("another server is the master", || {
            successor = self.successor().map_or(0, |server| server.port);
            successor != 0
        });
        self.servers[0].add_options(&["--replicaof", "127.0.0.1", &successor.to_string()]);
        self.servers[0].launch();
    }

    pub(crate) fn uri(&self) -> String {
        let hosts =
            self.sentinels.each_ref().map(|sentinel| format!("127.0.0.1:{}", sentinel.port));
        format!("redis://{}?master=zaqar", hosts.join(","))
    }
}

/// A Cluster of three masters and their replicas.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    /// With a replica for each master, which is never promoted.
    pub(crate) fn start() -> Self {
        Self::with(1, &["--cluster-node-timeout", NEVER])
    }

    /// With so many replicas for each master, and nodes that detect when one is killed and keep
    /// their data across a restart.
    pub(crate) fn that_fails_over(replicas: usize) -> Self {
        Self::with(replicas, &["--cluster-node-timeout", SOON, "--appendonly", "yes"])
    }

    fn with(replicas: usize, options: &[&str]) -> Self {
        let nodes = (0..3 * (1 + replicas)).map(|_| Server::start_node(options)).collect();
        let cluster = Self { nodes };
        cluster.create(replicas);
        cluster.wait_until_healthy();
        cluster
    }

    fn create(&self, replicas: usize) {
        let ran = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(self.hosts())
            .args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"])
            .output()
            .expect("redis-cli starts");
        let answer = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "redis-cli --cluster create says: {answer}");
    }

    fn masters(&self) -> Vec<&Server> {
        self.nodes.iter().filter(|node| node.info("role") == "master").collect()
    }

    /// The index of a node by its port.
    pub(crate) fn at(&self, port: u16) -> usize {
        self.nodes.iter().position(|node| node.port == port).expect("it is a node")
    }

    /// The indexes of the replicas of a node.
    pub(crate) fn replicas_of(&self, node: usize) -> Vec<usize> {
        let port = self.nodes[node].port.to_string();
        let follows = |server: &Server| server.info("master_port") == port;
        (0..self.nodes.len()).filter(|at| follows(&self.nodes[*at])).collect()
    }

    /// Whether one of these nodes is a master now, has a replica, and serves requests.
    pub(crate) fn has_master_among(&self, nodes: &[usize]) -> bool {
        nodes.iter().map(|at| &self.nodes[*at]).any(|node| {
            node.is_master_with_replica()
                && node.ask("CLUSTER INFO").is_some_and(|it| it.contains("cluster_state:ok"))
        })
    }

    pub(crate) fn slot(&self, key: &str) -> String {
        self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key])
    }

    /// The port of the master that has a key, which must exist.
    pub(crate) fn owner(&self, key: &str) -> u16 {
        let owner = self.masters().into_iter().find(|node| node.cli(&["EXISTS", key]) == "1");
        owner.expect("a master has the key").port
    }

    /// Slowly moves the slot of an existing key to another master.
    #[expect(clippy::disallowed_methods, reason = "processes are waited for outside of a runtime")]
    pub(crate) fn move_slot(&self, key: &str) {
        let (slot, owner) = (self.slot(key), self.owner(key));
        let (from, others): (Vec<_>, Vec<_>) =
            self.masters().into_iter().partition(|node| node.port == owner);
        let (from, to) = (from[0], others[0]);
        let id = |node: &Server| node.cli(&["CLUSTER", "MYID"]);
        to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
        from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
        loop {
            let keys = from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            if keys.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            let answer =
                from.cli(&["MIGRATE", "127.0.0.1", &to.port.to_string(), &keys, "0", "5000"]);
            assert!(answer == "OK" || answer == "NOKEY", "MIGRATE says {answer}");
        }
        for node in [to, from].into_iter().chain(others[1..].iter().copied()) {
            assert_eq!(node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]), "OK");
        }
    }

    /// Waits until all slots are served and all replicas are in sync.
    pub(crate) fn wait_until_healthy(&self) {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        wait_until("the Cluster is well", || {
            self.nodes.iter().all(|node| {
                node.try_cli(&["CLUSTER", "INFO"])
                    .is_some_and(|info| info.contains("cluster_state:ok") && info.contains(&known))
                    && (node.info("role") == "master" || node.info("master_link_status") == "up")
            })
        });
    }

    pub(crate) fn hosts(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect()
    }

    pub(crate) fn uri(&self) -> String {
        format!("redis://{}?cluster=true", self.hosts().join(","))
    }
}

/// Waits until a condition holds.
#[expect(clippy::disallowed_methods, reason = "processes are waited for outside of a runtime")]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < TEST_TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Sends a command to a port and reads the answer; `None` for an error or an empty answer.
pub(crate) fn ask(port: u16, command: &str) -> io::Result<Option<String>> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, ASK_TIMEOUT)?;
    stream.set_read_timeout(Some(ASK_TIMEOUT))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    read_answer(&mut BufReader::new(stream))
}

fn read_answer(from: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).unwrap_or(("-", ""));
    let count = rest.parse::<i64>().ok().and_then(|count| usize::try_from(count).ok());
    match (kind, count) {
        ("+" | ":", _) => Ok(Some(rest.to_owned())),
        ("$", Some(length)) => {
            let mut text = vec![0; length + 2];
            from.read_exact(&mut text)?;
            Ok(Some(String::from_utf8_lossy(&text[..length]).into_owned()))
        }
        ("*", Some(count)) => {
            let parts: io::Result<Vec<_>> = (0..count).map(|_| read_answer(from)).collect();
            Ok(Some(parts?.into_iter().flatten().collect::<Vec<_>>().join("\n")))
        }
        _ => Ok(None),
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}
