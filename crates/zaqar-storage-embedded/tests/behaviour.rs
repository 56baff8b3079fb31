//! The behaviour tests that every store passes.

use std::path::PathBuf;

use async_trait::async_trait;
use tempfile::TempDir;
use zaqar_storage_embedded::{Embedded, Options};
use zaqar_storage_testkit::{About, Factory, Stores};

/// A directory per name.
struct Directories(TempDir);

impl Directories {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[async_trait]
impl Factory for Directories {
    async fn open(&self, name: &str) -> Stores {
        Stores::both(Embedded::open(Options::new(self.path(name))).expect("the store opens"))
    }

    async fn discard(&self, name: &str) {
        std::fs::remove_dir_all(self.path(name)).expect("the directory is there");
    }

    fn about(&self) -> About {
        About { keeps: true, shared: false, repairs_time: true }
    }
}

zaqar_storage_testkit::behaviour!(Directories::new());
