//! The last warnings and errors in the log, for reports.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Events that are kept.
const MAX_EVENTS: usize = 50;
/// Bytes that are kept of one event.
const MAX_EVENT_BYTES: usize = 512;

/// Keeps the last 50 warnings and errors, at most 512 bytes of each. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentErrors {
    events: Arc<Mutex<VecDeque<String>>>,
    counts: Arc<Counts>,
}

/// Counts since the start.
#[derive(Debug, Default)]
struct Counts {
    warnings: AtomicU64,
    errors: AtomicU64,
}

impl RecentErrors {
    /// One line for each, the oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().cloned().collect()
    }

    /// Counts what this thread logs until the guard is dropped.
    #[cfg(test)]
    pub(crate) fn keep() -> (Self, tracing::subscriber::DefaultGuard) {
        use tracing_subscriber::layer::SubscriberExt;
        let recent = Self::default();
        let logs = tracing_subscriber::registry().with(recent.clone());
        (recent, tracing::subscriber::set_default(logs))
    }

    /// The numbers of warnings and of errors since the start.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let Counts { warnings, errors } = &*self.counts;
        (warnings.load(Ordering::Relaxed), errors.load(Ordering::Relaxed))
    }

    fn push(&self, mut event: String) {
        if event.len() > MAX_EVENT_BYTES {
            let end = (0..=MAX_EVENT_BYTES).rev().find(|at| event.is_char_boundary(*at));
            event.truncate(end.unwrap_or(0));
            event.push('…');
        }
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(event.replace('\n', " "));
    }
}

impl<S: Subscriber> Layer<S> for RecentErrors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return;
        }
        let is_error = *metadata.level() == Level::ERROR;
        let count = if is_error { &self.counts.errors } else { &self.counts.warnings };
        count.fetch_add(1, Ordering::Relaxed);
        let mut text = Text(String::new());
        event.record(&mut text);
        let now = OffsetDateTime::now_utc().replace_nanosecond(0);
        let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (date, (hour, minute, second)) = (now.date(), now.to_hms());
        let (level, target) = (metadata.level(), metadata.target());
        self.push(format!("{date}T{hour:02}:{minute:02}:{second:02}Z {level} {target}:{}", text.0));
    }
}

/// Fields as text, the message first.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0.insert_str(0, &format!(" {value:?}"));
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::RecentErrors;

    #[test]
    fn the_last_warnings_are_kept_and_bounded() {
        let recent = RecentErrors::default();
        let subscriber = tracing_subscriber::registry().with(recent.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not kept");
            for number in 0..60 {
                tracing::warn!(number, "odd {}", "x".repeat(1000));
            }
            tracing::error!(queue = "q\nr", "the last");
        });
        assert_eq!(recent.counts(), (60, 1));
        let lines = recent.lines();
        assert_eq!(lines.len(), 50, "{lines:?}");
        assert!(lines.last().unwrap().contains("the last queue=\"q"), "{lines:?}");
        let text = lines.join("\n");
        assert_eq!(text.lines().count(), 50, "{text}");
        assert!(!text.contains("not kept") && text.len() < 50 * 600, "{text}");
    }
}
