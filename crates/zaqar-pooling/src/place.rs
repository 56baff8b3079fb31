//! Where a queue can be.

use serde_json::{Map, Value};
use zaqar_core::pools::PoolName;
use zaqar_core::{QueueKey, storage};

/// Where the contents of a queue are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In a pool.
    Pool(PoolName),
    /// In the message store that is configured, which is the virtual pool.
    Configured,
}

impl Place {
    /// Its name in logs.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Pool(name) => name.as_str(),
            Self::Configured => "(configured)",
        }
    }

    /// The pool; `None` for the store that is configured.
    pub(crate) const fn pool(&self) -> Option<&PoolName> {
        match self {
            Self::Pool(name) => Some(name),
            Self::Configured => None,
        }
    }

    /// As rows have it.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Pool(name) => name.as_str().into(),
            Self::Configured => Value::Null,
        }
    }

    /// Reads what [`Place::to_value`] wrote.
    pub(crate) fn of_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Configured),
            Value::String(name) => PoolName::new(name).ok().map(Self::Pool),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The place in a row of the catalogue.
    pub(crate) fn read(object: &Map<String, Value>) -> Result<Option<Self>, storage::Error> {
        let damaged = || storage::Error::failed("a row of the catalogue is damaged");
        object.get("pool").map(|pool| Self::of_value(pool).ok_or_else(damaged)).transpose()
    }

    /// Sets the place in a row of the catalogue.
    pub(crate) fn write_to(&self, object: &mut Map<String, Value>) {
        object.insert("pool".to_owned(), self.to_value());
    }

    /// A new row of the catalogue.
    pub(crate) fn write(&self, key: &QueueKey) -> Map<String, Value> {
        // The project too, as the row's key has a digest of it only.
        [("pool", self.to_value()), ("project", key.project.as_str().into())]
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }
}
