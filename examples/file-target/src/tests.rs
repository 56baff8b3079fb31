//! The whole server with the channel: a client subscribes a file, and posts.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use zaqar_client::{Client, NewMessage, NewSubscription, Retries};
use zaqar_server::config::{self, Loaded, Sources};

use crate::registry;

fn configure(directory: &Path, port: u16) -> Loaded {
    let file = directory.join("zaqar.conf");
    let directory = directory.display();
    let text = format!(
        "[drivers:transport:wsgi]\nport = {port}\n\
         [drivers:message_store:embedded]\npath = {directory}/store\n\
         [drivers:management_store:embedded]\npath = {directory}/store\n\
         [transport]\nsubscriber_types = https, example+file\n\
         [notification:channel:example+file]\ndirectory = {directory}\n"
    );
    fs::write(&file, text).unwrap();
    let sources = Sources { files: vec![file], ..Sources::default() };
    config::load(&sources, &registry().registered()).unwrap()
}

#[tokio::test]
async fn a_file_gets_what_is_posted() {
    let directory = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let loaded = configure(directory.path(), port);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let shutdown = CancellationToken::new();
    let (registry, stop) = (registry(), shutdown.clone());
    let serving = tokio::spawn(async move {
        zaqar_server::run(&registry, &loaded.settings, stop).await.map_err(|e| e.to_string())
    });

    let url = format!("http://127.0.0.1:{port}");
    let retries =
        Retries { attempts: 100, longest_pause: Duration::from_millis(200), ..Retries::default() };
    let client = Client::builder().url(url).project("p").retries(retries).build().unwrap();
    let queue = client.queue("q").unwrap();
    let wrong = queue.subscribe(&NewSubscription::new("example+file:../x")).await;
    assert!(wrong.unwrap_err().to_string().contains("after its colon"));
    let batch = NewSubscription::new("example+file:audit").option("batch", true);
    assert!(queue.subscribe(&batch).await.is_err());
    queue.subscribe(&NewSubscription::new("Example+File:audit")).await.unwrap();
    queue.post([NewMessage::new("hello").unwrap()]).await.unwrap();

    let file = directory.path().join("audit");
    let expected = "\"body\":\"hello\",\"Message_Type\":\"Notification\",\"queue_name\":\"q\"}\n";
    let delivered = async {
        while !fs::read_to_string(&file).unwrap_or_default().ends_with(expected) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), delivered).await.unwrap();
    shutdown.cancel();
    assert_eq!(serving.await.unwrap(), Ok(()));
}
