//! What an original keeps, read and not changed.

#[cfg(feature = "mongodb")]
mod mongodb;
mod redis;

use async_trait::async_trait;
use zaqar_core::Secret;
use zaqar_core::pools::masked;

use crate::error::{StartError, with_causes};

/// A queue of the original.
#[derive(Debug, Clone, Copy)]
pub(super) struct OldQueue<'a> {
    pub(super) project: &'a str,
    pub(super) queue: &'a str,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OldMessage {
    /// JSON.
    pub(super) body: String,
    pub(super) client: String,
    /// When it expires, in seconds since 1970.
    pub(super) expires: u64,
    /// When it is shown.
    pub(super) shown: u64,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OldSubscription {
    pub(super) subscriber: String,
    pub(super) options: String,
    pub(super) expires: u64,
    pub(super) confirmed: bool,
}

/// What a place in a queue holds; `None` where it has expired.
pub(super) type Place<T> = Option<Result<T, &'static str>>;

/// The store of an original. Pages are read in order: `from` is 0 or the number of entries of the
/// pages before, and a page without entries ends the list.
#[async_trait]
pub(super) trait Original: Send {
    /// The projects that have queues, sorted.
    async fn projects(&mut self) -> Result<Vec<String>, StartError>;

    /// The names of a project's queues.
    async fn queues(&mut self, project: &str, from: usize) -> Result<Vec<String>, StartError>;

    /// The metadata of a queue as JSON; `None` where it has no form in JSON.
    async fn metadata(&mut self, names: OldQueue<'_>) -> Result<Option<String>, StartError>;

    /// The messages of a queue, in order.
    async fn messages(
        &mut self,
        names: OldQueue<'_>,
        from: usize,
    ) -> Result<Vec<Place<OldMessage>>, StartError>;

    /// The subscriptions of a queue.
    async fn subscriptions(
        &mut self,
        names: OldQueue<'_>,
        from: usize,
    ) -> Result<Vec<Place<OldSubscription>>, StartError>;
}

/// Opens the store of an original. `database` is the original's option of that name, for MongoDB.
///
/// # Errors
/// A URI that is no such store's, a store that cannot be reached.
pub(super) async fn open(
    uri: &Secret<String>,
    database: &str,
) -> Result<Box<dyn Original>, StartError> {
    let opened = open_by_scheme(uri, database).await;
    // The drivers' errors do not say where. They may repeat the URI.
    let named = |error: StartError| {
        let (uri, shown) = (uri.expose(), masked(uri.expose()));
        let text = with_causes(&*error);
        let text = if uri.is_empty() { text } else { text.replace(uri, &shown) };
        format!("{shown}: {text}").into()
    };
    opened.map_err(named)
}

async fn open_by_scheme(
    uri: &Secret<String>,
    database: &str,
) -> Result<Box<dyn Original>, StartError> {
    let scheme = uri.expose().split("://").next().unwrap_or_default();
    match scheme {
        "redis" | "rediss" => Ok(Box::new(redis::OnRedis::open(uri).await?)),
        #[cfg(feature = "mongodb")]
        "mongodb" | "mongodb+srv" => Ok(Box::new(mongodb::OnMongodb::open(uri, database).await?)),
        _ => {
            let _unused = database;
            Err("--from: a URI that begins with redis://, rediss://, mongodb:// or mongodb+srv://"
                .into())
        }
    }
}
