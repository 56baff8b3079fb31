//! Connecting, and preparing a database.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::error::Error as Driver;
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, ReadConcern, Tls as DriverTls, TlsOptions,
    WriteConcern,
};
use mongodb::{Client, Collection, Database};
use tempfile::NamedTempFile;

use crate::config::Tls;
use crate::error::is_duplicate;
use crate::stored::Head;
use crate::{Error, Options, schema};

const SELECTION: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);
/// Clocks that differ by more are worth a word.
const CLOCKS_APART: Duration = Duration::from_secs(60);
/// The server gives up waiting for its secondaries after this long.
const REPLICATION: Duration = Duration::from_secs(8);

pub(crate) async fn client(options: &Options) -> Result<Client, Error> {
    let uri = |source| Error::Uri { source: Box::new(source) };
    let mut client = ClientOptions::parse(plain_scheme(options.uri.expose())).await.map_err(uri)?;
    client.app_name.get_or_insert_with(|| "zaqar-server".to_owned());
    client.server_selection_timeout.get_or_insert(SELECTION);
    client.connect_timeout.get_or_insert(CONNECT);
    check_durability(client.write_concern.as_ref(), options.unreliable)?;
    // As durable as the server can: a majority that has written it to disk. On a server of its own that is itself.
    client.write_concern.get_or_insert_with(|| {
        WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .w_timeout(REPLICATION)
            .build()
    });
    read_from_the_primary(&mut client);
    client.command_event_handler.clone_from(&options.commands);
    let mut combined = None;
    if let Some(DriverTls::Enabled(tls)) = &mut client.tls {
        combined = apply(&options.tls, tls)?;
    }
    let connected = Client::with_options(client).map_err(uri)?;
    // The client has read it.
    drop(combined);
    Ok(connected)
}

/// Whatever the URI says: what a secondary has not heard of yet would be skipped.
fn read_from_the_primary(client: &mut ClientOptions) {
    let (preference, concern) = (client.selection_criteria.take(), client.read_concern.take());
    if preference.is_some() || concern.is_some() {
        tracing::warn!(
            "readPreference and readConcernLevel in the uri of the MongoDB store are ignored: it reads from the primary"
        );
    }
}

/// Refuses a write concern that loses what was acknowledged. Without any acknowledgement nothing here works.
fn check_durability(concern: Option<&WriteConcern>, unreliable: bool) -> Result<(), Error> {
    match concern.and_then(|concern| concern.w.as_ref()) {
        Some(Acknowledgment::Nodes(nodes)) if *nodes == 0 || (*nodes == 1 && !unreliable) => {
            Err(Error::Unreliable { w: nodes.to_string() })
        }
        _ => Ok(()),
    }
}

/// The original names the variant of its driver in the scheme.
fn plain_scheme(uri: &str) -> String {
    match uri.strip_prefix("mongodb.fifo://") {
        Some(rest) => format!("mongodb://{rest}"),
        None => uri.to_owned(),
    }
}

/// Sets the certificates. The driver takes our own and its key from one file: where they are two, one is made for it.
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
    // Only its owner can read it.
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

/// Checks the format, and makes the indexes that are missing; the heads.
pub(crate) async fn prepare(db: &Database) -> Result<Collection<Head>, Error> {
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
    heads(db).await.map_err(unusable)
}

/// The heads. Where a fail-over can take back what is not yet with a majority, they are read without that: who carries out a step must
/// know that it stays decided. Of messages, on the other hand, all that is there is wanted: no reader may miss one that is acknowledged.
async fn heads(db: &Database) -> Result<Collection<Head>, Driver> {
    let hello = db.run_command(doc! { "hello": 1 }).await?;
    if let Ok(theirs) = hello.get_datetime("localTime") {
        let apart = theirs.timestamp_millis().abs_diff(DateTime::now().timestamp_millis());
        if u128::from(apart) > CLOCKS_APART.as_millis() {
            tracing::warn!(
                milliseconds = apart,
                "the clocks here and at the MongoDB server differ"
            );
        }
    }
    let is_replicated =
        hello.contains_key("setName") || matches!(hello.get_str("msg"), Ok("isdbgrid"));
    let concern = is_replicated.then(ReadConcern::majority);
    let options = CollectionOptions::builder().read_concern(concern).build();
    Ok(db.collection_with_options(schema::HEADS, options))
}

/// The format of what is there; ours where nothing is.
async fn format(db: &Database) -> Result<i32, Driver> {
    let formats = db.collection::<Document>(schema::FORMATS);
    if let Some(found) = formats.find_one(doc! { "_id": "format" }).await? {
        return Ok(found.get_i32("number").unwrap_or(i32::MAX));
    }
    match formats.insert_one(doc! { "_id": "format", "number": schema::FORMAT }).await {
        // Another process was faster: it has the same release, or is refused at its next start.
        Err(error) if !is_duplicate(&error) => Err(error),
        _ => Ok(schema::FORMAT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_scheme_is_taken() {
        assert_eq!(plain_scheme("mongodb.fifo://a:1,b:2/?x=y"), "mongodb://a:1,b:2/?x=y");
        assert_eq!(plain_scheme("mongodb+srv://a"), "mongodb+srv://a");
    }

    #[tokio::test]
    async fn only_the_primary_is_read() {
        for extra in ["readPreference=secondaryPreferred", "readConcernLevel=majority"] {
            let uri = format!("mongodb://127.0.0.1/?{extra}");
            let mut client = ClientOptions::parse(uri).await.unwrap();
            assert!(client.selection_criteria.is_some() || client.read_concern.is_some());
            read_from_the_primary(&mut client);
            assert!(client.selection_criteria.is_none() && client.read_concern.is_none());
        }
    }

    #[test]
    fn a_write_concern_that_loses_messages_is_refused() {
        let nodes = |nodes| WriteConcern::builder().w(Acknowledgment::Nodes(nodes)).build();
        let majority = WriteConcern::builder().w(Acknowledgment::Majority).build();
        for (concern, unreliable, is_taken) in [
            (None, false, true),
            (Some(majority), false, true),
            (Some(nodes(2)), false, true),
            (Some(nodes(1)), false, false),
            (Some(nodes(1)), true, true),
            (Some(nodes(0)), true, false),
        ] {
            let checked = check_durability(concern.as_ref(), unreliable);
            assert_eq!(checked.is_ok(), is_taken, "{concern:?} {unreliable}");
        }
    }

    #[test]
    fn a_certificate_and_its_key_become_one_file() {
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
