//! Each program, run by its name against the real server.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

#[path = "../../../crates/zaqar-client/tests/support/mod.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use support::Server;

fn command(server: &Server, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("OS_ENDPOINT", &server.url).env("OS_PROJECT_ID", &server.project);
    command
}

fn run(server: &Server, program: &str, arguments: &[&str]) -> String {
    let ran = command(server, program).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn a_worker_does_what_a_producer_posts() {
    let server = Server::start();
    let posted = run(&server, env!("CARGO_BIN_EXE_producer"), &["jobs", "25"]);
    assert_eq!(posted.lines().count(), 25);
    let did = run(&server, env!("CARGO_BIN_EXE_worker"), &["jobs"]);
    let expected: String = (1..=25).map(|number| format!("did job {number}\n")).collect();
    assert_eq!(did, expected);
    assert_eq!(run(&server, env!("CARGO_BIN_EXE_worker"), &["jobs"]), "");
}

#[test]
fn a_job_that_always_fails_becomes_a_dead_letter() {
    let server = Server::start();
    let printed = run(&server, env!("CARGO_BIN_EXE_work-queue"), &["jobs"]);
    assert_eq!(
        printed,
        "resize done\nexplode failed\nexplode failed\nexplode failed\npublish done\n\
         dead letter: explode\n"
    );
}

#[test]
fn every_reader_gets_every_message() {
    let server = Server::start();
    let printed = run(&server, env!("CARGO_BIN_EXE_broadcast"), &["news"]);
    assert_eq!(printed, "reader one got wind, rain, sun\nreader two got wind, rain, sun\n");
}

#[test]
fn each_answer_reaches_the_asker() {
    let server = Server::start();
    let printed = run(&server, env!("CARGO_BIN_EXE_point-to-point"), &["squares"]);
    let mut lines: Vec<_> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["question 0: 49", "question 1: 144"]);
}

#[test]
fn a_receiver_accepts_signed_webhooks_only() {
    let server = Server::with("[notification]\nallow_networks = 127.0.0.0/8\n");
    let mut receiver = command(&server, env!("CARGO_BIN_EXE_webhook-receiver"));
    let mut child = receiver.args(["alarms", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.split(' ').next().unwrap();
    let address = address.trim_start_matches("http://").trim_end_matches('/');

    let mut forger = TcpStream::connect(address).unwrap();
    let forged = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\
                  webhook-id: m\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,AAAA\r\n\r\n{}";
    forger.write_all(forged.as_bytes()).unwrap();
    let mut answer = String::new();
    forger.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(lines.next().unwrap().unwrap().starts_with("rejected"));

    run(&server, env!("CARGO_BIN_EXE_producer"), &["alarms", "1"]);
    assert_eq!(lines.next().unwrap().unwrap(), r#"{"job":1}"#);
    assert!(child.wait().unwrap().success());
}
