//! The permissions of the Redis user in `docs.md` suffice for every operation.

use crate::repeats::{OPERATIONS, fixture};
use crate::servers::{Cluster, Server};
use crate::support::{Queue, open, options};

/// The rules in the first `acl` code block of `docs.md`.
fn rules() -> Vec<String> {
    let docs = include_str!("../../src/docs.md");
    let block = docs.split("```acl\n").nth(1).expect("the rules are documented");
    let block = block.split("```").next().expect("the block ends");
    block.split_whitespace().map(str::to_owned).collect()
}

fn allow(server: &Server) {
    let rules = rules();
    let mut command = vec!["ACL", "SETUSER", "least", "on", ">secret"];
    command.extend(rules.iter().map(String::as_str));
    assert_eq!(server.cli(&command), "OK");
}

async fn check(uri: &str) {
    let store = open(options(uri)).await;
    for (name, operation) in OPERATIONS {
        println!("{name}");
        operation(&fixture(&store).await).await;
    }
    let queue = Queue::new(&store, "q").await;
    let mut news = zaqar_core::storage::News::news(&store).await.expect("it may subscribe");
    queue.post(&["a"]).await;
    futures_util::StreamExt::next(&mut news).await.expect("news come");
    assert_eq!(queue.texts().await, ["a"]);
    zaqar_core::storage::Messages::volume(&store).await.expect("it may count").expect("it can");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_permissions_suffice_on_one_server() {
    let server = Server::start(&[]);
    allow(&server);
    check(&format!("redis://least:secret@127.0.0.1:{}", server.port)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_permissions_suffice_in_a_cluster() {
    let cluster = Cluster::start();
    cluster.nodes.iter().for_each(allow);
    let hosts = cluster.hosts().join(",");
    check(&format!("redis://least:secret@{hosts}?cluster=true")).await;
}
