//! Write and read concerns of every command, as they are sent.

use mongodb::bson::{Document, doc};
use mongodb::event::command::CommandStartedEvent;
use zaqar_core::storage::Messages;
use zaqar_core::{QueueKey, QueueName, Secret};
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::block_on;

use crate::scene::{OPERATIONS, Scene, wait_until_applied};
use crate::support::indexes::Sent;
use crate::support::server;

/// Whether a write may be lost: the removal of intents, and hints about when something is due.
fn may_be_lost(command: &CommandStartedEvent) -> bool {
    let updates = command.command.get_array("updates").into_iter().flatten();
    command.command.get_str("update").is_ok_and(|name| name == "queue_heads")
        && updates.filter_map(|update| update.as_document()?.get_document("u").ok()).all(|change| {
            let fields = |operator| change.get_document(operator).map(Document::keys);
            let is_pull = fields("$pull").is_ok_and(|mut fields| fields.all(|name| name == "todo"));
            let is_hint = fields("$set")
                .is_ok_and(|mut fields| fields.all(|name| name == "due" || name == "over"));
            change.len() == 1 && (is_pull || is_hint)
        })
}

/// What is wrong with the concern of a command.
fn wrong(command: &CommandStartedEvent) -> Option<String> {
    let (name, own) = (command.command_name.as_str(), &command.command);
    let is_wrong = match name {
        "insert" | "update" | "delete" | "findAndModify" => {
            let concern = own.get_document("writeConcern").cloned().unwrap_or_default();
            let is_majority = concern.get_str("w").is_ok_and(|w| w == "majority")
                && concern.get_bool("j").is_ok_and(|is_journaled| is_journaled)
                && concern.get("wtimeout").is_some();
            let is_single = concern.get_i32("w").is_ok_and(|w| w == 1);
            !(is_majority || is_single && may_be_lost(command))
        }
        "aggregate" if own.get_str(name).is_ok_and(|name| name == "queue_heads") => {
            let level = own.get_document("readConcern").and_then(|read| read.get_str("level"));
            !matches!(level, Ok("majority" | "linearizable"))
        }
        _ => false,
    };
    is_wrong.then(|| format!("{name}: {own}"))
}

#[test]
fn acknowledged_writes_are_majority_writes_whatever_the_uri_says() {
    block_on(async {
        for option in ["journal=true", "wtimeoutMS=5000", "readConcernLevel=local", "w=majority"] {
            let (name, sent) = (server::name(), Sent::default());
            let uri = server::uri(&name);
            let mark = if uri.contains('?') { '&' } else { '?' };
            let store = Mongo::open(Options {
                uri: Secret::new(format!("{uri}{mark}{option}")),
                commands: Some(sent.handler()),
                change_streams: false,
                ..server::options(&name)
            })
            .await
            .unwrap();
            let db = server::database(&name).await;
            sent.take();
            for operation in OPERATIONS {
                let scene = Scene::new(&store).await;
                scene.perform(&store, operation).await.unwrap();
            }
            wait_until_applied(&db).await;
            let wrong: Vec<_> = sent.take().iter().filter_map(wrong).collect();
            assert_eq!(wrong, [""; 0], "{option}");
            db.drop().await.unwrap();
        }
    });
}

#[test]
fn a_queue_is_missing_only_if_a_linearizable_read_says_so() {
    block_on(async {
        let any = server::database("any").await;
        let hello = any.run_command(doc! { "hello": 1 }).await.unwrap();
        if !hello.contains_key("setName") && hello.get_str("msg").ok() != Some("isdbgrid") {
            eprintln!("skipped: a standalone server has no linearizable reads");
            return;
        }
        let (name, sent) = (server::name(), Sent::default());
        let options = Options {
            commands: Some(sent.handler()),
            change_streams: false,
            ..server::options(&name)
        };
        let store = Mongo::open(options).await.unwrap();
        let scene = Scene::new(&store).await;
        let missing = QueueKey { name: QueueName::new("missing").unwrap(), ..scene.key.clone() };
        sent.take();
        let deleted = store.delete(&missing, scene.ids[0], None, scene.now).await.unwrap();
        assert_eq!(deleted, zaqar_core::storage::Deleted::Gone);
        let levels: Vec<_> = sent
            .take()
            .iter()
            .map(|read| {
                let concern = read.command.get_document("readConcern").unwrap();
                concern.get_str("level").unwrap().to_owned()
            })
            .collect();
        assert_eq!(levels.last().map(String::as_str), Some("linearizable"), "{levels:?}");
        server::database(&name).await.drop().await.unwrap();
    });
}
