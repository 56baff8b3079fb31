//! Pages as streams.

use futures_core::Stream;
use futures_util::stream::{self, TryStreamExt};
use serde::de::DeserializeOwned;

use crate::Error;
use crate::client::{Call, Client};
use crate::types::{
    self, DeliveryList, FlavorList, Link, MessageList, PoolList, QueuePage, QuotaList,
};
use crate::types::{
    DeliverySummary, Flavor, ManagedQuotas, Message, Pool, QueueEntry, SubscriptionList,
};

/// An answer that has rows and a link to the next page.
pub(crate) trait Page: DeserializeOwned + Send + 'static {
    /// One row.
    type Row: Send + 'static;

    /// The rows, and the links.
    fn into_rows(self) -> (Vec<Self::Row>, Vec<Link>);
}

impl Page for MessageList {
    type Row = Message;

    fn into_rows(self) -> (Vec<Message>, Vec<Link>) {
        (self.messages.into_iter().map(Message::completed).collect(), self.links)
    }
}

impl Page for QueuePage {
    type Row = QueueEntry;

    fn into_rows(self) -> (Vec<QueueEntry>, Vec<Link>) {
        (self.queues, self.links)
    }
}

impl Page for SubscriptionList {
    type Row = types::Subscription;

    fn into_rows(self) -> (Vec<types::Subscription>, Vec<Link>) {
        (self.subscriptions, self.links)
    }
}

impl Page for DeliveryList {
    type Row = DeliverySummary;

    fn into_rows(self) -> (Vec<DeliverySummary>, Vec<Link>) {
        (self.deliveries, self.links)
    }
}

impl Page for PoolList {
    type Row = Pool;

    fn into_rows(self) -> (Vec<Pool>, Vec<Link>) {
        (self.pools, self.links)
    }
}

impl Page for FlavorList {
    type Row = Flavor;

    fn into_rows(self) -> (Vec<Flavor>, Vec<Link>) {
        (self.flavors, self.links)
    }
}

impl Page for QuotaList {
    type Row = ManagedQuotas;

    fn into_rows(self) -> (Vec<ManagedQuotas>, Vec<Link>) {
        (self.quotas, self.links)
    }
}

/// One page, and the path of the next.
pub(crate) async fn page<P: Page>(
    client: &Client,
    path: &str,
) -> Result<(Vec<P::Row>, Option<String>), Error> {
    let answer = client.call(Call::get(path)).await?;
    // Old servers answer an empty page with 204.
    if answer.body.is_empty() {
        return Ok((Vec::new(), None));
    }
    let (rows, links) = answer.json::<P>()?.into_rows();
    Ok((rows, types::next(&links).map(ToOwned::to_owned)))
}

/// The rows of all pages: one page is held at a time. The first empty page, or one without a link,
/// ends it.
pub(crate) fn rows<P: Page>(
    client: Client,
    first: String,
) -> impl Stream<Item = Result<P::Row, Error>> + Send + Unpin {
    let pages = stream::try_unfold((client, Some(first)), |(client, path)| async move {
        let Some(path) = path else { return Ok(None) };
        let (rows, next) = page::<P>(&client, &path).await?;
        if rows.is_empty() && next.is_none() {
            return Ok::<_, Error>(None);
        }
        // A filtered page may be empty and still not the last; one that leads to itself is.
        let next = next.filter(|next| *next != path);
        Ok(Some((stream::iter(rows.into_iter().map(Ok)), (client, next))))
    });
    Box::pin(pages.try_flatten())
}
