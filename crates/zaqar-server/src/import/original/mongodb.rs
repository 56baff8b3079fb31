//! What the original keeps in MongoDB (`zaqar/storage/mongodb` of its release 23.0).
//!
//! Queues and subscriptions have a database each, messages some (`partitions`); all have names that
//! begin with its option `database`.

use std::time::Duration;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, Cursor};
use serde_json::{Map, Number, Value};
use zaqar_core::Secret;

use super::{OldMessage, OldQueue, OldSubscription, Original, Place};
use crate::error::StartError;

/// Documents that are read at a time.
const PAGE: usize = 100;
/// How long a server is looked for.
const SELECTION: Duration = Duration::from_secs(10);
/// Levels of a body that are read: more than the original's own parser takes from a client.
const MAX_DEPTH: usize = 200;

/// A MongoDB of the original.
pub(super) struct OnMongodb {
    queues: Collection<Document>,
    subscriptions: Collection<Document>,
    /// By partition.
    messages: Vec<Collection<Document>>,
    last_queue: String,
    /// The list of messages that is being read: of the queue in each partition.
    reading: Option<Reading>,
    reading_subscriptions: Option<Cursor<Document>>,
}

struct Reading {
    cursor: Cursor<Document>,
    /// The partitions behind it.
    next: usize,
}

impl OnMongodb {
    pub(super) async fn open(uri: &Secret<String>, database: &str) -> Result<Self, StartError> {
        let mut options = ClientOptions::parse(uri.expose()).await?;
        options.server_selection_timeout.get_or_insert(SELECTION);
        options.app_name.get_or_insert_with(|| "zaqar-manage".to_owned());
        let client = Client::with_options(options)?;
        let mut names = client.list_database_names().await?;
        names.retain(|name| is_partition(database, name));
        names.sort();
        let messages = names.iter().map(|name| client.database(name).collection("messages"));
        Ok(Self {
            queues: client.database(&format!("{database}_queues")).collection("queues"),
            subscriptions: client
                .database(&format!("{database}_subscriptions"))
                .collection("subscriptions"),
            messages: messages.collect(),
            last_queue: String::new(),
            reading: None,
            reading_subscriptions: None,
        })
    }

    /// Begins to read the messages of a queue in the partition `next`.
    async fn read_messages(
        &mut self,
        names: OldQueue<'_>,
        next: usize,
    ) -> Result<Option<Reading>, StartError> {
        let Some(collection) = self.messages.get(next) else { return Ok(None) };
        // Others are of a post that was not completed.
        let of_queue = doc! { "p_q": scoped(names), "tx": Bson::Null };
        let wanted = doc! { "_id": 0, "k": 1, "b": 1, "u": 1, "e": 1, "d": 1 };
        let cursor =
            collection.find(of_queue).sort(doc! { "k": 1 }).projection(wanted).batch_size(100);
        Ok(Some(Reading { cursor: cursor.await?, next: next + 1 }))
    }
}

#[async_trait]
impl Original for OnMongodb {
    async fn projects(&mut self) -> Result<Vec<String>, StartError> {
        let mut projects: Vec<String> = Vec::new();
        let mut after = String::new();
        // One query for each project: it skips the project's other queues.
        loop {
            let first = doc! { "p_q": { "$gte": &after } };
            let found = self.queues.find_one(first).sort(doc! { "p_q": 1 }).await?;
            let Some(name) = found.as_ref().and_then(|found| found.get_str("p_q").ok()) else {
                return Ok(projects);
            };
            let project = name.split('/').next().unwrap_or_default().to_owned();
            // The character after the slash.
            after = format!("{project}0");
            projects.push(project);
        }
    }

    async fn queues(&mut self, project: &str, from: usize) -> Result<Vec<String>, StartError> {
        if from == 0 {
            self.last_queue = format!("{project}/");
        }
        let range = doc! { "p_q": { "$gt": &self.last_queue, "$lt": format!("{project}0") } };
        let page = self.queues.find(range).sort(doc! { "p_q": 1 }).projection(doc! { "p_q": 1 });
        let mut page = page.limit(i64::try_from(PAGE)?).await?;
        let mut names = Vec::new();
        while page.advance().await? {
            let found = page.deserialize_current()?;
            let Ok(scoped) = found.get_str("p_q") else { continue };
            scoped.clone_into(&mut self.last_queue);
            names.extend(scoped.split_once('/').map(|(_, name)| name.to_owned()));
        }
        Ok(names)
    }

    async fn metadata(&mut self, names: OldQueue<'_>) -> Result<Option<String>, StartError> {
        let found = self.queues.find_one(doc! { "p_q": scoped(names) }).await?;
        let metadata = found.and_then(|mut found| found.remove("m"));
        Ok(metadata.map_or(Some("{}".to_owned()), json))
    }

    async fn messages(
        &mut self,
        names: OldQueue<'_>,
        from: usize,
    ) -> Result<Vec<Place<OldMessage>>, StartError> {
        if from == 0 {
            self.reading = self.read_messages(names, 0).await?;
        }
        let mut page = Vec::new();
        while let Some(reading) = &mut self.reading {
            if reading.cursor.advance().await? {
                page.push(Some(message(reading.cursor.deserialize_current()?)));
                if page.len() == PAGE {
                    break;
                }
            } else {
                let next = reading.next;
                self.reading = self.read_messages(names, next).await?;
            }
        }
        Ok(page)
    }

    async fn subscriptions(
        &mut self,
        names: OldQueue<'_>,
        from: usize,
    ) -> Result<Vec<Place<OldSubscription>>, StartError> {
        if from == 0 {
            let of_queue = doc! { "s": names.queue, "p": names.project };
            let all = self.subscriptions.find(of_queue).sort(doc! { "_id": 1 });
            self.reading_subscriptions = Some(all.await?);
        }
        let mut page = Vec::new();
        while let Some(cursor) = &mut self.reading_subscriptions
            && page.len() < PAGE
        {
            if cursor.advance().await? {
                page.push(Some(subscription(cursor.deserialize_current()?)));
            } else {
                self.reading_subscriptions = None;
            }
        }
        Ok(page)
    }
}

/// Whether a database has messages of an original with this option `database`.
fn is_partition(database: &str, name: &str) -> bool {
    let number = name.strip_prefix(database).and_then(|rest| {
        rest.strip_prefix("_messages_p").or_else(|| rest.strip_prefix("_messages_fifo_p"))
    });
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn scoped(names: OldQueue<'_>) -> String {
    format!("{}/{}", names.project, names.queue)
}

fn message(mut found: Document) -> Result<OldMessage, &'static str> {
    let body = found.remove("b").ok_or("a message without a body")?;
    Ok(OldMessage {
        body: json(body).ok_or("a body that has no form in JSON")?,
        client: found.get("u").map(client).unwrap_or_default(),
        expires: expiry(&found).ok_or("a message without an expiry")?,
        shown: found.get("d").and_then(seconds).unwrap_or_default(),
    })
}

fn subscription(mut found: Document) -> Result<OldSubscription, &'static str> {
    let options = found.remove("o").unwrap_or_else(|| Document::new().into());
    let subscriber = found.get_str("u").map_err(|_| "a subscription without a subscriber")?;
    Ok(OldSubscription {
        subscriber: subscriber.to_owned(),
        options: json(options).ok_or("options that have no form in JSON")?,
        expires: expiry(&found).ok_or("a subscription without an expiry")?,
        // Records of before confirmations have none.
        confirmed: found.get("c").and_then(Bson::as_bool).unwrap_or(true),
    })
}

fn expiry(found: &Document) -> Option<u64> {
    u64::try_from(found.get_datetime("e").ok()?.timestamp_millis() / 1000).ok()
}

/// Python writes some of them as integers and some with a fraction.
fn seconds(value: &Bson) -> Option<u64> {
    if let Some(seconds) = value.as_i64().or_else(|| value.as_i32().map(i64::from)) {
        return u64::try_from(seconds).ok();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds")]
    value.as_f64().map(|seconds| seconds as u64)
}

/// The id of a client: a text, or the bytes of a UUID.
fn client(value: &Bson) -> String {
    let Bson::Binary(binary) = value else {
        return value.as_str().unwrap_or_default().to_owned();
    };
    let mut text: String = binary.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    for place in [20, 16, 12, 8] {
        if text.len() > place {
            text.insert(place, '-');
        }
    }
    text
}

/// What was JSON before; `None` for anything else.
fn json(value: Bson) -> Option<String> {
    plain(value, 0).map(|value| value.to_string())
}

fn plain(value: Bson, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match value {
        Bson::Null => Value::Null,
        Bson::Boolean(is_true) => is_true.into(),
        Bson::Int32(number) => number.into(),
        Bson::Int64(number) => number.into(),
        Bson::Double(number) => Value::Number(Number::from_f64(number)?),
        Bson::String(text) => text.into(),
        Bson::Array(all) => {
            Value::Array(all.into_iter().map(|one| plain(one, depth + 1)).collect::<Option<_>>()?)
        }
        Bson::Document(all) => {
            let all = all.into_iter().map(|(name, one)| Some((name, plain(one, depth + 1)?)));
            Value::Object(all.collect::<Option<Map<_, _>>>()?)
        }
        Bson::RegularExpression(_)
        | Bson::JavaScriptCode(_)
        | Bson::JavaScriptCodeWithScope(_)
        | Bson::Timestamp(_)
        | Bson::Binary(_)
        | Bson::ObjectId(_)
        | Bson::DateTime(_)
        | Bson::Symbol(_)
        | Bson::Decimal128(_)
        | Bson::Undefined
        | Bson::MaxKey
        | Bson::MinKey
        | Bson::DbPointer(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use mongodb::bson::spec::BinarySubtype;
    use mongodb::bson::{Binary, DateTime};

    use super::*;

    #[test]
    fn a_message_is_read_as_the_original_wrote_it() {
        let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: (0..16).collect() };
        let found = doc! {
            "k": 7_i64, "b": { "a": [1, 1.5, null, true, "ü"] }, "u": uuid,
            "e": DateTime::from_millis(170_500), "d": 60.5, "t": 60,
        };
        let read = OldMessage {
            body: r#"{"a":[1,1.5,null,true,"ü"]}"#.to_owned(),
            client: "00010203-0405-0607-0809-0a0b0c0d0e0f".to_owned(),
            expires: 170,
            shown: 60,
        };
        assert_eq!(message(found), Ok(read));
        let odd = doc! { "b": DateTime::from_millis(1), "e": DateTime::from_millis(1) };
        assert_eq!(message(odd), Err("a body that has no form in JSON"));
        assert_eq!(message(doc! { "b": 1 }), Err("a message without an expiry"));
    }

    #[test]
    fn partitions_are_distinguished_from_other_databases() {
        for name in ["zaqar_messages_p0", "zaqar_messages_p12", "zaqar_messages_fifo_p1"] {
            assert!(is_partition("zaqar", name), "{name}");
        }
        for name in ["zaqar_server", "zaqar_messages_p", "zaqar_messages_px", "z_messages_p0"] {
            assert!(!is_partition("zaqar", name), "{name}");
        }
    }
}
