//! Shared test support.

pub(crate) mod change_stream;
pub(crate) mod indexes;
pub(crate) mod proxy;
pub(crate) mod server;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use mongodb::IndexModel;
use mongodb::bson::Document;
use zaqar_storage_mongo::{Mongo, Options};
use zaqar_storage_testkit::{About, Factory, Stores};

use indexes::{Index, Indexes, Sent, uncovered};
use server::{database, options};

/// The indexes that a store has created.
async fn indexes_of(name: &str) -> Indexes {
    let db = database(name).await;
    let mut found = Indexes::new();
    for collection in db.list_collection_names().await.unwrap() {
        let indexes = db.collection::<Document>(&collection).list_indexes().await.unwrap();
        let indexes: Vec<IndexModel> = indexes.try_collect().await.unwrap();
        let own = indexes.into_iter().map(|index| {
            let options = index.options.unwrap();
            let partial = options.partial_filter_expression;
            let must = partial.and_then(|partial| partial.keys().next().cloned());
            Index { name: options.name.unwrap(), keys: index.keys, must }
        });
        found.insert(collection, own.collect());
    }
    found
}

/// The factory for the kit. Each test also checks that an index serves each query that it sent.
#[derive(Default)]
pub(crate) struct Databases {
    sent: Sent,
}

#[async_trait]
impl Factory for Databases {
    async fn open(&self, name: &str) -> Stores {
        let commands = Some(self.sent.handler());
        Stores::both(Mongo::open(Options { commands, ..options(name) }).await.unwrap())
    }

    async fn discard(&self, name: &str) {
        let sent = self.sent.take();
        assert!(!sent.is_empty(), "commands are recorded");
        assert_eq!(uncovered(&sent, &indexes_of(name).await), [""; 0]);
        database(name).await.drop().await.unwrap();
    }

    fn about(&self) -> About {
        About { keeps: true, shared: false, repairs_time: false }
    }
}
