//! News of posts: see `broadcaster`.

use async_trait::async_trait;
use zaqar_core::storage::{Error, News, NewsStream};

use crate::Redis;

#[async_trait]
impl News for Redis {
    async fn news(&self) -> Result<NewsStream, Error> {
        self.inner.broadcaster.listen().await
    }
}
