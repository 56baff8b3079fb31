//! The server of this crate, started by its name with the configuration of its README.

use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::Duration;

use zaqar_client::{Client, NewMessage, Retries};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_store_is_picked_by_its_name() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("zaqar.conf");
    let text = include_str!("../zaqar.conf");
    let text = format!("{text}[drivers:transport:wsgi]\nbind = 127.0.0.1\nport = {port}\n");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_zaqar-memory-store"));
    let command = command.arg("--config-file").arg(file).current_dir(directory.path());
    let _running = Running(command.spawn().unwrap());

    let url = format!("http://127.0.0.1:{port}");
    let retries =
        Retries { attempts: 100, longest_pause: Duration::from_millis(200), ..Retries::default() };
    let client = Client::builder().url(url).project("p").retries(retries).build().unwrap();
    let queue = client.queue("q").unwrap();
    queue.post([NewMessage::new("x").unwrap()]).await.unwrap();
    assert_eq!(queue.stats().await.unwrap().total, 1);
    // Nothing is on disk: the default store would be in ./zaqar-data.
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
