//! The news of all pools as one stream.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use zaqar_core::storage::{Error, NewsStream, Posted};

use crate::member::Member;
use crate::members::{MemberMap, Members};
use crate::place::Place;

/// News that wait for a reader. While this is full, a store keeps its news.
const CAPACITY: usize = 1024;
/// The pause before a stream of news is reopened.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

struct Merged(mpsc::Receiver<Posted>);

impl Stream for Merged {
    type Item = Posted;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Posted>> {
        self.0.poll_recv(context)
    }
}

/// Subscribes to the news of every pool, including pools that are added later. A pool that is down
/// is added once it is back.
pub(crate) async fn listen(members: &Members) -> Result<NewsStream, Error> {
    let watched = members.watch();
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let mut first = BTreeMap::new();
    // Before returning, so that no later post is missed, also in a pool that is just being opened.
    let news = members.ask_opening(|store| async move { store.news().await }).await?;
    for (member, news) in news {
        first.insert(member.place.clone(), (member, news));
    }
    tokio::spawn(follow_all(watched, first, sender));
    Ok(Box::pin(Merged(receiver)))
}

async fn follow_all(
    mut watched: watch::Receiver<MemberMap>,
    mut first: BTreeMap<Place, (Arc<Member>, NewsStream)>,
    sender: mpsc::Sender<Posted>,
) {
    let mut followed: BTreeMap<Place, Arc<Member>> = BTreeMap::new();
    // Its tasks end when it is dropped.
    let mut followers = JoinSet::new();
    loop {
        let members = Arc::clone(&watched.borrow_and_update());
        for (place, member) in members.iter() {
            if followed.get(place).is_some_and(|followed| Arc::ptr_eq(followed, member)) {
                continue;
            }
            let news = first.remove(place).filter(|(own, _)| Arc::ptr_eq(own, member));
            let news = news.map(|(_, news)| news);
            followers.spawn(follow(Arc::clone(member), news, sender.clone()));
            followed.insert(place.clone(), Arc::clone(member));
        }
        followed.retain(|place, _| members.contains_key(place));
        // The end of the configured store ends the stream.
        let is_over = members.get(&Place::Configured).is_none_or(|member| member.is_closing());
        if is_over {
            return;
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = watched.changed() => if changed.is_err() { return },
            Some(_) = followers.join_next() => {}
        }
    }
}

/// Forwards the news of a pool until it is closed.
async fn follow(member: Arc<Member>, first: Option<NewsStream>, sender: mpsc::Sender<Posted>) {
    let mut news = first;
    loop {
        let mut stream = match news.take() {
            Some(stream) => stream,
            None => {
                let Some(store) = member.opened().await else { return };
                match store.news().await {
                    Ok(stream) => stream,
                    Err(error) => {
                        member.note::<()>(&Err(error));
                        tokio::select! {
                            () = member.closing() => return,
                            () = tokio::time::sleep(AGAIN_AFTER) => continue,
                        }
                    }
                }
            }
        };
        while let Some(posted) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
            if sender.send(posted).await.is_err() {
                return;
            }
        }
        // The store was closed.
        tokio::select! {
            () = member.closing() => return,
            () = tokio::time::sleep(AGAIN_AFTER) => {}
        }
    }
}
