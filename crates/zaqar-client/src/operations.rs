//! What administrators ask for: health, pools, flavors and quotas.

use futures_core::Stream;
use http::Method;
use serde_json::json;

use crate::Error;
use crate::client::{Call, Client};
use crate::pages;
use crate::query::encoded;
use crate::types::{
    Flavor, FlavorList, Health, ManagedQuotas, Pool, PoolChange, PoolDrain, PoolList, QueueToMove,
    QuotaChange, QuotaList, Quotas,
};

impl Client {
    /// Whether the server can serve.
    ///
    /// # Errors
    /// 503 where its store is away; those of any request.
    pub async fn ping(&self) -> Result<(), Error> {
        self.call(Call::get("/v2/ping")).await.map(drop)
    }

    /// Has every operation tried. For administrators, on servers in admin mode.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
    /// # use support::*;
    /// # block_on(async |client: zaqar_client::Client| {
    /// let health = client.health().await?;
    /// assert!(health.is_reachable());
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// 404 where the server is not in admin mode, 403 for others than administrators.
    pub async fn health(&self) -> Result<Health, Error> {
        self.call(Call::get("/v2/health")).await?.json()
    }

    /// The pools by name. For administrators, on servers with pools.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
    /// # use support::*;
    /// # block_on(async |client: zaqar_client::Client| {
    /// use futures_util::TryStreamExt;
    /// use zaqar_client::PoolChange;
    ///
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let uri = format!("embedded://{}", directory.path().display());
    /// let pool = PoolChange { uri: Some(uri), weight: Some(100), ..PoolChange::default() };
    /// client.create_pool("fast", &pool).await?;
    /// client.create_flavor("quick", &["fast"]).await?;
    /// let pools: Vec<_> = client.pools(false).try_collect().await?;
    /// assert_eq!((&*pools[0].name, pools[0].weight), ("fast", 100));
    /// assert_eq!(client.flavor("quick").await?.pool_list, ["fast"]);
    /// # Ok(()) });
    /// ```
    pub fn pools(
        &self,
        detailed: bool,
    ) -> impl Stream<Item = Result<Pool, Error>> + Send + Unpin + use<> {
        pages::rows::<PoolList>(self.clone(), format!("/v2/pools?detailed={detailed}"))
    }

    /// One pool, with its options.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn pool(&self, name: &str) -> Result<Pool, Error> {
        let path = format!("/v2/pools/{}?detailed=true", encoded(name));
        self.call(Call::get(path)).await?.json()
    }

    /// Registers a pool, or replaces the one of this name. The server opens the store first.
    ///
    /// # Errors
    /// 400 where the store cannot be opened, 409 where another pool has it.
    pub async fn create_pool(&self, name: &str, pool: &PoolChange) -> Result<(), Error> {
        let call = Call::new(Method::PUT, format!("/v2/pools/{}", encoded(name))).body(pool)?;
        self.call(call).await.map(drop)
    }

    /// Changes a pool.
    ///
    /// # Errors
    /// 404 where it is not there; those of [`Client::create_pool`].
    pub async fn change_pool(&self, name: &str, change: &PoolChange) -> Result<Pool, Error> {
        let call = Call::new(Method::PATCH, format!("/v2/pools/{}", encoded(name))).body(change)?;
        self.call(call).await?.json()
    }

    /// Begins to move all queues of a pool to the others of its flavor. See [`Client::drain`] for
    /// how far that is.
    ///
    /// # Errors
    /// 404 where the pool is not there, 409 where its queues cannot be moved.
    pub async fn drain_pool(&self, name: &str) -> Result<(), Error> {
        self.call(Call::new(Method::POST, drain_path(name))).await.map(drop)
    }

    /// Moves no further queues of a pool to others.
    ///
    /// # Errors
    /// 404 where the pool is not there.
    pub async fn stop_drain(&self, name: &str) -> Result<(), Error> {
        self.call(Call::new(Method::DELETE, drain_path(name))).await.map(drop)
    }

    /// What the drain of a pool has come to, and moves from the pool and to it.
    ///
    /// # Errors
    /// 404 where the pool is not there.
    pub async fn drain(&self, name: &str) -> Result<PoolDrain, Error> {
        self.call(Call::new(Method::GET, drain_path(name))).await?.json()
    }

    /// Begins to move a queue to a pool. See [`Client::drain`] for how far that is.
    ///
    /// # Errors
    /// 404 where queue or pool is not there, 409 where the queue cannot be moved, is there already
    /// or is being moved.
    pub async fn move_queue(&self, pool: &str, queue: &QueueToMove) -> Result<(), Error> {
        let path = format!("/v2/pools/{}/queues", encoded(pool));
        self.call(Call::new(Method::POST, path).body(queue)?).await.map(drop)
    }

    /// Removes a pool; its store keeps what it has. One that is not there is no error.
    ///
    /// # Errors
    /// 403 for the last pool of a flavor.
    pub async fn delete_pool(&self, name: &str) -> Result<(), Error> {
        let path = format!("/v2/pools/{}", encoded(name));
        self.call(Call::new(Method::DELETE, path)).await.map(drop)
    }

    /// The project's flavors by name.
    pub fn flavors(
        &self,
        detailed: bool,
    ) -> impl Stream<Item = Result<Flavor, Error>> + Send + Unpin + use<> {
        pages::rows::<FlavorList>(self.clone(), format!("/v2/flavors?detailed={detailed}"))
    }

    /// One flavor, with its capabilities.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn flavor(&self, name: &str) -> Result<Flavor, Error> {
        let path = format!("/v2/flavors/{}?detailed=true", encoded(name));
        self.call(Call::get(path)).await?.json()
    }

    /// Creates a flavor of these pools, or gives them to the one of this name.
    ///
    /// # Errors
    /// 400 for a pool that is not there.
    pub async fn create_flavor(&self, name: &str, pools: &[&str]) -> Result<(), Error> {
        let document = json!({"pool_list": pools});
        let path = format!("/v2/flavors/{}", encoded(name));
        self.call(Call::new(Method::PUT, path).body(&document)?).await.map(drop)
    }

    /// Gives a flavor other pools.
    ///
    /// # Errors
    /// 404 where it is not there, 400 for a pool that is not there.
    pub async fn change_flavor(&self, name: &str, pools: &[&str]) -> Result<Flavor, Error> {
        let document = json!({"pool_list": pools});
        let path = format!("/v2/flavors/{}", encoded(name));
        self.call(Call::new(Method::PATCH, path).body(&document)?).await?.json()
    }

    /// Deletes a flavor. One that is not there is no error.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn delete_flavor(&self, name: &str) -> Result<(), Error> {
        let path = format!("/v2/flavors/{}", encoded(name));
        self.call(Call::new(Method::DELETE, path)).await.map(drop)
    }
}

/// Quotas, on servers in admin mode whose administrators set them (`[quotas] managed`).
impl Client {
    /// The projects for which quotas are set, by their ids, with what was set.
    pub fn managed_quotas(
        &self,
    ) -> impl Stream<Item = Result<ManagedQuotas, Error>> + Send + Unpin + use<> {
        pages::rows::<QuotaList>(self.clone(), "/v2/quotas".to_owned())
    }

    /// What holds for a project.
    ///
    /// # Errors
    /// 404 where quotas are not set by this API, 403 for others than administrators.
    pub async fn quotas(&self, project: &str) -> Result<Quotas, Error> {
        self.call(Call::get(quota_path(project))).await?.json()
    }

    /// Sets the quotas of a project in the place of all that were set for it, and returns what
    /// holds. Every server takes them over within seconds.
    ///
    /// ```
    /// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mod.rs")); }
    /// # use support::*;
    /// # block_on(async |client: zaqar_client::Client| {
    /// use zaqar_client::QuotaChange;
    ///
    /// let change = QuotaChange { max_queues: Some(100), ..QuotaChange::default() };
    /// assert_eq!(client.set_quotas("trial", &change).await?.max_queues, 100);
    /// client.unset_quotas("trial").await?;
    /// assert_eq!(client.quotas("trial").await?.max_queues, 0);
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    /// Those of [`Client::quotas`], and 409 where a thousand projects have quotas set.
    pub async fn set_quotas(&self, project: &str, change: &QuotaChange) -> Result<Quotas, Error> {
        let call = Call::new(Method::PUT, quota_path(project)).body(change)?;
        self.call(call).await?.json()
    }

    /// Forgets what was set for a project: what is configured holds again.
    ///
    /// # Errors
    /// Those of [`Client::quotas`].
    pub async fn unset_quotas(&self, project: &str) -> Result<(), Error> {
        self.call(Call::new(Method::DELETE, quota_path(project))).await.map(drop)
    }
}

fn quota_path(project: &str) -> String {
    format!("/v2/quotas/{}", encoded(project))
}

fn drain_path(pool: &str) -> String {
    format!("/v2/pools/{}/drain", encoded(pool))
}
