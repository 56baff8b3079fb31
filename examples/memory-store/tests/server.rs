//! The server of this crate, started by its name with the configuration of its README.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
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

/// A command that runs in a directory of its own, with the configuration of the README there.
fn command(directory: &Path, more: &str) -> Command {
    let file = directory.join("zaqar.conf");
    let text = format!("{}{more}", include_str!("../zaqar.conf"));
    std::fs::write(&file, text).expect("the directory can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_zaqar-memory-store"));
    command.arg("--config-file").arg(file).current_dir(directory);
    command
}

#[tokio::test]
async fn the_store_is_picked_by_its_name() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let more = format!("[drivers:transport:wsgi]\nbind = 127.0.0.1\nport = {port}\n");
    let mut command = command(directory.path(), &more);
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

#[test]
fn the_programs_beside_the_server_have_the_store_too() {
    let run = |name: &str, arguments: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(directory.path(), "");
        let output = command.arg0(name).args(arguments).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let checked = run("zaqar-status", &["upgrade", "check"]);
    assert!(checked.contains("Result: Success"), "{checked}");
    let exported = run("zaqar-manage", &["export", "--project", "p"]);
    assert!(exported.contains("\"definitions\""), "{exported}");
    let listed = run("zaqar-policy", &["list"]);
    assert!(listed.contains("queues:create"), "{listed}");
}
