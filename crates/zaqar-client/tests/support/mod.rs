// A whole server in this process, in memory of its own. Doctests include this file, so it has no
// inner attributes.

/// A server with both transports, administrators, pools and signed URLs.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) websocket_url: String,
    pub(crate) project: String,
    stop: tokio_util::sync::CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

/// A port below those that systems take for outgoing connections: whoever waits for the server
/// could get that port for its own side otherwise, and be connected to itself.
fn free_port() -> u16 {
    use std::hash::{BuildHasher, Hasher, RandomState};

    loop {
        let random = RandomState::new().build_hasher().finish() % 20_000;
        let port = 10_000 + u16::try_from(random).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Server {
    /// Starts it and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// As [`Self::start`], with more lines at the end of its configuration.
    pub(crate) fn with(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (port, websocket) = (free_port(), free_port());
        let text = format!(
            "[DEFAULT]\nadmin_mode = true\npooling = true\n\
             [drivers]\ntransport = wsgi, websocket\nmessage_store = embedded\n\
             management_store = embedded\n\
             [drivers:transport:wsgi]\nbind = 127.0.0.1\nport = {port}\n\
             [drivers:transport:websocket]\nbind = 127.0.0.1\nport = {websocket}\n\
             [drivers:message_store:embedded]\npath = {path}\nsync = never\n\
             [pooling:catalog]\nenable_virtual_pool = true\n\
             [quotas]\nmanaged = true\n[signed_url]\nsecret_key = a secret of the tests\n{more}",
            path = directory.path().join("data").display(),
        );
        let file = directory.path().join("zaqar.conf");
        std::fs::write(&file, text).unwrap();
        let registry = zaqar_server::Registry::default();
        let sources = zaqar_server::config::Sources { files: vec![file], ..Default::default() };
        let loaded = zaqar_server::config::load(&sources, &registry.registered()).unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.spawn(async move {
                for port in [port, websocket] {
                    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                }
                ready.send(()).unwrap();
            });
            let served = zaqar_server::run(&registry, &loaded.settings, stopped);
            runtime.block_on(served).unwrap();
        });
        let minute = std::time::Duration::from_secs(60);
        is_ready.recv_timeout(minute).expect("the server came up");
        Self {
            url: format!("http://127.0.0.1:{port}"),
            websocket_url: format!("ws://127.0.0.1:{websocket}/"),
            project: "tests".to_owned(),
            stop,
            thread: Some(thread),
            _directory: directory,
        }
    }

    /// A client of it, as an administrator.
    pub(crate) fn client(&self) -> zaqar_client::Client {
        let builder = zaqar_client::Client::builder().url(&self.url).project(&self.project);
        builder.roles("admin").build().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A server that failed has said so on its own thread.
            let _ = thread.join();
        }
    }
}

static URLS: std::sync::OnceLock<(String, String)> = std::sync::OnceLock::new();

/// Runs an example against a server of its own.
pub(crate) fn block_on<F>(example: F)
where
    F: AsyncFnOnce(zaqar_client::Client) -> Result<(), zaqar_client::Error>,
{
    let server = Server::start();
    URLS.set((server.url.clone(), server.websocket_url.clone())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(example(server.client())).unwrap();
}

/// Where the example's server is.
pub(crate) fn client_url() -> String {
    URLS.get().unwrap().0.clone()
}

/// Where its WebSocket is.
pub(crate) fn websocket_url() -> String {
    URLS.get().unwrap().1.clone()
}
