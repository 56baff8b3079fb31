//! `zaqar-manage import --from`: takes the queues, messages and subscriptions of an original.
//!
//! What is imported passes the API's operations, so that it is checked as what clients send, but no
//! quota, policy or pipeline: nobody is told of messages that are imported.

mod original;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use zaqar_api::{
    ConfirmSubscription, Context, CreateQueue, CreateSubscription, GetQueueStats, PostMessages,
    PostedMessage, QueueRef, Subscriber, SubscriptionRef,
};
use zaqar_core::limits::MIN_TTL;
use zaqar_core::{
    ClientId, Clock, Kind, Limits, Metadata, ProjectId, QueueName, Secret, SystemClock,
};

use crate::error::StartError;
use crate::left_out::{LeftOut, counted};
use crate::offline::{Offline, Setup};

use original::{OldMessage, OldQueue, Original};

/// Messages between two lines of progress.
const PROGRESS: u64 = 10_000;

/// What to do.
pub(crate) struct Import {
    /// The original's Redis or MongoDB.
    pub(crate) from: Secret<String>,
    /// The original's option `database`, for MongoDB.
    pub(crate) database: String,
    /// Only counts.
    pub(crate) is_dry: bool,
}

/// What was imported.
#[derive(Debug, Default)]
struct Totals {
    projects: u64,
    queues: u64,
    messages: u64,
    subscriptions: u64,
    left_out: LeftOut,
}

/// Imports; what there is to say.
///
/// # Errors
/// A source that cannot be read, a target that cannot be opened or written.
pub(crate) async fn run(import: &Import, setup: Setup<'_>) -> Result<String, StartError> {
    let settings = setup.settings;
    if settings.pooling {
        return Err("with [DEFAULT] pooling nothing can be imported: import into one store, and \
                    make it the virtual pool"
            .into());
    }
    let mut source = original::open(&import.from, &import.database).await?;
    let target = match import.is_dry {
        true => None,
        false => Some(Offline::open(setup).await?),
    };
    let mut work = Work {
        target: target.as_ref(),
        limits: &settings.limits,
        clock: Arc::new(SystemClock),
        totals: Totals::default(),
    };
    for project in source.projects().await? {
        work.project(source.as_mut(), &project).await?;
    }
    let text = work.totals.text(import.is_dry);
    if let Some(target) = target {
        target.close().await?;
    }
    Ok(text)
}

struct Work<'a> {
    /// `None` only counts.
    target: Option<&'a Offline>,
    limits: &'a Limits,
    clock: Arc<dyn Clock>,
    totals: Totals,
}

/// One queue, on both sides.
struct Names<'a> {
    project: &'a str,
    queue: &'a str,
    id: ProjectId,
    name: QueueName,
}

impl<'a> Names<'a> {
    const fn old(&self) -> OldQueue<'a> {
        OldQueue { project: self.project, queue: self.queue }
    }

    fn context(&self, client: &str) -> Context {
        Context::new(self.id.clone(), ClientId::new(client))
    }

    fn reference(&self) -> QueueRef {
        QueueRef { kind: Kind::Queue, name: self.name.clone() }
    }
}

impl Work<'_> {
    fn left_out(&mut self, thing: &str, reason: impl ToString) {
        self.totals.left_out.add(thing.to_owned(), reason.to_string());
    }

    async fn project(
        &mut self,
        source: &mut dyn Original,
        project: &str,
    ) -> Result<(), StartError> {
        let Ok(id) = ProjectId::new(project) else {
            self.totals
                .left_out
                .add(format!("project {project}"), "not an id of a project".to_owned());
            return Ok(());
        };
        self.totals.projects += 1;
        let mut from = 0;
        loop {
            let queues = source.queues(project, from).await?;
            if queues.is_empty() {
                return Ok(());
            }
            from += queues.len();
            for queue in queues {
                match QueueName::new(&queue) {
                    Ok(name) => {
                        let names = Names { project, queue: &queue, id: id.clone(), name };
                        self.queue(source, &names).await?;
                    }
                    Err(error) => self.left_out(&format!("queue {project}/{queue}"), error),
                }
            }
        }
    }

    async fn queue(
        &mut self,
        source: &mut dyn Original,
        names: &Names<'_>,
    ) -> Result<(), StartError> {
        let thing = format!("queue {}/{}", names.project, names.queue);
        let metadata = source.metadata(names.old()).await?;
        let metadata = metadata.and_then(|json| Metadata::from_json(json.as_bytes()).ok());
        let Some(metadata) = metadata else {
            self.left_out(&thing, "metadata that is no object");
            return Ok(());
        };
        if metadata.rules().encrypt {
            let reason = "it is encrypted (_enable_encrypt_messages), and its bodies cannot be \
                          read here";
            self.left_out(&thing, reason);
            return Ok(());
        }
        if let Some(target) = self.target {
            let (context, queue_ref) = (names.context(""), names.reference());
            let stats =
                target.api.call(&context, GetQueueStats { queue: names.reference() }).await?;
            if stats.is_some_and(|stats| stats.ends.is_some()) {
                // Messages would be there twice.
                self.left_out(&thing, "it has messages here already");
                return Ok(());
            }
            let create = CreateQueue { queue: queue_ref, metadata };
            if let Err(error) = target.api.call(&context, create).await {
                self.left_out(&thing, error);
                return Ok(());
            }
        }
        self.totals.queues += 1;
        self.messages(source, names).await?;
        self.subscriptions(source, names).await
    }

    async fn messages(
        &mut self,
        source: &mut dyn Original,
        names: &Names<'_>,
    ) -> Result<(), StartError> {
        let mut from = 0;
        loop {
            let page = source.messages(names.old(), from).await?;
            if page.is_empty() {
                return Ok(());
            }
            from += page.len();
            let now = self.clock.now().as_secs();
            let mut live = Vec::new();
            for place in page.into_iter().flatten() {
                match place {
                    Ok(message) if message.expires > now => live.push(message),
                    Ok(_) => {}
                    Err(reason) => {
                        let thing = format!("a message of {}/{}", names.project, names.queue);
                        self.left_out(&thing, reason);
                    }
                }
            }
            // A post has one client.
            for run in live.chunk_by(|one, other| one.client == other.client) {
                self.post(names, run, now).await?;
            }
        }
    }

    async fn post(
        &mut self,
        names: &Names<'_>,
        run: &[OldMessage],
        now: u64,
    ) -> Result<(), StartError> {
        let before = self.totals.messages;
        self.totals.messages += run.len() as u64;
        if before / PROGRESS != self.totals.messages / PROGRESS {
            eprintln!("{} messages, in {}/{}", self.totals.messages, names.project, names.queue);
        }
        let (Some(target), Some(first)) = (self.target, run.first()) else { return Ok(()) };
        let messages = run.iter().map(|message| posted(message, now, self.limits)).collect();
        // The size was checked when it was posted, by the limits of the original.
        let post = PostMessages { queue: names.reference(), size: 0, messages, notify: false };
        target.api.call(&names.context(&first.client), post).await?;
        Ok(())
    }

    async fn subscriptions(
        &mut self,
        source: &mut dyn Original,
        names: &Names<'_>,
    ) -> Result<(), StartError> {
        let mut from = 0;
        loop {
            let page = source.subscriptions(names.old(), from).await?;
            if page.is_empty() {
                return Ok(());
            }
            from += page.len();
            for place in page.into_iter().flatten() {
                let taken = match place {
                    Ok(old) => self.subscribe(names, &old).await,
                    Err(reason) => Err(reason.to_owned()),
                };
                match taken {
                    Ok(is_new) => self.totals.subscriptions += u64::from(is_new),
                    Err(reason) => {
                        let thing = format!("a subscription of {}/{}", names.project, names.queue);
                        self.left_out(&thing, reason);
                    }
                }
            }
        }
    }

    /// Whether it lives, and was made.
    async fn subscribe(
        &self,
        names: &Names<'_>,
        old: &original::OldSubscription,
    ) -> Result<bool, String> {
        let left = old.expires.saturating_sub(self.clock.now().as_secs());
        if left == 0 {
            return Ok(false);
        }
        let is_trusted =
            old.subscriber.get(..6).is_some_and(|it| it.eq_ignore_ascii_case("trust+"));
        if is_trusted {
            let text = "its Keystone trust is one with the original's user, and is not taken over";
            return Err(text.to_owned());
        }
        let options: Option<Map<String, Value>> =
            serde_json::from_str(&old.options).map_err(|_| "options that are no object")?;
        let Some(target) = self.target else { return Ok(true) };
        let context = names.context("");
        let create = CreateSubscription {
            queue: names.reference(),
            subscriber: Subscriber::Address(old.subscriber.clone()),
            ttl: Some(i64::try_from(left.max(MIN_TTL)).unwrap_or(i64::MAX)),
            options: options.unwrap_or_default(),
        };
        let made = target.api.call(&context, create).await;
        let made = made.map_err(|error| error.to_string())?;
        if old.confirmed {
            let (queue, id) = (names.reference(), made.id.to_string());
            let subscription = SubscriptionRef { queue, id };
            let confirm = ConfirmSubscription { subscription, confirmed: true };
            target.api.call(&context, confirm).await.map_err(|error| error.to_string())?;
        }
        Ok(true)
    }
}

/// A message with what is left of its life and its delay, within the limits of this server.
fn posted(message: &OldMessage, now: u64, limits: &Limits) -> PostedMessage {
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let ttl = message.expires.saturating_sub(now).clamp(MIN_TTL, limits.max_message_ttl);
    let delay = message.shown.saturating_sub(now).min(limits.max_message_delay);
    PostedMessage {
        body: Bytes::from(message.body.clone()),
        ttl: Some(seconds(ttl)),
        delay: Some(seconds(delay)),
    }
}

impl Totals {
    fn text(&self, is_dry: bool) -> String {
        let done = if is_dry { "would be imported" } else { "imported" };
        let Self { projects, queues, messages, subscriptions, left_out } = self;
        format!(
            "{done}: {} of {}, {}, {}\n{left_out}",
            counted(*queues, "queue"),
            counted(*projects, "project"),
            counted(*messages, "message"),
            counted(*subscriptions, "subscription"),
        )
    }
}
