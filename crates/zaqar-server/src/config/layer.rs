//! The merged configuration as a source of the `config` crate, to read sections with serde.

use std::sync::Arc;

use config::{ConfigError, Map, Source, Value, ValueKind};

use super::raw::Raw;
use super::section::Section;

/// The merged configuration as a [`config::Source`]: one table per section. Each value has its
/// origin, so that serde's errors name file and line.
///
/// References are resolved. An option that can be given several times is an array.
///
/// ```
/// # use zaqar_server::Registry;
/// # use zaqar_server::config::known::{Known, integer};
/// # use zaqar_server::config::{Sources, load};
/// #[derive(serde::Deserialize)]
/// struct Mine {
///     #[serde(rename = "drivers:message_store:mine")]
///     driver: Driver,
/// }
/// #[derive(serde::Deserialize)]
/// struct Driver {
///     workers: u8,
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("zaqar.conf");
/// # std::fs::write(&path, "[drivers:message_store:mine]\nworkers = 7\n[drivers]\nmessage_store = mine\nmanagement_store = embedded")?;
/// let sources = Sources { files: vec![path], ..Sources::default() };
/// const OPTIONS: &[Known] = &[integer("workers", "1", 1, 64)];
/// let registered = Registry::default().registered().message_store("mine", OPTIONS);
/// let loaded = load(&sources, &registered)?;
/// let mine: Mine = config::Config::builder()
///     .add_source(loaded.settings.source())
///     .build()?
///     .try_deserialize()?;
/// assert_eq!(mine.driver.workers, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Layer(Arc<Raw>);

impl Layer {
    pub(super) fn new(raw: &Arc<Raw>) -> Self {
        Self(Arc::clone(raw))
    }

    fn table(&self, name: &str) -> Result<Map<String, Value>, ConfigError> {
        let section = Section::new(&self.0, name);
        section
            .options()
            .map(|option| {
                let values = section
                    .source_values(option)
                    .map_err(|error| ConfigError::Foreign(Box::new(error)))?
                    .into_iter()
                    .map(|(text, origin)| Value::new(Some(&origin.to_string()), text))
                    .collect();
                Ok((option.to_owned(), one_or_all(self.0.is_repeated(name, option), values)))
            })
            .collect()
    }
}

fn one_or_all(is_repeated: bool, mut values: Vec<Value>) -> Value {
    if is_repeated {
        return Value::new(None, ValueKind::Array(values));
    }
    values.pop().unwrap_or_else(|| Value::new(None, ValueKind::Nil))
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        self.0
            .sections()
            .map(|name| {
                let origin = self.0.section_origin(name).map(ToString::to_string);
                Ok((name.to_owned(), Value::new(origin.as_ref(), self.table(name)?)))
            })
            .collect()
    }
}
