//! What a start with these settings would reject or warn of, besides the options themselves: for
//! `config check` and `zaqar-status`.
//!
//! It uses the functions that the start uses, but opens no store and no port, and connects to
//! nothing.

use std::sync::Arc;

use zaqar_api::Keyring;
use zaqar_core::{Clock, SystemClock, TaskMonitor};

use crate::config::{AuthStrategy, Settings};
use crate::drivers::embedded;
use crate::error::with_causes;
use crate::registry::Registry;
use crate::report::{RecentErrors, Reporter};
use crate::traces::Traces;
use crate::{access, logs, notify};

/// What was found, as text.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The server would not start.
    pub(crate) errors: Vec<String>,
    /// It would start, but hardly as it was meant.
    pub(crate) warnings: Vec<String>,
}

/// Checks settings as the start reads them, with the files that they name.
pub(crate) async fn check(registry: &Registry, settings: &Settings) -> Findings {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut errors = registry.check(settings).await;
    let reporter = Reporter::new(settings, TaskMonitor::default(), RecentErrors::default());
    errors.extend(reporter.err().map(Into::into));
    errors.extend(logs::check(&settings.logging).err());
    errors.extend(embedded::snapshots(settings, &clock).err());
    errors.extend(Traces::new(&settings.traces).err());
    let (more, mut warnings) = access::check(settings, &clock);
    errors.extend(more);
    errors.extend(notify::check(settings, &clock).err());
    warnings.extend(missing_strategy(settings).map(|(origin, problem)| match origin {
        Some(origin) => format!("{origin}: {problem}"),
        None => problem,
    }));
    warnings.extend(invalid_key(settings));
    warnings.extend(notify::missing_signing_key(settings).map(str::to_owned));
    let mut errors: Vec<String> = errors.iter().map(|error| with_causes(&**error)).collect();
    // Both roles of one store have the same problem.
    let mut known = std::collections::BTreeSet::new();
    errors.retain(|error| known.insert(error.clone()));
    Findings { errors, warnings }
}

/// A file with the settings of Keystone's middleware, but without the line that enables it, was
/// meant to protect the server: the original's guide enables the middleware elsewhere. Returns
/// where it begins, and the problem.
pub(crate) fn missing_strategy(settings: &Settings) -> Option<(Option<String>, String)> {
    const SECTION: &str = "keystone_authtoken";
    let section = settings.driver_section(SECTION);
    let is_filled = section.options().any(|option| {
        section.text(option).is_ok_and(|text| text.is_some_and(|text| !text.is_empty()))
    });
    if settings.auth_strategy != AuthStrategy::None || !is_filled {
        return None;
    }
    let origin = settings.raw().section_origin(SECTION).map(ToString::to_string);
    let problem = format!(
        "NO AUTHENTICATION: [{SECTION}] is configured, but without auth_strategy = keystone in \
         [DEFAULT] no token is checked, and every caller is the project that it names"
    );
    Some((origin, problem))
}

fn invalid_key(settings: &Settings) -> Option<String> {
    let error = Keyring::parse(settings.message_encryption_key.as_ref()?).err()?;
    let origin = settings.raw().origin("transport", "message_encryption_key");
    Some(format!(
        "{origin}: [transport] message_encryption_key is invalid, no queue can be encrypted: {}",
        with_causes(&error)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    /// Errors, warnings of the options, and other warnings about a configuration with this text.
    async fn found(text: &str) -> (Vec<String>, Vec<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let registry = Registry::default();
        let sources = Sources { files: vec![file.path().to_owned()], ..Sources::default() };
        let loaded = load(&sources, &registry.registered()).unwrap();
        let Findings { errors, mut warnings } = check(&registry, &loaded.settings).await;
        warnings.extend(loaded.warnings.iter().map(ToString::to_string));
        (errors, warnings)
    }

    const REDIS: &str = "[drivers]\nmessage_store = redis\nmanagement_store = redis\n\
                         [drivers:message_store:redis]\n";
    const MONGODB: &str = "[drivers]\nmessage_store = mongodb\nmanagement_store = mongodb\n\
                           [drivers:message_store:mongodb]\n";

    #[tokio::test]
    async fn problems_that_the_start_rejects_are_errors() {
        for (text, part) in [
            (format!("{REDIS}uri = redis://h:99999"), "[drivers:message_store:redis] uri"),
            (format!("{REDIS}uri = foo"), "[drivers:message_store:redis] uri"),
            (format!("{MONGODB}uri = mongodb://"), "[drivers:message_store:mongodb] uri"),
            (format!("{MONGODB}uri = mongodb://h\nssl_ca_certs = /none/a"), "cannot read /none/a"),
            ("[drivers:transport:wsgi]\ncert_file = /none/b\nkey_file = /none/c".into(), "/none/b"),
            ("[DEFAULT]\nlog_dir = /none".into(), "cannot open /none/zaqar-server.log"),
            ("[quotas]\nprojects_file = /none/q".into(), "[quotas] /none/q cannot be read"),
            ("[notification]\nca_file = /none/ca".into(), "/none/ca"),
            ("[drivers:message_store:embedded]\npath = /dev/null/x".into(), "a directory"),
        ] {
            let (errors, _) = found(&text).await;
            assert!(errors.len() == 1 && errors[0].contains(part), "{text}: {errors:?}");
        }
    }

    #[tokio::test]
    async fn problems_that_only_keep_it_from_serving_are_warnings() {
        for (text, part) in [
            ("", ""),
            ("[transport]\nmessage_encryption_key = short", "no queue can be encrypted"),
            ("[notification]\nrequire_confirmation = true", "[signed_url] secret_key is not"),
            ("[oslo_policy]\npolicy_file = /none/p.yaml", "there is no file /none/p.yaml"),
            ("[keystone_authtoken]\nauth_url = http://k", "NO AUTHENTICATION"),
            ("[DEFAULT]\npooling = true", "nothing can be posted until"),
            ("[DEFAULT]\npooling = true\nadmin_mode = true", ""),
        ] {
            let (errors, warnings) = found(text).await;
            assert!(errors.is_empty(), "{text}: {errors:?}");
            assert_eq!(warnings.len(), usize::from(!part.is_empty()), "{text}: {warnings:?}");
            assert!(warnings.iter().all(|warning| warning.contains(part)), "{text}: {warnings:?}");
        }
    }
}
