//! The program against the real server.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked")]

#[path = "../../zaqar-client/tests/client/scripted.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod scripted;
#[path = "../../zaqar-client/tests/support/mod.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use std::process::Command;

use scripted::{Answer, Scripted};
use serde_json::Value;
use support::Server;

fn bench(server: &Server, arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zaqar-bench"));
    command.env_clear().args(["--url", &server.url, "--project", "demo"]).args(arguments);
    let ran = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (ran.status.success(), text(ran.stdout), text(ran.stderr))
}

/// The JSON report of a run that ends after a number of messages.
fn json(server: &Server, arguments: &[&str]) -> Value {
    let arguments = [&["--format", "json", "--seconds", "600"], arguments].concat();
    let (good, out, error) = bench(server, &arguments);
    assert!(good, "{out}{error}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn everything_posted_is_consumed_in_order() {
    let server = Server::start();
    let found = json(&server, &["--messages", "500", "--batch", "3", "-o", "2", "--size", "200"]);
    let of = |kind: &str| &found["operations"][kind];
    for kind in ["post", "claim", "delete", "end_to_end"] {
        assert_eq!(of(kind)["messages"], 500, "{kind}: {found}");
        assert!(of(kind)["milliseconds"]["p99"].as_f64().unwrap() > 0.0);
    }
    assert!(of("list")["requests"].as_u64().unwrap() > 0);
    assert_eq!((&found["loop"], &found["faults"]["lost"]), (&"closed".into(), &0.into()));
    assert_eq!(found["left"], Value::Null);
    // Its queues are deleted.
    let client = zaqar_client::Client::new(&server.url, "demo").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(client.count_queues()).unwrap(), 0);
}

#[test]
fn messages_are_consumed_over_websocket_at_a_rate_on_several_queues() {
    let server = Server::start();
    let url = server.websocket_url.clone();
    let transport = ["--transport", "websocket", "--websocket-url", &url];
    let load = ["--messages", "200", "--rate", "2000", "--queues", "2", "-o", "2"];
    let found = json(&server, &[&transport[..], &load].concat());
    assert_eq!(
        (&found["loop"], &found["operations"]["delete"]["messages"]),
        (&"open".into(), &200.into())
    );
}

#[test]
fn payloads_are_read_from_a_file_and_a_table_and_a_plot_are_written() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (file, plot) = (path("messages"), path("plot.svg"));
    std::fs::write(&file, "{\"a\": 1}\nplain\n").unwrap();
    let load = ["--messages", "4", "--seconds", "600", "--message-file", &file, "--svg", &plot];
    let keep = ["--keep", "-c", "0", "-p", "1", "--prefix", "kept"];
    let (good, out, error) = bench(&server, &[&load[..], &keep].concat());
    assert!(good, "{out}{error}");
    assert!(out.contains("p99.9 ms") && out.contains("\npost"), "{out}");
    assert!(out.contains("checks: nothing lost"), "{out}");
    assert!(std::fs::read_to_string(plot).unwrap().contains(">post</text>"));
    let client = zaqar_client::Client::new(&server.url, "demo").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use futures_util::TryStreamExt;
        let names: Vec<_> = client.queues(&Default::default()).try_collect().await.unwrap();
        assert!(names[0].name.starts_with("kept-"));
        let queue = client.queue(&names[0].name).unwrap();
        let messages: Vec<_> = queue.messages(&Default::default()).try_collect().await.unwrap();
        assert!(messages[0].body.as_json().ends_with(r#""payload":{"a": 1}}"#));
        assert!(messages[1].body.as_json().ends_with(r#""payload":"plain"}"#));
    });
}

#[test]
fn errors_are_counted_and_reported() {
    let server = Server::start();
    let load = ["--messages", "3", "--seconds", "600", "-p", "1", "-c", "0", "--ttl", "1"];
    let (good, out, _) = bench(&server, &load);
    assert!(!good && out.contains("first error: POST") && out.contains("400"), "{out}");
    let nowhere = ["--url", "http://127.0.0.1:1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_zaqar-bench"));
    let ran = command.env_clear().args(nowhere).output().unwrap();
    let error = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(1) && error.contains("127.0.0.1:1"), "{error}");
    assert!(bench(&server, &["-p", "0", "-c", "0"]).2.contains("producer"));
}

/// OpenStack's server on Redis fails to list claimed messages without a marker; on MongoDB, a
/// marker is a number, and a page behind anything else is empty.
#[tokio::test]
async fn observers_read_the_pages_of_the_original() {
    let page = r#"{"messages":[{"id":"m1","href":"/v2/queues/q/messages/m1","ttl":60,"age":0,
        "body":1}],"links":[{"rel":"next","href":"/v2/queues/q/messages?marker=7"}]}"#;
    let server = Scripted::start(move |_, request| {
        let is_list = request.line.starts_with("GET /v2/queues/");
        Some(Answer::new(if is_list { 200 } else { 204 }, if is_list { page } else { "" }))
    })
    .await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_zaqar-bench"));
    let load = ["-p", "0", "-c", "0", "-o", "1", "--seconds", "600", "--quiet"];
    command.env_clear().args(["--url", &server.url, "--project", "p"]).args(load);
    let _running = command.kill_on_drop(true).spawn().unwrap();
    let second = server.until(|request| request.line.contains("marker="));
    tokio::time::timeout(std::time::Duration::from_secs(60), second).await.unwrap();
    let lists: Vec<_> =
        server.lines().into_iter().filter(|line| line.contains("/messages?")).collect();
    assert!(lists[0].contains("include_claimed=false"), "{lists:?}");
    assert!(lists[1].contains("include_claimed=true"), "{lists:?}");
    assert!(lists[1].ends_with("marker=7"), "{lists:?}");
}
