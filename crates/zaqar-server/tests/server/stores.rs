//! Stores are opened by their location.

use std::sync::Arc;

use zaqar_core::Secret;
use zaqar_server::config::Section;
use zaqar_server::{Registry, StoreContext, StoreDriver, StoreLocation, StoreRole, Stores};

use crate::support::{Driver, load, registry};

const BOTH: &str = "[drivers]\nmessage_store = memory\nmanagement_store = memory\n";

async fn open(registry: &Registry, text: &str) -> Result<Stores, String> {
    let settings = load(registry, text).map_err(|errors| errors.to_string())?.settings;
    let opened = registry.open_stores(&settings, &StoreContext::default()).await;
    opened.map_err(|error| error.to_string())
}

#[tokio::test]
async fn two_roles_at_one_location_share_one_store() {
    type Row = (&'static str, &'static [(&'static str, u64)], bool);
    let table: [Row; 5] = [
        ("", &[("default", 1)], true),
        ("[drivers:message_store:memory]\npath = a\nsize = 3\n", &[("a", 3)], true),
        ("[drivers:management_store:memory]\npath = a\nsize = 3\n", &[("a", 1)], true),
        (
            "[drivers:message_store:memory]\npath = a\nsize = 3\n\
             [drivers:management_store:memory]\npath = a\nsize = 4\n",
            &[("a", 3)],
            true,
        ),
        (
            "[drivers:message_store:memory]\npath = a\nsize = 3\n\
             [drivers:management_store:memory]\npath = b\nsize = 4\n",
            &[("a", 3), ("b", 4)],
            false,
        ),
    ];
    for (text, expected, is_one) in table {
        let driver = Arc::new(Driver::default());
        let stores = open(&registry(&driver), &format!("{BOTH}{text}")).await.unwrap();
        let expected: Vec<_> =
            expected.iter().map(|(at, size)| ((*at).to_owned(), *size)).collect();
        assert_eq!((driver.opened(), stores.is_one), (expected, is_one), "{text}");
    }
}

#[tokio::test]
async fn the_embedded_store_knows_one_directory_by_its_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let sections = |management: &str| {
        format!(
            "[drivers:message_store:embedded]\npath = {0}\n\
             [drivers:management_store:embedded]\npath = {0}/{management}\n",
            path.display()
        )
    };
    let registry = Registry::default();
    std::fs::create_dir(&path).unwrap();
    let stores = open(&registry, &sections("../data")).await.unwrap();
    assert!(stores.is_one);
    stores.messages.shut_down().await.unwrap();
    let stores = open(&registry, &sections("more")).await.unwrap();
    assert!(!stores.is_one);
    stores.messages.ping().await.unwrap();
    stores.management.ping().await.unwrap();
}

#[tokio::test]
async fn a_store_with_one_role_is_offered_for_that_role_only() {
    let driver = Arc::new(Driver { roles: &[StoreRole::Messages], ..Driver::default() });
    let registry = registry(&driver);
    let refused = open(&registry, BOTH).await.unwrap_err();
    let expected = "[drivers] management_store = \"memory\": must be one of: embedded, ";
    assert!(refused.contains(expected), "{refused}");

    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[drivers]\nmessage_store = memory\nmanagement_store = embedded\n\
         [drivers:management_store:embedded]\npath = {}\n",
        directory.path().display()
    );
    let stores = open(&registry, &text).await.unwrap();
    assert!(!stores.is_one);
    assert_eq!(driver.opened(), [("default".to_owned(), 1)]);
}

#[tokio::test]
async fn wrong_and_misspelled_options_of_an_outside_driver_are_told() {
    let driver = Arc::new(Driver::default());
    let registry = registry(&driver);
    let text = format!("{BOTH}[drivers:message_store:memory]\nsiez = 3\n");
    let loaded = load(&registry, &text).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let expected = "[drivers:message_store:memory] siez is no option of this server; \
                    did you mean size?";
    assert!(warnings[0].ends_with(expected), "{warnings:?}");

    let text = format!("{BOTH}[drivers:management_store:memory]\nsize = 10\n");
    let refused = load(&registry, &text).unwrap_err().to_string();
    let expected = "[drivers:management_store:memory] size = \"10\": \
                    must be an integer from 1 to 9";
    assert!(refused.ends_with(expected), "{refused}");
}

#[tokio::test]
async fn any_number_of_stores_is_opened_by_uri() {
    let driver = Arc::new(Driver::default());
    let registry = registry(&driver);
    let directory = tempfile::tempdir().unwrap();
    let embedded = |name: &str| format!("embedded:{}", directory.path().join(name).display());
    let location = |uri: &str| StoreLocation {
        uri: Secret::new(uri.to_owned()),
        options: Section::of_options("pool one", driver.options(), [("size", "5")]),
    };
    for uri in ["memory:a", "memory:b", &embedded("a"), &embedded("b")] {
        let context = StoreContext::default();
        let opened = registry.open_location(&location(uri), &context).await.unwrap();
        opened.messages.unwrap().ping().await.unwrap();
    }
    assert_eq!(driver.opened(), [("memory:a".to_owned(), 5), ("memory:b".to_owned(), 5)]);
    assert!(directory.path().join("b").is_dir());
    let refused = registry.open_location(&location("swift:a"), &StoreContext::default()).await;
    assert_eq!(refused.unwrap_err().to_string(), "no store has URIs that begin with swift:");
}

#[tokio::test]
async fn a_store_that_must_be_located_names_the_option() {
    let text = "[drivers]\nmessage_store = mongodb\nmanagement_store = mongodb\n";
    let refused = open(&Registry::default(), text).await.unwrap_err();
    assert!(refused.ends_with("[drivers:message_store:mongodb] uri must be set"), "{refused}");
}
