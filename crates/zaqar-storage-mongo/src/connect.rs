//! Connecting to MongoDB and preparing the database.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::bson::{DateTime, Document, doc};
use mongodb::error::Error as Driver;
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, ReadConcern, Tls as DriverTls, TlsOptions,
    WriteConcern,
};
use mongodb::{Client, Collection, Database};
use tempfile::NamedTempFile;
use tokio::time::sleep;

use crate::config::{Tls, plain_scheme};
use crate::elections::Elections;
use crate::error::{is_duplicate, is_transient};
use crate::stored::Head;
use crate::{Error, Options, schema};

const SELECTION: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);
/// A warning is logged if the clocks differ by more.
const CLOCKS_APART: Duration = Duration::from_secs(60);
/// The maximum wait for replication of a write (`wtimeout`).
const REPLICATION: Duration = Duration::from_secs(8);
/// Delays between attempts at startup.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(crate) async fn client(options: &Options, elections: Arc<Elections>) -> Result<Client, Error> {
    let uri = |source| Error::Uri { source: Box::new(source) };
    let mut client = ClientOptions::parse(plain_scheme(options.uri.expose())).await.map_err(uri)?;
    client.app_name.get_or_insert_with(|| "zaqar-server".to_owned());
    client.server_selection_timeout.get_or_insert(SELECTION);
    client.connect_timeout.get_or_insert(CONNECT);
    client.write_concern = Some(durable(client.write_concern.take(), options.unreliable)?);
    bound_pool(&mut client, options);
    client.sdam_event_handler =
        Some(EventHandler::callback(move |event: SdamEvent| elections.observe(&event)));
    read_from_the_primary(&mut client);
    client.command_event_handler.clone_from(&options.commands);
    let mut combined = None;
    if let Some(DriverTls::Enabled(tls)) = &mut client.tls {
        combined = apply(&options.tls, tls)?;
    }
    let connected = Client::with_options(client).map_err(uri)?;
    // The client has loaded it.
    drop(combined);
    Ok(connected)
}

/// Limits the connections to what the operations in progress can use, unless the URI has a limit.
fn bound_pool(client: &mut ClientOptions, options: &Options) {
    let in_flight = u32::try_from(options.in_flight).unwrap_or(u32::MAX);
    client.max_pool_size.get_or_insert(options.max_pool_size.min(in_flight).max(1));
}

/// Overrides the URI's read settings: reads from a secondary could miss writes.
fn read_from_the_primary(client: &mut ClientOptions) {
    let (preference, concern) = (client.selection_criteria.take(), client.read_concern.take());
    if preference.is_some() || concern.is_some() {
        tracing::warn!(
            "readPreference and readConcernLevel in the uri of the MongoDB store are ignored: it reads from the primary"
        );
    }
}

/// The write concern of all writes: acknowledged data is in the journals of a majority, or in the
/// journal of a standalone server. A URI that asks for less is rejected, unless `unreliable` is
/// set; `w=0` is always rejected, as the store needs acknowledgements.
fn durable(asked: Option<WriteConcern>, unreliable: bool) -> Result<WriteConcern, Error> {
    let mut concern = asked.unwrap_or_else(|| WriteConcern::builder().build());
    let refused = match &concern.w {
        None | Some(Acknowledgment::Majority) => None,
        Some(Acknowledgment::Nodes(0)) => Some("w=0".to_owned()),
        _ if unreliable => None,
        Some(Acknowledgment::Nodes(nodes)) => Some(format!("w={nodes}")),
        Some(Acknowledgment::Custom(tag)) => Some(format!("w={tag}")),
        Some(other) => Some(format!("w={other:?}")),
    };
    if let Some(option) = refused {
        return Err(Error::Unreliable { option });
    }
    if concern.journal == Some(false) && !unreliable {
        return Err(Error::Unreliable { option: "journal=false".to_owned() });
    }
    concern.w.get_or_insert(Acknowledgment::Majority);
    concern.journal.get_or_insert(true);
    // 0 would mean no timeout.
    let asked = concern.w_timeout.filter(|asked| !asked.is_zero());
    concern.w_timeout = Some(asked.map_or(REPLICATION, |asked| asked.min(REPLICATION)));
    Ok(concern)
}

/// The write concern of a write that others repeat if it is lost.
pub(crate) fn one_node() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Nodes(1)).build()
}

/// Sets the certificates. The driver needs our certificate and its key in one file: two files are
/// combined into a temporary one.
fn apply(ours: &Tls, tls: &mut TlsOptions) -> Result<Option<NamedTempFile>, Error> {
    if let Some(file) = &ours.ca_file {
        tls.ca_file_path = Some(file.clone());
    }
    if ours.accept_any {
        tls.allow_invalid_certificates = Some(true);
    }
    let Some(certificate) = &ours.certificate_file else { return Ok(None) };
    let Some(key) = &ours.key_file else {
        tls.cert_key_file_path = Some(certificate.clone());
        return Ok(None);
    };
    let failed = |path: &Path, source| Error::Certificate { path: path.to_owned(), source };
    // Readable only by its owner.
    let mut both = NamedTempFile::new().map_err(|error| failed(key, error))?;
    for path in [certificate, key] {
        let pem = std::fs::read(path).map_err(|error| failed(path, error))?;
        both.write_all(&pem)
            .and_then(|()| both.write_all(b"\n"))
            .map_err(|error| failed(path, error))?;
    }
    tls.cert_key_file_path = Some(both.path().to_owned());
    Ok(Some(both))
}

/// The collection of heads by read concern.
#[derive(Clone)]
pub(crate) struct Heads {
    /// Majority reads: an intent may be applied only if its commit cannot be rolled back.
    pub(crate) majority: Collection<Head>,
    /// Linearizable reads; `None` on a standalone server.
    pub(crate) linearizable: Option<Collection<Head>>,
}

/// As [`prepare`], with retries while the database cannot be reached or has no primary.
pub(crate) async fn prepare_with_retries(db: &Database, longest: Duration) -> Result<Heads, Error> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match prepare(db).await {
            Err(Error::Unusable { source, .. })
                if is_transient(&source) && start.elapsed() + pause < longest =>
            {
                if pause == FIRST_PAUSE {
                    tracing::warn!(
                        error = &*source as &dyn std::error::Error,
                        "the MongoDB server cannot be used yet; startup waits for it"
                    );
                }
                sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
            prepared => return prepared,
        }
    }
}

/// Checks the format, creates missing indexes, and rejects sharded collections. Returns the
/// collection of heads.
async fn prepare(db: &Database) -> Result<Heads, Error> {
    let unusable =
        |source| Error::Unusable { database: db.name().to_owned(), source: Box::new(source) };
    let found = format(db).await.map_err(unusable)?;
    if found != schema::FORMAT {
        return Err(Error::Newer {
            database: db.name().to_owned(),
            found,
            supported: schema::FORMAT,
        });
    }
    for (collection, indexes) in schema::indexes() {
        db.collection::<Document>(collection).create_indexes(indexes).await.map_err(unusable)?;
    }
    let hello = db.run_command(doc! { "hello": 1 }).await.map_err(unusable)?;
    if is_mongos(&hello) {
        for (collection, _) in schema::indexes() {
            let stats = db.run_command(doc! { "collStats": collection }).await.map_err(unusable)?;
            refuse_sharded(db.name(), collection, &stats)?;
        }
    }
    Ok(heads(db, &hello))
}

fn is_mongos(hello: &Document) -> bool {
    matches!(hello.get_str("msg"), Ok("isdbgrid"))
}

/// Rejects a sharded collection: updates of many documents may miss some while a chunk migrates
/// (SERVER-20361).
fn refuse_sharded(database: &str, collection: &str, stats: &Document) -> Result<(), Error> {
    if !stats.get_bool("sharded").unwrap_or(false) {
        return Ok(());
    }
    Err(Error::Sharded { database: database.to_owned(), collection: collection.to_owned() })
}

/// The collection of heads. On a replica set it is read with read concern majority, as an intent
/// may be applied only if a failover cannot roll its commit back. Messages are read without it, so
/// that no reader misses an acknowledged one.
fn heads(db: &Database, hello: &Document) -> Heads {
    if let Ok(theirs) = hello.get_datetime("localTime") {
        let apart = theirs.timestamp_millis().abs_diff(DateTime::now().timestamp_millis());
        if u128::from(apart) > CLOCKS_APART.as_millis() {
            tracing::warn!(
                milliseconds = apart,
                "this server's clock and the MongoDB server's differ"
            );
        }
    }
    let read_by = |concern| {
        let options = CollectionOptions::builder().read_concern(concern).build();
        db.collection_with_options(schema::HEADS, options)
    };
    if hello.contains_key("setName") || is_mongos(hello) {
        return Heads {
            majority: read_by(ReadConcern::majority()),
            linearizable: Some(read_by(ReadConcern::linearizable())),
        };
    }
    Heads { majority: db.collection(schema::HEADS), linearizable: None }
}

/// The format of the database; a new database gets the current format.
async fn format(db: &Database) -> Result<i32, Driver> {
    let formats = db.collection::<Document>(schema::FORMATS);
    if let Some(found) = formats.find_one(doc! { "_id": "format" }).await? {
        return Ok(found.get_i32("number").unwrap_or(i32::MAX));
    }
    match formats.insert_one(doc! { "_id": "format", "number": schema::FORMAT }).await {
        // Another process was faster. It has the same release, or is rejected at its next start.
        Err(error) if !is_duplicate(&error) => Err(error),
        _ => Ok(schema::FORMAT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_scheme_is_accepted() {
        assert_eq!(plain_scheme("mongodb.fifo://a:1,b:2/?x=y"), "mongodb://a:1,b:2/?x=y");
        assert_eq!(plain_scheme("mongodb+srv://a"), "mongodb+srv://a");
    }

    #[tokio::test]
    async fn reads_go_to_the_primary() {
        for extra in ["readPreference=secondaryPreferred", "readConcernLevel=majority"] {
            let uri = format!("mongodb://127.0.0.1/?{extra}");
            let mut client = ClientOptions::parse(uri).await.unwrap();
            assert!(client.selection_criteria.is_some() || client.read_concern.is_some());
            read_from_the_primary(&mut client);
            assert!(client.selection_criteria.is_none() && client.read_concern.is_none());
        }
    }

    #[tokio::test]
    async fn the_pool_fits_the_operations_unless_the_uri_has_its_size() {
        for (uri, in_flight, connections) in [
            ("mongodb://127.0.0.1/", 1024, 100),
            ("mongodb://127.0.0.1/", 20, 20),
            ("mongodb://127.0.0.1/", 0, 1),
            ("mongodb://127.0.0.1/?maxPoolSize=7", 1024, 7),
            ("mongodb://127.0.0.1/?maxPoolSize=500", 20, 500),
        ] {
            let mut client = ClientOptions::parse(uri).await.unwrap();
            bound_pool(&mut client, &Options { in_flight, ..Options::new(uri, "d") });
            assert_eq!(client.max_pool_size, Some(connections), "{uri} {in_flight}");
        }
    }

    #[tokio::test]
    async fn weaker_write_concerns_are_rejected_by_name() {
        for (options, unreliable, refused) in [
            ("", false, None),
            ("?w=majority", false, None),
            ("?wtimeoutMS=100", false, None),
            ("?wtimeoutMS=0", false, None),
            ("?journal=true", false, None),
            ("?journal=true&wtimeoutMS=90000", false, None),
            ("?w=1", false, Some("w=1")),
            ("?w=2", false, Some("w=2")),
            ("?w=tag", false, Some("w=tag")),
            ("?journal=false", false, Some("journal=false")),
            ("?w=majority&journal=false", false, Some("journal=false")),
            ("?w=0", true, Some("w=0")),
            ("?w=1", true, None),
        ] {
            let uri = format!("mongodb://127.0.0.1/{options}");
            let asked = ClientOptions::parse(uri).await.unwrap().write_concern;
            match (durable(asked, unreliable), refused) {
                (Err(Error::Unreliable { option }), Some(refused)) => assert_eq!(option, refused),
                (Ok(concern), None) => {
                    let timeout = concern.w_timeout.unwrap();
                    assert!(!timeout.is_zero() && timeout <= REPLICATION, "{options}");
                    let is_majority = concern.w == Some(Acknowledgment::Majority);
                    assert!(unreliable || is_majority, "{options}");
                    assert_eq!(concern.journal, Some(true), "{options}");
                }
                (other, _) => panic!("{options}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_sharded_collection_is_rejected_by_name() {
        assert!(refuse_sharded("d", "c", &doc! { "sharded": false }).is_ok());
        assert!(refuse_sharded("d", "c", &doc! {}).is_ok());
        let refused = refuse_sharded("d", "c", &doc! { "sharded": true }).unwrap_err().to_string();
        assert!(refused.contains("collection c") && refused.contains("database d"), "{refused}");
    }

    #[test]
    fn a_certificate_and_its_key_are_combined_into_one_file() {
        let file = |text: &str| {
            let mut file = NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        let (certificate, key) = (file("CERT"), file("KEY"));
        let ours = Tls {
            certificate_file: Some(certificate.path().to_owned()),
            key_file: Some(key.path().to_owned()),
            accept_any: true,
            ca_file: None,
        };
        let mut tls = TlsOptions::default();
        let both = apply(&ours, &mut tls).unwrap().unwrap();
        assert_eq!(tls.cert_key_file_path.as_deref(), Some(both.path()));
        assert_eq!(std::fs::read_to_string(both.path()).unwrap(), "CERT\nKEY\n");
        assert_eq!(tls.allow_invalid_certificates, Some(true));
        let missing = Tls { key_file: Some("/nonexistent".into()), ..ours };
        assert!(matches!(apply(&missing, &mut tls), Err(Error::Certificate { .. })));
    }
}
