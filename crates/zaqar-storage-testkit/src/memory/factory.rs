//! In-memory stores by name, for the kit itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Fault, Memory};
use crate::factory::{About, Factory, Stores};

/// In-memory stores by name. A store keeps its contents when it is opened again, as long as this
/// value lives.
#[derive(Debug, Default)]
pub struct Memories {
    fault: Option<Fault>,
    stores: Mutex<BTreeMap<String, Memory>>,
}

impl Memories {
    /// An empty set of stores.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores with a fault.
    pub fn with_fault(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }
}

#[async_trait]
impl Factory for Memories {
    async fn open(&self, name: &str) -> Stores {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Memory { fault: self.fault, ..Memory::default() };
        Stores::both(stores.entry(name.to_owned()).or_insert_with(fresh).connect())
    }

    async fn discard(&self, name: &str) {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn about(&self) -> About {
        About { keeps: true, shared: false, repairs_time: true }
    }
}
