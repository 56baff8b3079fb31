//! One client of any broker, as the closed loop uses it.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;

use super::beanstalkd::Beanstalkd;
use super::nats::Nats;
use super::rabbitmq::RabbitMq;
use super::wire::unreadable;
use crate::error::Error;
use crate::http::Connection;
use crate::zaqar::{self, Sender, Target};

/// Seconds of a claim.
const CLAIM_TTL: u32 = 300;
/// How often a client claims before it gives up: each has posted a message before.
const TRIES: usize = 100;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// zaqar-server
    Zaqar,
    /// RabbitMQ, quorum queues
    Rabbitmq,
    /// NATS JetStream
    Nats,
    /// beanstalkd
    Beanstalkd,
}

impl Kind {
    /// The name in a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zaqar => "zaqar-server",
            Self::Rabbitmq => "RabbitMQ",
            Self::Nats => "NATS JetStream",
            Self::Beanstalkd => "beanstalkd",
        }
    }

    /// Makes a queue. The first answer to this is the end of a start.
    pub(crate) async fn create(self, port: u16, queue: &str) -> Result<(), Error> {
        match Client::connect(self, port, queue).await? {
            Client::Zaqar(zaqar) => zaqar.create().await,
            Client::Rabbitmq(mut rabbitmq) => rabbitmq.create(queue).await,
            Client::Nats(mut nats) => nats.create(queue).await,
            // The connection names it.
            Client::Beanstalkd(_) => Ok(()),
        }
    }

    /// Deletes a queue with its messages; beanstalkd cannot, and keeps those that nobody deleted.
    pub(super) async fn delete(self, port: u16, queue: &str) -> Result<(), Error> {
        match Client::connect(self, port, queue).await? {
            Client::Zaqar(zaqar) => zaqar.delete().await,
            Client::Rabbitmq(mut rabbitmq) => rabbitmq.delete(queue).await,
            Client::Nats(mut nats) => nats.delete(queue).await,
            Client::Beanstalkd(_) => Ok(()),
        }
    }
}

/// A connection that publishes to one queue and consumes from it. Messages are 1 KiB.
#[derive(Debug)]
pub(super) enum Client {
    Zaqar(Box<Zaqar>),
    Rabbitmq(RabbitMq),
    Nats(Nats),
    Beanstalkd(Beanstalkd),
}

impl Client {
    /// Connects to a broker on this machine.
    pub(super) async fn connect(kind: Kind, port: u16, queue: &str) -> Result<Self, Error> {
        let (address, body) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), zaqar::body());
        Ok(match kind {
            Kind::Zaqar => Self::Zaqar(Box::new(Zaqar::open(address, queue).await?)),
            Kind::Rabbitmq => Self::Rabbitmq(RabbitMq::open(address, queue, &body).await?),
            Kind::Nats => Self::Nats(Nats::open(address, queue, &body).await?),
            Kind::Beanstalkd => Self::Beanstalkd(Beanstalkd::open(address, queue, &body).await?),
        })
    }

    /// Prepares for [`Self::consume`].
    pub(super) async fn subscribe(&mut self, queue: &str) -> Result<(), Error> {
        match self {
            Self::Rabbitmq(rabbitmq) => rabbitmq.subscribe(queue).await,
            Self::Zaqar(_) | Self::Nats(_) | Self::Beanstalkd(_) => Ok(()),
        }
    }

    /// Publishes a message and waits for its confirmation.
    pub(super) async fn publish(&mut self) -> Result<(), Error> {
        match self {
            Self::Zaqar(zaqar) => zaqar.publish().await,
            Self::Rabbitmq(rabbitmq) => rabbitmq.publish().await,
            Self::Nats(nats) => nats.publish().await,
            Self::Beanstalkd(beanstalkd) => beanstalkd.publish().await,
        }
    }

    /// Gets a message of the queue, anybody's, and acknowledges it.
    pub(super) async fn consume(&mut self) -> Result<(), Error> {
        match self {
            Self::Zaqar(zaqar) => zaqar.consume().await,
            Self::Rabbitmq(rabbitmq) => rabbitmq.consume().await,
            Self::Nats(nats) => nats.consume().await,
            Self::Beanstalkd(beanstalkd) => beanstalkd.consume().await,
        }
    }
}

/// A connection to zaqar-server over HTTP.
#[derive(Debug)]
pub(super) struct Zaqar {
    connection: Connection,
    target: Target,
    queue: String,
    post: Bytes,
    claim: Bytes,
}

impl Zaqar {
    async fn open(address: SocketAddr, queue: &str) -> Result<Self, Error> {
        let sender = Sender { project: "brokers".to_owned(), token: None };
        let target = Target::new(&format!("http://{address}"), &sender).await?;
        let requests = target.queue(queue);
        Ok(Self {
            connection: Connection::open(address).await?,
            post: requests.post(1),
            claim: requests.claim(1, CLAIM_TTL),
            queue: queue.to_owned(),
            target,
        })
    }

    async fn create(mut self) -> Result<(), Error> {
        let request = self.target.request("PUT", &self.queue, None);
        self.connection.expect("a new queue", &request).await.map(drop)
    }

    async fn delete(mut self) -> Result<(), Error> {
        let request = self.target.queue(&*self.queue).delete();
        self.connection.expect("the deletion of the queue", &request).await.map(drop)
    }

    async fn publish(&mut self) -> Result<(), Error> {
        self.connection.expect("a post", &self.post).await.map(drop)
    }

    /// Claims a message and deletes it by its id and claim.
    async fn consume(&mut self) -> Result<(), Error> {
        for _ in 0..TRIES {
            let answer = self.connection.expect("a claim", &self.claim).await?;
            let Some(id) = zaqar::message_ids(answer.body).next() else { continue };
            let claim = zaqar::claim_id(answer.body)
                .ok_or_else(|| unreadable("a claimed message without its claim".to_owned()))?;
            let path = format!("{}/messages/{id}?claim_id={claim}", self.queue);
            let request = self.target.request("DELETE", &path, None);
            return self.connection.expect("a deletion", &request).await.map(drop);
        }
        Err(unreadable(format!("{TRIES} claims found no message")))
    }
}
