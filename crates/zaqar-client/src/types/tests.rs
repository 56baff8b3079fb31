//! The types against `docs/api/openapi.yaml`: every answer that the document allows can be read and
//! written again without loss, and it allows every request.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::*;
use crate::auth::SignedUrl;

struct Document(Value);

/// Which members of an object an instance has.
#[derive(Clone, Copy, PartialEq)]
enum Fill {
    Required,
    All,
}

impl Document {
    fn load() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api/openapi.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        Self(serde_saphyr::from_str(&text).unwrap())
    }

    fn schema(&self, name: &str) -> &Value {
        let schema = &self.0["components"]["schemas"][name];
        assert!(schema.is_object(), "the document has no schema {name}");
        schema
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.0.pointer(&reference[1..]).unwrap(),
            None => schema,
        }
    }

    /// A value that the schema allows.
    fn instance(&self, schema: &Value, fill: Fill) -> Value {
        let schema = self.resolved(schema);
        if let Some(first) = schema.get("const") {
            return first.clone();
        }
        if let Some(one) = schema["enum"].get(0).or_else(|| schema["examples"].get(0)) {
            return one.clone();
        }
        if let Some(first) = schema["anyOf"].get(0) {
            return self.instance(first, fill);
        }
        let types = &schema["type"];
        match types.as_str().or_else(|| types[0].as_str()) {
            Some("object") => Value::Object(self.object(schema, fill)),
            Some("array") => {
                let count = usize::from(fill == Fill::All || schema.get("minItems").is_some());
                let item = || self.instance(&schema["items"], fill);
                std::iter::repeat_with(item).take(count).collect()
            }
            Some("string") => self.text(schema).into(),
            Some("integer") => schema["minimum"].as_u64().unwrap_or(7).into(),
            Some("number") => json!(0.5),
            Some("boolean") => true.into(),
            other => panic!("a schema of type {other:?}: {schema}"),
        }
    }

    fn text(&self, schema: &Value) -> &'static str {
        match schema["pattern"].as_str() {
            Some(pattern) if pattern.contains("claim_id") => {
                "/v2/queues/q/messages/2ab5f31c90d6e1070000000000000001"
            }
            Some(pattern) if pattern.contains(r"\d{4}") => "2026-11-29T12:00:00",
            Some(pattern) if pattern.starts_with("^/v2/pools") => "/v2/pools/p",
            Some(pattern) if pattern.contains("/v2/") => "/v2/queues/q",
            Some(pattern) if pattern.contains("{32}") => "2ab5f31c90d6e1070000000000000001",
            _ => "text",
        }
    }

    fn object(&self, schema: &Value, fill: Fill) -> Map<String, Value> {
        let mut object = Map::new();
        let required: Vec<_> = schema["required"].as_array().into_iter().flatten().collect();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if fill == Fill::All || required.iter().any(|known| *known == name) {
                object.insert(name.clone(), self.instance(property, fill));
            }
        }
        if let Some(more) = schema["additionalProperties"].as_object()
            && fill == Fill::All
        {
            object.insert("name".to_owned(), self.instance(&json!(more), fill));
        }
        object
    }

    /// Whether all of `written` is allowed by the schema, and nothing that it requires is missing.
    fn allows(&self, schema: &Value, written: &Value) {
        let schema = self.resolved(schema);
        if let Value::Object(written) = written {
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(written.contains_key(name.as_str().unwrap()), "{name} is missing");
            }
            for (name, value) in written {
                match schema["properties"].get(name) {
                    Some(property) => self.allows(property, value),
                    None => assert_eq!(schema.get("additionalProperties"), None, "{name}"),
                }
            }
        }
        if let Value::Array(written) = written {
            written.iter().for_each(|value| self.allows(&schema["items"], value));
        }
        if let Some(allowed) = schema["enum"].as_array() {
            assert!(allowed.contains(written), "{written}");
        }
    }
}

/// Reads answers of this schema as a `T`, and checks that one with all members is written
/// unchanged.
fn answers<T: DeserializeOwned + Serialize>(document: &Document, name: &str) {
    for fill in [Fill::Required, Fill::All] {
        let answer = document.instance(document.schema(name), fill);
        let read: T = serde_json::from_str(&answer.to_string())
            .unwrap_or_else(|error| panic!("{name}: {error}\n{answer}"));
        let written = serde_json::to_value(&read).unwrap();
        if fill == Fill::All {
            // Topics have another name for some members of the same type.
            let answer = answer.to_string().replacen("{\"topics\"", "{\"queues\"", 1);
            assert_eq!(written, serde_json::from_str::<Value>(&answer).unwrap(), "{name}");
        }
    }
}

#[test]
fn every_answer_is_read_without_loss() {
    let document = &Document::load();
    answers::<QueuePage>(document, "QueueList");
    answers::<QueuePage>(document, "TopicList");
    answers::<StatsDocument>(document, "Stats");
    answers::<Posted>(document, "Posted");
    answers::<Message>(document, "Message");
    answers::<MessageList>(document, "MessageList");
    answers::<ClaimInfo>(document, "Claim");
    answers::<Subscribed>(document, "Subscribed");
    answers::<Subscription>(document, "Subscription");
    answers::<SubscriptionList>(document, "SubscriptionList");
    answers::<DeliveryList>(document, "DeliveryList");
    answers::<Delivery>(document, "Delivery");
    answers::<SubscriberHealth>(document, "SubscriberHealth");
    answers::<SignedUrl>(document, "Shared");
    answers::<Pool>(document, "Pool");
    answers::<PoolList>(document, "PoolList");
    answers::<PoolDrain>(document, "PoolDrain");
    answers::<Flavor>(document, "Flavor");
    answers::<FlavorList>(document, "FlavorList");
    answers::<Quotas>(document, "Quotas");
    answers::<QuotaList>(document, "QuotaList");
    answers::<Recovery>(document, "Recovery");
    answers::<Health>(document, "StoreHealth");
    answers::<Health>(document, "PoolsHealth");
}

#[test]
fn a_popped_message_has_the_members_of_the_document() {
    let document = Document::load();
    let answer = document.instance(document.schema("PoppedList"), Fill::Required).to_string();
    let rows =
        r#"{"messages":[{"id":"a","ttl":60,"age":0,"body":1,"claim_count":2,"claim_id":null}]}"#;
    for text in [&*answer, rows] {
        serde_json::from_str::<PoppedList>(text).unwrap();
    }
    let popped: PoppedList = serde_json::from_str(rows).unwrap();
    assert_eq!(popped.messages[0].claim_count, 2);
}

/// The document allows every member of a request.
fn requests(document: &Document, name: &str, request: impl Serialize) {
    let written = serde_json::to_value(&request).unwrap();
    document.allows(document.schema(name), &written);
}

#[test]
fn every_request_is_allowed_by_the_document() {
    let document = &Document::load();
    let message = NewMessage::new("x").unwrap();
    let messages = vec![message.clone(), message.ttl(60).delay(0)];
    requests(document, "PostRequest", Post { messages });
    requests(document, "ClaimRequest", ClaimTimes { ttl: 60, grace: 60 });
    let subscription = NewSubscription::new("https://example.org/").ttl(60).option("signing", true);
    requests(document, "SubscriptionRequest", subscription);
    let change = SubscriptionChange {
        subscriber: Some("mailto:a@example.org".to_owned()),
        ttl: Some(60),
        options: Some(Object::new()),
    };
    requests(document, "SubscriptionChange", change);
    let share = Share {
        paths: vec![SharedPath::Messages, SharedPath::Claims, SharedPath::Subscriptions],
        methods: vec!["GET".to_owned()],
        expires: Some("2099-01-01T00:00:00".to_owned()),
    };
    requests(document, "ShareRequest", share);
    requests(document, "ShareRequest", Share::default());
    let pool = PoolChange {
        uri: Some("redis://h".to_owned()),
        weight: Some(1),
        flavor: Some("f".to_owned()),
        options: Some(Object::new()),
    };
    requests(document, "NewPool", pool);
    let quotas = QuotaChange {
        max_queues: Some(1),
        max_subscriptions: Some(2),
        max_messages_per_queue: Some(3),
        max_bytes_per_queue: Some(4),
        max_messages: Some(5),
        max_bytes: Some(6),
        max_requests_per_second: Some(7),
        max_bytes_per_second: Some(0),
    };
    requests(document, "QuotaChange", quotas);
    let range = RecoveryRange {
        since: Some("2026-11-29T00:00:00Z".to_owned()),
        until: Some("2026-11-30T00:00:00Z".to_owned()),
    };
    requests(document, "RecoveryRequest", range);
    let queue = QueueToMove {
        queue_name: "jobs".to_owned(),
        kind: Some("queue".to_owned()),
        project: Some("p".to_owned()),
    };
    requests(document, "QueueToMove", queue);
    let changes =
        [MetadataChange::Set("a/b~c".to_owned(), json!(1)), MetadataChange::Remove("d".to_owned())];
    let patch: Vec<_> = changes.iter().map(MetadataChange::document).collect();
    assert_eq!(patch[0]["path"], "/metadata/a~1b~0c");
    requests(document, "MetadataPatch", patch);
}

#[test]
fn the_examples_of_the_document_are_read() {
    let document = Document::load();
    let example = |pointer: &str| {
        let found = document.0.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"));
        found["content"]["application/json"]["example"].to_string()
    };
    let list: QueuePage =
        serde_json::from_str(&example("/paths/~1v2~1queues/get/responses/200")).unwrap();
    assert_eq!(next(&list.links), Some("/v2/queues?marker=fizzbit"));
    let pointer = "/paths/~1v2~1queues~1{queue_name}~1messages/post/responses/201";
    let posted: Posted = serde_json::from_str(&example(pointer)).unwrap();
    assert_eq!(posted.resources.len(), 1);
    let pointer = "/paths/~1v2~1queues~1{queue_name}~1share/post/responses/200";
    let shared: SignedUrl = serde_json::from_str(&example(pointer)).unwrap();
    assert_eq!(shared.project, "my-project");
}

#[test]
fn an_age_below_zero_is_none() {
    let text = r#"{"id":"a","href":"/v2/queues/q/messages/a","ttl":300,"age":-1,"body":1}"#;
    assert_eq!(serde_json::from_str::<Message>(text).unwrap().age, 0);
}

#[test]
fn secrets_are_not_printed() {
    let hidden = "hunter2";
    let url = SignedUrl {
        paths: Vec::new(),
        methods: Vec::new(),
        project: "p".to_owned(),
        expires: "2030-01-01T00:00:00".to_owned(),
        signature: hidden.to_owned(),
    };
    let id = SubscriptionId::new("s");
    let subscribed = Subscribed { subscription_id: id, secret: Some(hidden.to_owned()) };
    let uri = Some(format!("redis://:{hidden}@h"));
    let change = PoolChange { uri, ..PoolChange::default() };
    for printed in [format!("{url:?}"), format!("{subscribed:?}"), format!("{change:?}")] {
        assert!(printed.contains("***") && !printed.contains(hidden), "{printed}");
    }
}
