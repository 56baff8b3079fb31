//! News of posts.

use async_trait::async_trait;
use zaqar_core::storage::{Error, News, NewsStream};

use crate::Embedded;

#[async_trait]
impl News for Embedded {
    async fn news(&self) -> Result<NewsStream, Error> {
        self.listen()
    }
}
