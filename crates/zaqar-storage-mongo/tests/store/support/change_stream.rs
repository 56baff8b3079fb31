//! A scripted change stream, by which a proxy answers for the server: how a server that loses its
//! primary or its oplog answers is MongoDB's documentation's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use mongodb::bson::{Document, doc};

/// The cursor of the scripted stream.
const CURSOR: i64 = 77;

/// The answer to one command of a change stream.
#[derive(Debug, Clone)]
pub(crate) enum Scripted {
    /// No event, with the resume token of this number.
    Nothing(i32),
    /// The post with this position in the topic, with the resume token of the same number.
    Post(&'static str, i32),
    /// An error with this code, and whether the driver may resume after it.
    Error(i32, bool),
    /// The connection breaks.
    Break,
}

/// How a proxy answers a command.
pub(crate) enum Reply {
    Document(Document),
    Break,
    /// The script is at its end.
    NothingYet,
}

/// The script, and the options of the streams that were opened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_on: bool,
    answers: VecDeque<Scripted>,
    opened: Vec<Document>,
}

impl Script {
    /// Answers the commands of change streams by this script from now on.
    pub(crate) fn play(&self, answers: impl IntoIterator<Item = Scripted>) {
        let mut state = self.lock();
        state.is_on = true;
        state.answers.extend(answers);
    }

    /// The resume tokens after which streams were opened; `None` for a new stream.
    pub(crate) fn opened(&self) -> Vec<Option<i32>> {
        let token = |options: &Document| {
            let after = options.get_document("startAfter");
            let after = after.or_else(|_| options.get_document("resumeAfter"));
            after.ok().map(|token| token.get_i32("_data").unwrap())
        };
        self.lock().opened.iter().map(token).collect()
    }

    /// The answer to a command, if it is one of a change stream.
    pub(crate) fn answer(&self, command: &Document) -> Option<Reply> {
        let mut state = self.lock();
        if !state.is_on {
            return None;
        }
        let is_next = command.get_i64("getMore").is_ok_and(|cursor| cursor == CURSOR);
        let stage = command.get_array("pipeline").ok().and_then(|stages| stages.first());
        let options =
            stage.and_then(|stage| stage.as_document()?.get_document("$changeStream").ok());
        match options {
            Some(options) => state.opened.push(options.clone()),
            None if is_next => {}
            None => return None,
        }
        let batch = if is_next { "nextBatch" } else { "firstBatch" };
        let cursor = |events: Vec<Document>, token: i32| {
            let mut cursor = doc! { "id": CURSOR, "ns": "db.queue_heads" };
            cursor.insert(batch, events);
            cursor.insert("postBatchResumeToken", doc! { "_data": token });
            Reply::Document(doc! { "ok": 1.0, "cursor": cursor })
        };
        Some(match state.answers.pop_front() {
            None if is_next => Reply::NothingYet,
            // A stream that nobody expects.
            None => Reply::Document(failed(40573, false)),
            Some(Scripted::Nothing(token)) => cursor(Vec::new(), token),
            Some(Scripted::Post(topic, number)) => cursor(vec![event(topic, number)], number),
            Some(Scripted::Error(code, is_resumable)) => {
                Reply::Document(failed(code, is_resumable))
            }
            Some(Scripted::Break) => Reply::Break,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn event(topic: &str, number: i32) -> Document {
    doc! {
        "_id": { "_data": number },
        "operationType": "update",
        "ns": { "db": "db", "coll": "queue_heads" },
        "documentKey": { "_id": format!("topic/{topic}/p") },
        "updateDescription": {
            "updatedFields": { "news": format!("5:{number}") }, "removedFields": [],
        },
    }
}

fn failed(code: i32, is_resumable: bool) -> Document {
    let labels = if is_resumable { vec!["ResumableChangeStreamError"] } else { vec![] };
    doc! {
        "ok": 0.0, "code": code, "codeName": "Planned", "errmsg": "planned", "errorLabels": labels,
    }
}
