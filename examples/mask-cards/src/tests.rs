//! The stage alone, by its name in a configuration, and in front of a store.

use std::fs;
use std::sync::Arc;

use zaqar_api::{
    Api, Context, Layers, ListMessages, Options, PostMessages, PostedMessage, QueueRef,
};
use zaqar_core::{ClientId, Kind, ProjectId, QueueName};
use zaqar_server::config::{self, Settings, Sources};
use zaqar_storage_testkit::Memory;

use crate::registry;
use crate::stage::masked;

#[test]
fn card_numbers_are_masked_and_nothing_else() {
    for (body, expected) in [
        (r#"{"card":"4111111111111111"}"#, Some(r#"{"card":"************1111"}"#)),
        (r#""a 4111 1111-1111 1111 b""#, Some(r#""a **** ****-**** 1111 b""#)),
        ("[4111111111111111,1]", Some("[9999999999991111,1]")),
        // No card: the check digit is wrong, or there are too few or too many digits.
        (r#""4111111111111112""#, None),
        (r#""411111111111""#, None),
        (r#""41111111111111110000""#, None),
        ("1e400", None),
        (r#"{"a\"":"x","n":-12.5}"#, None),
        (r#""\\""#, None),
    ] {
        let masked = masked(body.as_bytes(), b'*');
        let masked = masked.map(|masked| String::from_utf8(masked).unwrap());
        assert_eq!(masked.as_deref(), expected, "{body}");
    }
}

fn settings(text: &str) -> Settings {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let sources = Sources { files: vec![file.path().to_owned()], ..Sources::default() };
    let loaded = config::load(&sources, &registry().registered()).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.settings
}

#[tokio::test]
async fn a_configured_stage_masks_what_is_stored() {
    let settings = settings(
        "[storage]\nmessage_pipeline = example.mask_cards, zaqar.notification.notifier\n\
         [storage:stage:example.mask_cards]\nmask = x\n",
    );
    let pipelines = registry().pipelines(&settings).unwrap();
    let layers = Layers { pipelines, ..Layers::default() };
    let store = Arc::new(Memory::new());
    let api = Api::new(store.clone(), store, Options { layers, ..Options::default() });

    let context = Context::new(ProjectId::new("p").unwrap(), ClientId::new("c"));
    let queue = QueueRef { kind: Kind::Queue, name: QueueName::new("q").unwrap() };
    let body = r#"{"card":"4111 1111 1111 1111"}"#;
    let messages = vec![PostedMessage { body: body.into(), ttl: None, delay: None }];
    let post = PostMessages { queue: queue.clone(), size: 32, messages, notify: false };
    api.call(&context, post).await.unwrap();
    let list = ListMessages {
        queue,
        marker: None,
        limit: None,
        echo: true,
        include_claimed: false,
        include_delayed: false,
    };
    let page = api.call(&context, list).await.unwrap();
    assert_eq!(page.messages[0].payload.bytes, r#"{"card":"xxxx xxxx xxxx 1111"}"#);
}

#[test]
fn a_wrong_option_stops_the_start() {
    let settings = settings(
        "[storage]\nmessage_pipeline = example.mask_cards\n\
         [storage:stage:example.mask_cards]\nmask = no\n",
    );
    let error = registry().pipelines(&settings).err().unwrap().to_string();
    assert!(error.contains("mask") && error.contains("one ASCII character"), "{error}");
}
