//! A fake node of a Cluster for tests, with a configurable delay.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::uri::Host;

/// Starts a node that answers `CLUSTER NODES` with this text after a delay, and everything else at
/// once. `PORT` is replaced by its own port.
pub(crate) async fn start(nodes: &'static str, after: Duration) -> Host {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let nodes = nodes.replace("PORT", &port.to_string());
    let nodes = format!("${}\r\n{nodes}\r\n", nodes.len());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let nodes = nodes.clone();
            tokio::spawn(async move {
                let (from, mut to) = stream.into_split();
                let mut lines = BufReader::new(from).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    // Commands are arrays: skip everything but their names.
                    let answer = match line.as_str() {
                        "TIME" => "*2\r\n$1\r\n1\r\n$1\r\n1\r\n",
                        "CLIENT" => "+OK\r\n",
                        "PING" => "+PONG\r\n",
                        "CLUSTER" => {
                            tokio::time::sleep(after).await;
                            &nodes
                        }
                        _ => continue,
                    };
                    to.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    Host { name: "127.0.0.1".to_owned(), port }
}
