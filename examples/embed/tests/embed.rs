//! Each program, run by its name.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use zaqar_client::{Client, NewMessage};

struct Running {
    child: Child,
    url: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(program: &str) -> Running {
    let mut command = Command::new(program);
    let mut child = command.arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Running { child, url: line.trim().to_owned() }
}

async fn post(url: &str, project: &str) -> u64 {
    let queue = Client::new(url, project).unwrap().queue("q").unwrap();
    queue.post([NewMessage::new("x").unwrap()]).await.unwrap();
    queue.stats().await.unwrap().total
}

#[tokio::test]
async fn axum_serves_the_api_beside_its_own_routes() {
    let running = start(env!("CARGO_BIN_EXE_in-axum"));
    assert_eq!(post(&running.url, "one").await, 1);
    assert_eq!(post(&running.url, "other").await, 1);
    let curl = Command::new("curl").args(["-sS", &format!("{}/hello", running.url)]).output();
    assert_eq!(curl.unwrap().stdout, b"hello from the program itself");
}

#[tokio::test]
async fn a_hyper_program_authenticates_callers() {
    let running = start(env!("CARGO_BIN_EXE_in-hyper"));
    assert_eq!(post(&running.url, "one").await, 1);
    assert_eq!(post(&running.url, "other").await, 2);
}

#[test]
fn a_queue_in_the_process_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    for notes in 1..=3 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_in-process"));
        let ran = command.arg(directory.path()).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), format!("{notes} notes\n"));
    }
}
