//! Routes requests: to one server, to the master behind Sentinels, or to the node of a Cluster that
//! has their key.

use redis::aio::PubSub;
use redis::{Cmd, RedisError, RedisResult, Value};

use crate::clients::{Timeouts, client, timed_out};
use crate::cluster::{Address, Cluster};
use crate::config::Options;
use crate::error::{Error, Failure};
use crate::peer::{Commands, Peer, Request, Source};
use crate::sentinel::Sentinels;
use crate::uri::Servers;

/// Connections to all servers.
pub(crate) struct Pool {
    servers: Endpoint,
    timeouts: Timeouts,
}

enum Endpoint {
    One(Box<Peer>),
    Cluster(Box<Cluster>),
}

impl Pool {
    /// Opens no connection yet.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let servers = Endpoint::new(options);
        Ok(Self {
            servers: servers.map_err(|source| Error::Connect {
                address: options.uri.servers.to_string(),
                source: source.into(),
            })?,
            timeouts: Timeouts::new(options),
        })
    }

    pub(crate) const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn send(&self, mut request: Request<'_>) -> Result<Value, Failure> {
        match &self.servers {
            Endpoint::One(peer) => peer.send(&mut request).await,
            Endpoint::Cluster(cluster) => cluster.send(&mut request).await,
        }
    }

    /// Sends a command to the server, or to every master of a Cluster.
    pub(crate) async fn send_to_all(
        &self,
        mut command: impl FnMut() -> Cmd + Send,
    ) -> Vec<Result<Value, Failure>> {
        match &self.servers {
            Endpoint::One(peer) => {
                vec![peer.send(&mut Request::plain(&mut |_| Commands::One(command()))).await]
            }
            Endpoint::Cluster(cluster) => cluster.send_to_all(command).await,
        }
    }

    /// The Cluster, unless there is one server.
    pub(crate) const fn cluster(&self) -> Option<&Cluster> {
        match &self.servers {
            Endpoint::One(_) => None,
            Endpoint::Cluster(cluster) => Some(cluster),
        }
    }

    /// Opens a connection that receives news. In a Cluster every node receives what is published on
    /// any node, so it is to any master. The second value names the node.
    pub(crate) async fn listen(&self) -> RedisResult<(PubSub, Option<Address>)> {
        let made = async {
            let clients = match &self.servers {
                Endpoint::One(peer) => vec![(None, peer.client().await?)],
                Endpoint::Cluster(cluster) => cluster.clients().await?,
            };
            let first = rand::random::<u32>() as usize % clients.len().max(1);
            let mut last = timed_out();
            for n in 0..clients.len() {
                // One of several nodes may hang, and must leave time for the others.
                let limit = self.timeouts.connect / 2;
                let (node, client) = &clients[(first + n) % clients.len()];
                match tokio::time::timeout(limit, client.get_async_pubsub()).await {
                    Ok(Ok(made)) => return Ok((made, node.clone())),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = timed_out(),
                }
            }
            Err::<(PubSub, Option<Address>), RedisError>(last)
        };
        let made = tokio::time::timeout(self.timeouts.connect * 4, made);
        made.await.unwrap_or_else(|_| Err(timed_out()))
    }
}

impl Pool {
    /// Whether a node is still one of the Cluster's masters.
    pub(crate) async fn has_node(&self, node: Option<&Address>) -> bool {
        match (&self.servers, node) {
            (Endpoint::Cluster(cluster), Some(node)) => cluster.is_master(node).await,
            _ => true,
        }
    }
}

impl Endpoint {
    fn new(options: &Options) -> RedisResult<Self> {
        let uri = &options.uri;
        let source = match &uri.servers {
            Servers::Single(_) | Servers::Socket(_) => {
                Source::Server(Box::new(client(uri, &uri.servers)?))
            }
            Servers::Sentinel { hosts, master, user } => {
                let mut own = uri.clone();
                (own.user, own.database) = (user.clone(), 0);
                Source::Sentinels(Box::new(Sentinels::new(uri, hosts, master, &own)?))
            }
            Servers::Cluster(hosts) => {
                return Ok(Self::Cluster(Box::new(Cluster::new(hosts, options)?)));
            }
        };
        Ok(Self::One(Box::new(Peer::new(source, options))))
    }
}
