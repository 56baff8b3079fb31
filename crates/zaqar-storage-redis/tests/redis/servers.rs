//! Servers that the tests start: `redis-server`, or the program that `ZAQAR_TEST_REDIS_SERVER` names. They end with the test process,
//! however it ends.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long what servers do by themselves may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Milliseconds of silence after which a server is taken to be dead: longer than any test, unless the test is about that.
const NEVER: &str = "600000";
const SOON: &str = "3000";

/// A server, or a Sentinel.
pub(crate) struct Server {
    /// A shell that ends the server when its standard input ends.
    shell: Option<Child>,
    pub(crate) port: u16,
    dir: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// Starts a server that keeps nothing on disk.
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
            fs::write(&file, configuration).expect("there is room for a file");
            vec![path(&file).to_owned()]
        })
    }

    fn start_as(options: &[&str], first: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let mut arguments = first(dir.path());
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let mut server = Self { shell: None, port: free_port(), dir, arguments };
        server.launch();
        server
    }

    /// Gives it more options when it is started again.
    pub(crate) fn add_options(&mut self, options: &[&str]) {
        self.arguments.extend(options.iter().map(|option| (*option).to_owned()));
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it again after it has ended.
    pub(crate) fn launch(&mut self) {
        let port = self.port.to_string();
        let log = self.dir.path().join("log");
        let shell = Command::new("sh")
            .args(["-c", "\"$@\" & pid=$!; cat > /dev/null; kill -9 $pid 2> /dev/null; wait", "sh"])
            .arg(env::var_os("ZAQAR_TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into()))
            .args(&self.arguments)
            .args(["--port", &port, "--bind", "127.0.0.1", "--dir", path(self.dir.path())])
            .args(["--pidfile", path(&self.pid_file()), "--logfile", path(&log)])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts");
        self.shell = Some(shell);
        wait_until("the server answers", || {
            self.try_cli(&["PING"]).is_some_and(|said| said == "PONG" || said.contains("LOADING"))
        });
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The URI of its socket.
    pub(crate) fn uri(&self) -> String {
        format!("redis:{}", path(&self.socket()))
    }

    /// Runs a command by `redis-cli`.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let said = self.try_cli(command).unwrap_or_else(|| panic!("redis-cli {command:?}"));
        assert!(!said.starts_with("ERR "), "{command:?}: {said}");
        said
    }

    fn try_cli(&self, command: &[&str]) -> Option<String> {
        let ran = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(command)
            .output()
            .expect("redis-cli starts");
        ran.status.success().then(|| String::from_utf8_lossy(&ran.stdout).trim().to_owned())
    }

    /// A field of `INFO`; empty while there is no answer: Sentinels end all connections to a server whose role they change.
    pub(crate) fn info(&self, field: &str) -> String {
        let info = self.try_cli(&["INFO", "everything"]).unwrap_or_default();
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    /// Ends it at once.
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

/// A master and a replica, watched by three Sentinels.
pub(crate) struct Watched {
    pub(crate) servers: [Server; 2],
    sentinels: [Server; 3],
}

impl Watched {
    pub(crate) fn start() -> Self {
        Self::with_patience(NEVER)
    }

    /// With Sentinels that find out when the master is killed.
    pub(crate) fn that_fails_over() -> Self {
        Self::with_patience(SOON)
    }

    fn with_patience(millis: &str) -> Self {
        let master = Server::start(&[]);
        let of_master = ["127.0.0.1", &master.port.to_string()].join(" ");
        let replica = Server::start(&["--replicaof", &of_master]);
        let configuration = format!(
            "sentinel monitor zaqar {of_master} 2\n\
             sentinel down-after-milliseconds zaqar {millis}\n\
             sentinel failover-timeout zaqar 6000\n"
        );
        let sentinels = [(); 3].map(|()| Server::start_sentinel(&configuration));
        let watched = Self { servers: [master, replica], sentinels };
        wait_until("the Sentinels know each other and the replica", || {
            watched.sentinels.iter().all(|sentinel| {
                let master = sentinel.cli(&["SENTINEL", "MASTER", "zaqar"]);
                let words: Vec<_> = master.lines().collect();
                let field = |name| {
                    words[1 + words.iter().position(|word| *word == name).expect("it answers")]
                };
                field("num-other-sentinels") == "2" && field("num-slaves") == "1"
            })
        });
        wait_until("the replica is in step", || {
            watched.servers[1].info("master_link_status") == "up"
        });
        watched
    }

    /// Starts the old master again, as what the Sentinels would make of it in ten seconds.
    pub(crate) fn bring_back(&mut self) {
        let successor = format!("127.0.0.1 {}", self.servers[1].port);
        self.servers[0].add_options(&["--replicaof", &successor]);
        self.servers[0].launch();
    }

    pub(crate) fn uri(&self) -> String {
        let hosts =
            self.sentinels.each_ref().map(|sentinel| format!("127.0.0.1:{}", sentinel.port));
        format!("redis://{}?master=zaqar", hosts.join(","))
    }
}

/// A Cluster of three masters and three replicas.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::with_options(&["--cluster-node-timeout", NEVER])
    }

    /// With nodes that find out when one is killed, and that have what they had when they come back.
    pub(crate) fn that_fails_over() -> Self {
        Self::with_options(&["--cluster-node-timeout", SOON, "--appendonly", "yes"])
    }

    fn with_options(options: &[&str]) -> Self {
        let nodes: Vec<_> = (0..6)
            .map(|_| {
                let bus = free_port().to_string();
                let fixed = ["--cluster-enabled", "yes", "--cluster-port", &bus];
                let moves = ["--cluster-allow-replica-migration", "no"];
                Server::start(&[&fixed[..], &moves, options].concat())
            })
            .collect();
        let cluster = Self { nodes };
        cluster.create();
        cluster.wait_until_well();
        cluster
    }

    fn create(&self) {
        let ran = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(self.hosts())
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli starts");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "redis-cli --cluster create says: {said}");
    }

    fn masters(&self) -> Vec<&Server> {
        self.nodes.iter().filter(|node| node.info("role") == "master").collect()
    }

    pub(crate) fn slot(&self, key: &str) -> String {
        self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key])
    }

    /// Which of the masters has a key that exists.
    pub(crate) fn owner(&self, key: &str) -> u16 {
        let owner = self.masters().into_iter().find(|node| node.cli(&["EXISTS", key]) == "1");
        owner.expect("a master has the key").port
    }

    /// Moves the slot of a key that exists to another master, and takes its time.
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
            let said =
                from.cli(&["MIGRATE", "127.0.0.1", &to.port.to_string(), &keys, "0", "5000"]);
            assert!(said == "OK" || said == "NOKEY", "MIGRATE says {said}");
        }
        for node in [to, from].into_iter().chain(others[1..].iter().copied()) {
            assert_eq!(node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]), "OK");
        }
    }

    /// Waits until all slots are served, and replicas are in step.
    pub(crate) fn wait_until_well(&self) {
        wait_until("the Cluster is well", || {
            self.nodes.iter().all(|node| {
                node.try_cli(&["CLUSTER", "INFO"]).is_some_and(|info| {
                    info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:6")
                }) && (node.info("role") == "master" || node.info("master_link_status") == "up")
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

/// Waits for what happens by itself.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port that nobody listens on, below those that the system gives to outgoing connections.
pub(crate) fn free_port() -> u16 {
    let ports = std::iter::repeat_with(|| rand::random_range(15_000..32_000));
    let mut free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("ports come without end")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}
