//! The bodies of messages: who posted which one when, and the payload.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zaqar_client::NewMessage;

/// The largest message file.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// Which message of which producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Label {
    /// This run: other messages of the queue count for nothing.
    pub(crate) run: u64,
    /// The producer.
    pub(crate) producer: u32,
    /// Its messages are numbered from 0.
    pub(crate) number: u64,
    /// Microseconds from the start of the run to when the message was due.
    pub(crate) due_us: u64,
}

#[derive(Serialize)]
struct Written<'a> {
    bench: Label,
    payload: &'a RawValue,
}

/// What is read of a body; the payload is passed over.
#[derive(Deserialize)]
struct Read {
    bench: Label,
}

/// What messages carry.
#[derive(Debug)]
pub(crate) struct Payloads(Vec<Box<RawValue>>);

impl Payloads {
    /// A text of about this many bytes.
    pub(crate) fn of_size(bytes: usize) -> Self {
        let text = "Zaqar keeps messages until somebody takes them. ";
        let text: String = text.chars().cycle().take(bytes.saturating_sub(2)).collect();
        Self(serde_json::value::to_raw_value(&text).into_iter().collect())
    }

    /// A line of a file each, as JSON where it is that, and as text otherwise; in turn.
    pub(crate) fn from_file(path: &Path) -> Result<Self, String> {
        let wrong = |reason: String| format!("{}: {reason}", path.display());
        let found = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
        if found.len() > MAX_FILE {
            return Err(wrong(format!("it has more than {MAX_FILE} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let payloads: Vec<_> = lines
            .flat_map(|line| {
                let json = RawValue::from_string(line.to_owned());
                json.or_else(|_| serde_json::value::to_raw_value(line))
            })
            .collect();
        if payloads.is_empty() {
            Err(wrong("no line is in it".to_owned()))
        } else {
            Ok(Self(payloads))
        }
    }

    /// The message with this label.
    pub(crate) fn message(&self, label: Label) -> Result<NewMessage, serde_json::Error> {
        let at = usize::try_from(label.number).unwrap_or(0) % self.0.len();
        NewMessage::new(Written { bench: label, payload: &self.0[at] })
    }
}

/// The label of a body, if this run posted it.
pub(crate) fn label(body: &zaqar_client::Body, run: u64) -> Option<Label> {
    let read: Read = body.parse().ok()?;
    Some(read.bench).filter(|label| label.run == run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_back_from_this_run_only() {
        let one = Label { run: 7, producer: 1, number: 4, due_us: 99 };
        let message = Payloads::of_size(100).message(one).unwrap();
        assert_eq!(label(message.body(), 7), Some(one));
        assert_eq!(label(message.body(), 8), None);
        let length = message.body().as_json().len();
        assert!((100..200).contains(&length), "{length} bytes");
        let other = NewMessage::new("x").unwrap();
        assert_eq!(label(other.body(), 7), None);
    }

    #[test]
    fn lines_of_a_file_take_turns() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"a\":1}\n\nplain text\n").unwrap();
        let payloads = Payloads::from_file(file.path()).unwrap();
        let text = |number| {
            let label = Label { run: 1, producer: 0, number, due_us: 0 };
            payloads.message(label).unwrap().body().as_json().to_owned()
        };
        assert!(text(0).ends_with(r#""payload":{"a":1}}"#));
        assert!(text(1).ends_with(r#""payload":"plain text"}"#));
        assert!(text(2).ends_with(r#""payload":{"a":1}}"#));
        std::fs::write(file.path(), "\n").unwrap();
        assert!(Payloads::from_file(file.path()).is_err());
    }
}
