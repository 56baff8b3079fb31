//! Checks that an index serves each query, from the commands that a store sends and the indexes
//! that it has created.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mongodb::bson::{Bson, Document};
use mongodb::event::EventHandler;
use mongodb::event::command::{CommandEvent, CommandStartedEvent};

/// The indexes of each collection.
pub(crate) type Indexes = BTreeMap<String, Vec<Index>>;

/// An index.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    pub(crate) name: String,
    pub(crate) keys: Document,
    /// The field that a query must bound so that a partial index can be used.
    pub(crate) must: Option<String>,
}

/// The commands that a store has sent.
#[derive(Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<Vec<CommandStartedEvent>>>);

impl Sent {
    pub(crate) fn handler(&self) -> EventHandler<CommandEvent> {
        let sent = self.clone();
        EventHandler::callback(move |event| {
            if let CommandEvent::Started(command) = event {
                sent.0.lock().unwrap_or_else(PoisonError::into_inner).push(command);
            }
        })
    }

    pub(crate) fn take(&self) -> Vec<CommandStartedEvent> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One query of a command.
#[derive(Debug)]
struct Query {
    collection: String,
    filter: Document,
    sort: Document,
    /// The index that the query forces.
    hint: Option<String>,
}

/// Describes the queries that no index serves.
pub(crate) fn uncovered(commands: &[CommandStartedEvent], indexes: &Indexes) -> Vec<String> {
    let mut wrong = Vec::new();
    for command in commands {
        match queries(command) {
            Err(what) => wrong.push(what),
            Ok(queries) => wrong.extend(queries.iter().filter_map(|query| check(query, indexes))),
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong
}

fn queries(command: &CommandStartedEvent) -> Result<Vec<Query>, String> {
    let body = &command.command;
    let name = command.command_name.as_str();
    let collection = body.get_str(name).unwrap_or_default().to_owned();
    let query = |filter: Option<&Document>, sort: Option<&Document>| Query {
        collection: collection.clone(),
        filter: filter.cloned().unwrap_or_default(),
        sort: sort.cloned().unwrap_or_default(),
        hint: body.get_str("hint").ok().map(str::to_owned),
    };
    let each = |statements: &str| -> Vec<Query> {
        let statements = body.get_array(statements).unwrap();
        let filter = |one: &Bson| query(one.as_document().unwrap().get_document("q").ok(), None);
        statements.iter().map(filter).collect()
    };
    Ok(match name {
        "find" => vec![query(body.get_document("filter").ok(), body.get_document("sort").ok())],
        "findAndModify" => {
            vec![query(body.get_document("query").ok(), body.get_document("sort").ok())]
        }
        "update" => each("updates"),
        "delete" => each("deletes"),
        "aggregate" => {
            let first = body.get_array("pipeline").unwrap()[0].as_document().unwrap().clone();
            if first.contains_key("$changeStream") {
                return Ok(Vec::new());
            }
            vec![query(first.get_document("$match").ok(), None)]
        }
        "insert" | "getMore" | "killCursors" | "hello" | "ping" | "createIndexes"
        | "endSessions" | "listDatabases" | "dropDatabase" | "count" => Vec::new(),
        other => return Err(format!("it is unknown whether {other} needs an index")),
    })
}

/// Describes the query if no index bounds it and gives its order.
fn check(query: &Query, indexes: &Indexes) -> Option<String> {
    // The collection has one document.
    if query.collection == "store_format" {
        return None;
    }
    let is_wanted = |index: &&Index| query.hint.as_ref().is_none_or(|hint| *hint == index.name);
    let is_usable = |index: &&Index| {
        index.must.as_ref().is_none_or(|field| bound_of(&query.filter, field) != Bound::Not)
    };
    let own = indexes.get(&query.collection).into_iter().flatten();
    let is_served = own.filter(is_wanted).filter(is_usable).any(|index| serves(&index.keys, query));
    (!is_served).then(|| {
        let fields: Vec<_> = query.filter.iter().map(|(name, value)| bound(name, value)).collect();
        format!("{}: no index for {fields:?} by {}", query.collection, query.sort)
    })
}

fn bound(name: &str, value: &Bson) -> String {
    match value.as_document().and_then(|value| value.keys().next()) {
        Some(operator) if operator.starts_with('$') => format!("{name} {operator}"),
        _ => name.to_owned(),
    }
}

/// How a filter bounds a field.
#[derive(PartialEq)]
enum Bound {
    /// To one or several values.
    Point,
    Range,
    Not,
}

fn bound_of(filter: &Document, field: &str) -> Bound {
    let Some(value) = filter.get(field) else { return Bound::Not };
    let Some(operators) = value.as_document() else { return Bound::Point };
    match operators.keys().next().map(String::as_str) {
        Some("$in") => Bound::Point,
        Some("$gt" | "$gte" | "$lt" | "$lte") => Bound::Range,
        Some(operator) if operator.starts_with('$') => Bound::Not,
        _ => Bound::Point,
    }
}

/// Whether an index bounds a query by its first field and returns the matches in the query's order.
fn serves(keys: &Document, query: &Query) -> bool {
    let points = keys.keys().take_while(|key| bound_of(&query.filter, key) == Bound::Point).count();
    let is_bounded = points > 0
        || keys.keys().next().is_some_and(|key| bound_of(&query.filter, key) == Bound::Range);
    let rest = |skip: usize| keys.keys().skip(skip).zip(query.sort.keys());
    let is_ordered = query.sort.is_empty()
        || (0..=points).any(|skip| {
            rest(skip).count() == query.sort.len() && rest(skip).all(|(key, by)| key == by)
        });
    is_bounded && is_ordered
}

#[test]
fn the_check_finds_queries_without_an_index() {
    use mongodb::bson::doc;
    let index = |name: &str, keys, must: Option<&str>| Index {
        name: name.to_owned(),
        keys,
        must: must.map(str::to_owned),
    };
    let indexes = Indexes::from([(
        "c".to_owned(),
        vec![
            index("_id_", doc! { "_id": 1 }, None),
            index("place", doc! { "h": 1, "n": 1 }, None),
            index("due", doc! { "t": 1 }, Some("t")),
        ],
    )]);
    for (filter, sort, hint, is_served) in [
        (doc! { "_id": 1 }, doc! {}, None, true),
        (doc! { "_id": { "$in": [1] }, "x": 1 }, doc! {}, None, true),
        (doc! { "h": 1, "n": { "$gt": 1 } }, doc! { "n": 1 }, None, true),
        (doc! { "h": 1, "n": { "$gt": 1 } }, doc! { "n": 1 }, Some("place"), true),
        (doc! { "h": { "$in": [1, 2] } }, doc! { "n": -1 }, None, true),
        (doc! { "t": { "$lt": 1 } }, doc! { "t": 1 }, None, true),
        (doc! { "h": 1, "t": { "$lt": 1 } }, doc! {}, Some("_id_"), false),
        (doc! { "h": 1 }, doc! { "x": 1 }, None, false),
        (doc! { "n": 1 }, doc! {}, None, false),
        (doc! { "h": { "$exists": false } }, doc! {}, None, false),
        (doc! { "h": { "$gt": 1 } }, doc! { "n": 1 }, None, false),
        (doc! {}, doc! { "t": 1 }, None, false),
    ] {
        let hint = hint.map(str::to_owned);
        let query = Query { collection: "c".to_owned(), filter: filter.clone(), sort, hint };
        assert_eq!(check(&query, &indexes).is_none(), is_served, "{filter}");
    }
}
