//! The task that owns the connection: it sends, receives, and connects again.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, raw};
use super::frame::{self, Received};
use super::{Command, Event, Reply, Subscribed};
use crate::Error;
use crate::client::Client;

/// Requests whose answers are awaited, at most; more wait to be sent.
const IN_FLIGHT: usize = 64;
/// How often a silent connection is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(20);
/// After how long without any frame a connection counts as broken.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// How long one outage may take.
const OUTAGE: Duration = Duration::from_secs(600);

pub(super) struct Driver {
    client: Client,
    url: String,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    subscribed: Vec<Subscribed>,
}

struct Pending {
    action: String,
    subscribes: Option<Subscribed>,
    reply: oneshot::Sender<Result<Reply, Error>>,
}

/// Why a connection is not served any more.
enum Ended {
    /// All senders and receivers were dropped.
    Unused,
    /// It broke.
    Broken,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        url: String,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self { client, url, commands, events, subscribed: Vec::new() }
    }

    pub(super) async fn run(mut self, mut connection: Connection) {
        loop {
            let mut pending = VecDeque::new();
            let ended = self.serve(&mut connection, &mut pending).await;
            for Pending { action, reply, .. } in pending {
                let source = "the connection broke".into();
                let path = "over WebSocket".to_owned();
                // Who does not wait any more needs no answer.
                let _ = reply.send(Err(Error::Interrupted { method: action, path, source }));
            }
            connection.close().await;
            if matches!(ended, Ended::Unused) {
                return;
            }
            match self.reconnect().await {
                Some(again) => connection = again,
                None => return,
            }
            // Nobody listens any more: requests may go on.
            let _ = self.events.send(Event::Reconnected).await;
            for push in connection.take_early() {
                // As above.
                let _ = self.events.send(Event::Message(push)).await;
            }
        }
    }

    async fn serve(
        &mut self,
        connection: &mut Connection,
        pending: &mut VecDeque<Pending>,
    ) -> Ended {
        let mut last_received = Instant::now();
        let mut ping = last_received + PING_EVERY;
        let mut has_senders = true;
        loop {
            if !has_senders && pending.is_empty() && self.events.is_closed() {
                return Ended::Unused;
            }
            tokio::select! {
                received = connection.next() => match received {
                    Ok(received) => {
                        last_received = Instant::now();
                        ping = last_received + PING_EVERY;
                        if let Some(received) = received
                            && self.receive(received, pending).await.is_err()
                        {
                            return Ended::Broken;
                        }
                    }
                    Err(_) => return Ended::Broken,
                },
                command = self.commands.recv(), if has_senders && pending.len() < IN_FLIGHT => {
                    let Some(command) = command else {
                        has_senders = false;
                        continue;
                    };
                    let Command { action, body, subscribes, reply } = command;
                    // The caller gave up, perhaps long ago: it does not expect it to be done.
                    if reply.is_closed() {
                        continue;
                    }
                    let sent = connection.send(&action, &body).await;
                    pending.push_back(Pending { action, subscribes, reply });
                    if sent.is_err() {
                        return Ended::Broken;
                    }
                },
                () = self.events.closed(), if !has_senders => return Ended::Unused,
                () = sleep_until(ping) => {
                    if last_received.elapsed() >= SILENT_FOR || connection.ping().await.is_err() {
                        return Ended::Broken;
                    }
                    ping = Instant::now() + PING_EVERY;
                }
            }
        }
    }

    /// Answers leave in the order of the requests; an answer without a request is an error.
    async fn receive(
        &mut self,
        received: Received,
        pending: &mut VecDeque<Pending>,
    ) -> Result<(), ()> {
        match received {
            Received::Push(push) => {
                // Nobody listens any more: requests may go on.
                let _ = self.events.send(Event::Message(push)).await;
            }
            Received::Answer(status, body) => {
                let Pending { action, subscribes, reply } = pending.pop_front().ok_or(())?;
                let outcome = frame::outcome(&action, status, body);
                if outcome.is_ok()
                    && let Some(subscribed) = subscribes
                {
                    self.subscribed.retain(|earlier| earlier.queue != subscribed.queue);
                    self.subscribed.push(subscribed);
                }
                // Who does not wait any more needs no answer.
                let _ = reply.send(outcome);
            }
        }
        Ok(())
    }

    /// A new connection with the subscriptions of the one before; `None` where there is none
    /// within the time of an outage, the server refuses, or nobody needs one any more.
    async fn reconnect(&mut self) -> Option<Connection> {
        let deadline = Instant::now() + OUTAGE;
        let retries = self.client.retries();
        let (mut pause, longest) = (retries.first_pause, retries.longest_pause);
        while Instant::now() < deadline {
            if self.events.is_closed() && self.commands.is_closed() {
                return None;
            }
            match self.open().await {
                Ok(connection) => return Some(connection),
                Err(Error::Refused(refusal)) if refusal.status < 500 => return None,
                Err(Error::Config { .. }) => return None,
                Err(_) => {}
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = pause.saturating_mul(2).min(longest);
        }
        None
    }

    async fn open(&self) -> Result<Connection, Error> {
        let mut connection = Connection::open(&self.client, &self.url).await?;
        for subscribed in &self.subscribed {
            let body = raw(&subscribed.body())?;
            let asked = connection.ask("subscription_create", &body);
            tokio::time::timeout(self.client.timeout(), asked).await.map_err(|_| {
                Error::Timeout {
                    method: "subscription_create".to_owned(),
                    path: "over WebSocket".to_owned(),
                    limit: self.client.timeout(),
                }
            })??;
        }
        Ok(connection)
    }
}
