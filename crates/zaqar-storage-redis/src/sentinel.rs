//! Finds the master through Sentinels. All are asked at once, so that one that hangs delays
//! nothing.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Client, ErrorKind, RedisError, RedisResult, Value, cmd};

use crate::clients::{self, Timeouts, connect, timed_out};
use crate::uri::{Host, Servers, Uri};

/// The Sentinels, and the name of the master that they monitor.
pub(crate) struct Sentinels {
    uri: Uri,
    master: String,
    clients: Vec<Client>,
}

impl Sentinels {
    pub(crate) fn new(uri: &Uri, hosts: &[Host], master: &str, own: &Uri) -> RedisResult<Self> {
        let clients = hosts.iter().map(|host| clients::client(own, &Servers::Single(host.clone())));
        let (uri, master) = (uri.clone(), master.to_owned());
        Ok(Self { uri, master, clients: clients.collect::<RedisResult<_>>()? })
    }

    /// A client of the first server that a Sentinel names and that reports the role of a master.
    pub(crate) async fn master(&self, timeouts: Timeouts) -> RedisResult<Client> {
        let ask = async {
            let mut asked: FuturesUnordered<_> =
                self.clients.iter().map(|sentinel| self.find(sentinel, timeouts)).collect();
            let mut last =
                RedisError::from((ErrorKind::InvalidClientConfig, "no Sentinel is configured"));
            while let Some(found) = asked.next().await {
                match found {
                    Ok(client) => return Ok(client),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let found = tokio::time::timeout(timeouts.connect, ask).await;
        found.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn find(&self, sentinel: &Client, timeouts: Timeouts) -> RedisResult<Client> {
        let mut connection = connect(sentinel, timeouts).await?;
        let mut ask = cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let found: Option<(String, u16)> = ask.query_async(&mut connection).await?;
        let Some((name, port)) = found else {
            return Err((ErrorKind::Io, "a Sentinel does not know the master").into());
        };
        let client = clients::client(&self.uri, &Servers::Single(Host { name, port }))?;
        let mut connection = connect(&client, timeouts).await?;
        match cmd("ROLE").query_async::<Value>(&mut connection).await {
            Ok(Value::Array(role))
                if role.first() == Some(&Value::BulkString(b"master".into())) =>
            {
                Ok(client)
            }
            // Without permission to ask, a wrong role is detected when a write is rejected.
            Err(error) if error.code() == Some("NOPERM") => Ok(client),
            Ok(_) => {
                Err((ErrorKind::Io, "the server that a Sentinel names is not a master").into())
            }
            Err(error) => Err(error),
        }
    }
}
