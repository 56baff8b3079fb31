//! Policies as a layer, and their reload.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use zaqar_api::{
    Authentication, Context, Error, Facts, GetQuotas, Operation, Policy, SetQuotas, UnsetQuotas,
};
use zaqar_core::{Kind, StateLog};

use crate::policy::{Credentials, Files, LoadError, Loaded, Target};

/// How often the files are checked for changes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Authorizes by rules that are reloaded when their files change.
pub struct Permissions {
    files: Files,
    loaded: ArcSwap<Loaded>,
    failures: AtomicU64,
    log: StateLog,
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permissions").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Permissions {
    /// Reads the files, and logs problems for the operator.
    ///
    /// # Errors
    /// [`LoadError`]: the server must not start without readable rules.
    pub fn load(files: Files) -> Result<Self, LoadError> {
        let loaded = files.load()?;
        log_loaded(&loaded);
        let (loaded, failures) = (ArcSwap::from_pointee(loaded), AtomicU64::new(0));
        Ok(Self { files, loaded, failures, log: StateLog::with_interval(LOG_INTERVAL) })
    }

    /// Checks the files once a second until `stop`, and reloads them when they changed. While they
    /// cannot be read, the previous rules stay in force.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let permissions = Arc::clone(&self);
            // The files may be on a slow disk.
            let reloaded = tokio::task::spawn_blocking(move || permissions.reload());
            if let Err(error) = reloaded.await {
                error!(%error, "the policy files were not checked");
            }
        }
    }

    /// Reloads changed files. This blocks on file I/O.
    pub fn reload(&self) {
        match self.files.load_if_changed(&self.loaded.load()) {
            Ok(None) => self.recovered(),
            Ok(Some(loaded)) => {
                log_loaded(&loaded);
                self.loaded.store(Arc::new(loaded));
                self.recovered();
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                if let Some(failures) = self.log.failure() {
                    let error = &error as &dyn std::error::Error;
                    error!(
                        error,
                        failures, "policies cannot be read: the previous ones stay in force"
                    );
                }
            }
        }
    }

    /// How often the files could not be read since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn recovered(&self) {
        if let Some(failures) = self.log.success() {
            info!(failures, "policies can be read again");
        }
    }
}

/// A broken file stays broken until somebody repairs it, so it is logged rarely.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

fn log_loaded(loaded: &Loaded) {
    for file in &loaded.files {
        info!(file = %file.display(), "policies read");
    }
    for problem in &loaded.problems {
        warn!(%problem, "problem in a policy");
    }
}

impl Policy for Permissions {
    fn check(&self, context: &Context, rule: &'static str, facts: &Facts<'_>) -> Result<(), Error> {
        let loaded = self.loaded.load();
        let allows = match &context.authentication {
            Authentication::Token(identity) => {
                let target = target(context, facts);
                loaded.rules.allows_token(rule, &target, &identity.attributes)
            }
            Authentication::Unchecked { roles } => loaded
                .rules
                .allows_with(rule, || (target(context, facts), credentials(context, roles))),
            Authentication::Signature(_) => loaded
                .rules
                .allows_with(rule, || (target(context, facts), credentials(context, &[]))),
            // No policy restricts the server itself.
            Authentication::Server => true,
        };
        if allows { Ok(()) } else { Err(Error::Forbidden) }
    }
}

/// A caller without a token, as rules see it.
fn credentials(context: &Context, roles: &[String]) -> Credentials {
    let project = context.project.as_str();
    let mut attributes = Map::new();
    for name in ["project_id", "project", "tenant"] {
        attributes.insert(name.to_owned(), project.into());
    }
    attributes.insert("roles".to_owned(), roles.into());
    attributes.insert("is_admin".to_owned(), Value::Bool(false));
    Credentials::new(Value::Object(attributes))
}

/// What an operation is about, as rules see it: its owner's project, and the queue or topic. The
/// quotas of a project are that project's, whoever asks.
fn target<'a>(context: &'a Context, facts: &Facts<'a>) -> Target<'a> {
    let name = match facts.kind {
        Kind::Queue => "queue_name",
        Kind::Topic => "topic_name",
        // No caller can name an internal queue.
        Kind::Internal => "queue_name",
    };
    const GET: &str = GetQuotas::DECLARATION.name;
    const SET: &str = SetQuotas::DECLARATION.name;
    const UNSET: &str = UnsetQuotas::DECLARATION.name;
    let named = match facts.declaration.name {
        GET | SET | UNSET => facts.id,
        _ => None,
    };
    let project = named.unwrap_or(context.project.as_str());
    Target::of(project, facts.queue.map(|queue| (name, queue.as_str())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use zaqar_api::{GetQueue, Identity, Ping, QueueRef};
    use zaqar_core::{ClientId, ProjectId, QueueName, Timestamp};

    use super::*;
    use crate::policy::DEFAULTS;

    fn files(dir: &tempfile::TempDir) -> Files {
        Files {
            file: Some(dir.path().join("policy.yaml")),
            dirs: Vec::new(),
            default_rule: "default".to_owned(),
            enforce_scope: true,
            enforce_new_defaults: true,
        }
    }

    fn context(authentication: Authentication) -> Context {
        let project = ProjectId::new("p").unwrap();
        Context::new(project, ClientId::new("c")).authenticated(authentication)
    }

    fn with_roles(roles: &[&str]) -> Vec<Context> {
        let roles: Vec<_> = roles.iter().map(|role| (*role).to_owned()).collect();
        let project = ProjectId::new("p").unwrap();
        let identity = Identity::new(project, "u", roles.clone(), Timestamp::MAX);
        let token = Authentication::Token(Arc::new(identity));
        vec![context(Authentication::Unchecked { roles }), context(token)]
    }

    fn allows(permissions: &Permissions, context: &Context, rule: &'static str) -> bool {
        permissions.check(context, rule, &Facts::of(&Ping)).is_ok()
    }

    #[test]
    fn defaults_hold_for_callers_of_every_kind() {
        let dir = tempfile::tempdir().unwrap();
        let permissions = Permissions::load(files(&dir)).unwrap();
        for caller in with_roles(&["reader"]) {
            assert!(allows(&permissions, &caller, "ping:get"));
            assert!(!allows(&permissions, &caller, "health:get"));
        }
        for caller in with_roles(&["Admin"]) {
            assert!(allows(&permissions, &caller, "health:get"));
        }
        assert!(allows(&permissions, &context(Authentication::Server), "health:get"));
    }

    #[test]
    fn a_reload_counts_at_once_and_a_broken_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let permissions = Permissions::load(files(&dir)).unwrap();
        let path = dir.path().join("policy.yaml");
        let member = &with_roles(&["member"])[1];
        fs::write(&path, "ping:get: role:other\n").unwrap();
        assert!(allows(&permissions, member, "ping:get"));
        permissions.reload();
        assert!(!allows(&permissions, member, "ping:get"));
        fs::write(&path, "ping:get: [").unwrap();
        permissions.reload();
        permissions.reload();
        assert!(!allows(&permissions, member, "ping:get"));
        assert_eq!(permissions.failures(), 2);
        fs::write(&path, "ping:get: 'project_id:%(project_id)s and user_id:u'\n").unwrap();
        permissions.reload();
        assert!(allows(&permissions, member, "ping:get"));
        assert_eq!(permissions.failures(), 2);
        fs::remove_file(&path).unwrap();
        permissions.reload();
        assert!(allows(&permissions, member, "ping:get"));
    }

    #[test]
    fn what_depends_on_the_queue_is_decided_for_each() {
        let dir = tempfile::tempdir().unwrap();
        let one = "'one':%(queue_name)s";
        let rules = [
            ("messages:get", one),
            ("messages:get_all", "rule:mine"),
            ("messages:create", "not rule:no_such"),
            ("default", one),
            ("mine", one),
            ("messages:delete", "role:member and project_id:%(project_id)s"),
        ];
        let text: String = rules.map(|(name, rule)| format!("{name}: \"{rule}\"\n")).concat();
        fs::write(dir.path().join("policy.yaml"), text).unwrap();
        let permissions = Permissions::load(files(&dir)).unwrap();
        let allows = |caller: &Context, rule, name| {
            let queue = QueueRef { kind: Kind::Queue, name: QueueName::new(name).unwrap() };
            permissions.check(caller, rule, &Facts::of(&GetQueue { queue })).is_ok()
        };
        let (member, reader) = (&with_roles(&["member"])[1], &with_roles(&["reader"])[1]);
        let other = Context { project: ProjectId::new("other").unwrap(), ..member.clone() };
        for _ in 0..2 {
            for (name, is_one) in [("one", true), ("two", false)] {
                assert_eq!(allows(member, "messages:get", name), is_one);
                assert_eq!(allows(member, "messages:get_all", name), is_one);
                assert_eq!(allows(member, "messages:create", name), !is_one);
                assert!(allows(member, "messages:delete", name));
                assert!(!allows(reader, "messages:delete", name));
                assert!(!allows(&other, "messages:delete", name));
            }
        }
        let Authentication::Token(identity) = &member.authentication else { unreachable!() };
        let remembered = |rule: &str| {
            let number = DEFAULTS.iter().position(|default| default.name == rule).unwrap();
            // Versions are numbers from 1 on, one for all rules that this process read.
            (1..1000).find_map(|version| identity.attributes.decision(version, number))
        };
        assert_eq!(remembered("messages:delete"), Some(true));
        for rule in ["messages:get", "messages:get_all", "messages:create"] {
            assert_eq!(remembered(rule), None, "{rule}");
        }
    }

    #[test]
    fn quotas_are_those_of_the_project_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let rules: String = ["get", "update", "delete"]
            .map(|one| format!("quotas:{one}: role:admin or project_id:%(project_id)s\n"))
            .concat();
        fs::write(dir.path().join("policy.yaml"), rules).unwrap();
        let permissions = Permissions::load(files(&dir)).unwrap();
        let callers = with_roles(&["member"]).into_iter().zip([false, false]);
        for (caller, is_admin) in callers.chain(with_roles(&["admin"]).into_iter().zip([true; 2])) {
            for named in ["p", "other"] {
                let project = ProjectId::new(named).unwrap();
                let set = SetQuotas { project: project.clone(), quotas: Map::new() };
                let unset = UnsetQuotas { project: project.clone() };
                let get = GetQuotas { project };
                for facts in [Facts::of(&get), Facts::of(&set), Facts::of(&unset)] {
                    let checked = permissions.check(&caller, facts.rule().unwrap(), &facts);
                    assert_eq!(checked.is_ok(), is_admin || named == "p", "{named}: {facts:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_starts_with_rules_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("policy.yaml"), "- no\n").unwrap();
        assert!(Permissions::load(files(&dir)).is_err());
    }
}
