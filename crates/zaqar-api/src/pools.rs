//! Operations on pools and flavors, and their documents on both transports.

use serde_json::{Map, Value, json};
use zaqar_core::iso8601;
use zaqar_core::limits::DEFAULT_PAGE;
use zaqar_core::pools::{
    self, Flavor, FlavorName, MAX_OPTIONS, MAX_POOLS, MAX_URI, Pool, PoolChange, PoolDrain,
    PoolName, Pools, QueueMove, QueueMoves, masked,
};
use zaqar_core::{Kind, Metadata, ProjectId, QueueKey, QueueName, Secret};

use crate::{
    Api, Change, Context, CreateFlavor, Error, ListFlavors, ListPools, MoveQueue, Part, PoolsRule,
    UpdateFlavor, checked_limit,
};

/// The queue attribute that names a flavor.
const FLAVOR: &str = "_flavor";

impl Api {
    /// The pools and flavors, if they are configured.
    pub(crate) fn pools(&self) -> Result<&dyn Pools, Error> {
        self.inner.pools.as_deref().ok_or(Error::NoPools)
    }

    /// What moves queues between pools.
    pub(crate) fn queue_moves(&self) -> Result<&dyn QueueMoves, Error> {
        self.inner.queue_moves.as_deref().ok_or(Error::NoPools)
    }

    pub(crate) async fn move_queue(
        &self,
        context: &Context,
        request: MoveQueue,
    ) -> Result<(), Error> {
        let MoveQueue { pool, name, kind, project } = request;
        let project = project.unwrap_or_else(|| context.project.clone());
        let key = QueueKey { project, kind, name };
        Ok(self.queue_moves()?.move_queue(&key, &pool, self.inner.clock.now()).await?)
    }

    pub(crate) async fn list_pools(&self, request: ListPools) -> Result<Vec<Pool>, Error> {
        let limit = page(request.limit, self.inner.limits.max_pools_per_page)?;
        Ok(self.pools()?.pools(request.marker.as_deref(), limit).await?)
    }

    pub(crate) async fn list_flavors(
        &self,
        context: &Context,
        request: ListFlavors,
    ) -> Result<Vec<Flavor>, Error> {
        let limit = page(request.limit, self.inner.limits.max_flavors_per_page)?;
        // As with queues, a marker that is not a valid name starts at the beginning.
        let after = request.marker.as_deref().and_then(|marker| FlavorName::new(marker).ok());
        Ok(self.pools()?.flavors(&context.project, after.as_ref(), limit).await?)
    }

    pub(crate) async fn create_flavor(
        &self,
        context: &Context,
        request: CreateFlavor,
    ) -> Result<(), Error> {
        let CreateFlavor { name, pools } = request;
        check_pools(&pools)?;
        let created = self.pools()?.put_flavor(&context.project, &name, &pools).await;
        let describe = |error: &pools::Error| {
            ("Unable to create", format!("Flavor {name} could not be created, error:{error}"))
        };
        created.map(drop).map_err(|error| unable(error, describe))
    }

    pub(crate) async fn update_flavor(
        &self,
        context: &Context,
        request: UpdateFlavor,
    ) -> Result<Flavor, Error> {
        let UpdateFlavor { name, pools } = request;
        check_pools(&pools)?;
        let changed = self.pools()?.change_flavor(&context.project, &name, &pools).await;
        let describe = |error: &pools::Error| {
            ("updatefail", format!("Flavor {name} cant be updated, error:{error}"))
        };
        changed.map_err(|error| unable(error, describe))
    }

    /// Assigns a pool to a queue that is about to be created.
    pub(crate) async fn place(&self, key: &QueueKey, metadata: &Metadata) -> Result<(), Error> {
        let Some(pools) = self.inner.pools.as_deref() else { return Ok(()) };
        let flavor = flavor_of(metadata.as_object().get(FLAVOR))?;
        pools.place(key, flavor.as_ref()).await.map_err(placement_error)
    }

    /// Checks that the flavor exists that a change of metadata names. The queue stays in its pool.
    pub(crate) async fn check_flavors(
        &self,
        context: &Context,
        changes: &[Change],
    ) -> Result<(), Error> {
        let Some(pools) = self.inner.pools.as_deref() else { return Ok(()) };
        let flavors = changes.iter().filter_map(|change| match change {
            Change::Add { attribute, value } | Change::Replace { attribute, value } => {
                (attribute == FLAVOR).then_some(value)
            }
            Change::Remove { .. } => None,
        });
        for value in flavors {
            if let Some(flavor) = flavor_of(Some(value))? {
                pools.flavor(&context.project, &flavor).await.map_err(placement_error)?;
            }
        }
        Ok(())
    }
}

/// The size of a page.
pub(crate) fn page(limit: Option<i64>, max: u64) -> Result<usize, Error> {
    checked_limit(limit, DEFAULT_PAGE, max, |max| {
        Error::request(format!("Limit must be at least 1 and no greater than {max}."))
    })
}

fn flavor_of(value: Option<&Value>) -> Result<Option<FlavorName>, Error> {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => Ok(None),
        Some(Value::String(name)) if name.is_empty() => Ok(None),
        Some(Value::String(name)) => FlavorName::new(name).map(Some).map_err(|error| {
            Error::request(format!("{FLAVOR} must be the name of a flavor: {error}."))
        }),
        Some(_) => Err(Error::request(format!("{FLAVOR} must be the name of a flavor."))),
    }
}

/// Here an unknown flavor makes the request invalid, instead of not found.
fn placement_error(error: pools::Error) -> Error {
    if matches!(error, pools::Error::FlavorNotFound { .. }) {
        return Error::request(error.to_string());
    }
    error.into()
}

fn check_pools(pools: &[PoolName]) -> Result<(), Error> {
    let reason = match pools.len() {
        0 => "Bad Request".to_owned(),
        1..=MAX_POOLS => return Ok(()),
        more => format!("a flavor has at most {MAX_POOLS} pools; {more} are named"),
    };
    Err(PoolsRule::Unable { title: "Unable to create", reason }.into())
}

impl From<PoolsRule> for Error {
    fn from(rule: PoolsRule) -> Self {
        Self::Pools(rule)
    }
}

/// The original's error for a flavor with invalid pools.
fn unable(
    error: pools::Error,
    describe: impl Fn(&pools::Error) -> (&'static str, String),
) -> Error {
    match &error {
        pools::Error::PoolNotFound { .. }
        | pools::Error::CapabilitiesMismatch
        | pools::Error::TooMany { .. } => {
            let (title, reason) = describe(&error);
            PoolsRule::Unable { title, reason }.into()
        }
        pools::Error::FlavorNotFound { .. }
        | pools::Error::Unreachable { .. }
        | pools::Error::UriInUse
        | pools::Error::UriOfMessageStore
        | pools::Error::LastOfFlavor { .. }
        | pools::Error::QueueNotFound { .. }
        | pools::Error::CannotMove { .. }
        | pools::Error::Contended
        | pools::Error::Storage(_) => error.into(),
    }
}

/// The document of a pool, with its URI masked.
pub fn pool_document(pool: &Pool, detailed: bool) -> Map<String, Value> {
    let mut members = vec![
        ("name", json!(pool.name.as_str())),
        ("flavor", json!(pool.flavor.as_ref().map(FlavorName::as_str))),
        ("uri", json!(masked(pool.uri.expose()))),
        ("weight", json!(pool.weight)),
    ];
    if detailed {
        members.push(("options", Value::Object(pool.options.clone())));
    }
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The document of a flavor.
pub fn flavor_document(flavor: &Flavor, detailed: bool) -> Map<String, Value> {
    let pools: Vec<_> = flavor.pools.iter().map(PoolName::as_str).collect();
    let mut members = vec![("name", json!(flavor.name.as_str())), ("pool_list", json!(pools))];
    if detailed {
        let capabilities: Vec<_> = flavor.capabilities.iter().map(|one| one.as_str()).collect();
        members.push(("capabilities", json!(capabilities)));
    }
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Reads the document that registers a pool: `uri` and `weight`, optionally `flavor` and `options`.
///
/// # Errors
/// [`Error::Invalid`] for a member that is missing, unknown or invalid_body.
pub fn read_pool(name: PoolName, document: &Map<String, Value>) -> Result<Pool, Error> {
    let change = read_members(document, &["uri", "weight", "flavor", "options"])?;
    let missing = |name: &str| invalid_body(format!("'{name}' is a required property"));
    Ok(Pool {
        name,
        uri: change.uri.ok_or_else(|| missing("uri"))?,
        weight: change.weight.ok_or_else(|| missing("weight"))?,
        flavor: change.flavor.flatten(),
        options: change.options.unwrap_or_default(),
    })
}

/// Reads the document that changes a pool: at least one of `uri`, `weight`, `flavor`, `options`.
/// Other members are ignored.
///
/// # Errors
/// [`Error::Invalid`] if there is none of them, or an invalid one.
pub fn read_pool_change(document: &Map<String, Value>) -> Result<PoolChange, Error> {
    const MEMBERS: [&str; 4] = ["weight", "uri", "flavor", "options"];
    if !MEMBERS.iter().any(|name| document.contains_key(*name)) {
        return Err(invalid_body(
            "One of `uri`, `weight`, `flavor`, or `options` needs to be specified".to_owned(),
        ));
    }
    read_members(document, &[])
}

/// Reads the pools of a flavor's document.
///
/// # Errors
/// [`Error::Invalid`] if `pool_list` is missing or is not a list of pool names.
pub fn read_pool_list(document: &Map<String, Value>) -> Result<Vec<PoolName>, Error> {
    let list = match document.get("pool_list") {
        None => return Err(invalid_body("`pool_list` needs to be specified".to_owned())),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(invalid_body(format!("pool_list must be a list, not {other}."))),
    };
    let name = |item: &Value| {
        let name = item
            .as_str()
            .ok_or_else(|| invalid_body(format!("{item} is not a valid pool name.")))?;
        PoolName::new(name)
            .map_err(|error| invalid_body(format!("{name:?} is not a valid pool name: {error}.")))
    };
    list.iter().map(name).collect()
}

/// Validates the document that creates a flavor: `pool_list`, optionally `capabilities`, which are
/// ignored and computed from the pools.
///
/// # Errors
/// [`Error::Invalid`], also for unknown members.
pub fn read_flavor(document: &Map<String, Value>) -> Result<Vec<PoolName>, Error> {
    check_known(document, &["pool_list", "capabilities"])?;
    if document.get("capabilities").is_some_and(|value| !value.is_object()) {
        return Err(invalid_body("capabilities must be an object.".to_owned()));
    }
    read_pool_list(document)
}

/// Reads the document that moves a queue to a pool: `queue_name`, perhaps `kind` (`queue` or
/// `topic`) and `project`.
///
/// # Errors
/// [`Error::Invalid`] for a member that is missing, unknown or wrong.
pub fn read_move(pool: PoolName, document: &Map<String, Value>) -> Result<MoveQueue, Error> {
    check_known(document, &["queue_name", "kind", "project"])?;
    let text = |name: &'static str| match document.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(invalid_body(format!("{name} must be a text."))),
    };
    let name = text("queue_name")?;
    let name =
        name.ok_or_else(|| invalid_body("'queue_name' is a required property".to_owned()))?;
    let name =
        QueueName::new(name).map_err(|error| invalid_body(format!("queue_name: {error}.")))?;
    let kind = match text("kind")? {
        None | Some("queue") => Kind::Queue,
        Some("topic") => Kind::Topic,
        Some(_) => return Err(invalid_body("kind must be queue or topic.".to_owned())),
    };
    let project = text("project")?.map(ProjectId::new).transpose();
    let project = project.map_err(|error| invalid_body(format!("project: {error}.")))?;
    Ok(MoveQueue { pool, name, kind, project })
}

/// The document of what a drain has come to.
pub fn drain_document(drain: &PoolDrain) -> Value {
    let pool = |name: &Option<PoolName>| json!(name.as_ref().map(PoolName::as_str));
    let one = |one: &QueueMove| {
        json!({
            "queue_name": one.queue.name.as_str(),
            "kind": one.queue.kind.as_str(),
            "project": one.queue.project.as_str(),
            "from": pool(&one.from),
            "to": pool(&one.to),
            "state": one.state.as_str(),
            "rows": one.rows,
            "began": iso8601::format(one.began),
            "problem": one.problem,
        })
    };
    json!({
        "draining": drain.is_draining,
        "queues_left": drain.queues_left,
        "more": drain.has_more,
        "moves": drain.moves.iter().map(one).collect::<Vec<_>>(),
    })
}

fn check_known(document: &Map<String, Value>, known: &[&str]) -> Result<(), Error> {
    match document.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(invalid_body(format!("{name:?} is not a property of this resource."))),
    }
}

/// Reads members of a pool. Members other than `known` are errors; if `known` is empty, they are
/// ignored.
fn read_members(document: &Map<String, Value>, known: &[&str]) -> Result<PoolChange, Error> {
    if !known.is_empty() {
        check_known(document, known)?;
    }
    let uri = |value: &Value| match value.as_str() {
        Some(uri) if uri.chars().count() <= MAX_URI => Ok(Secret::new(uri.to_owned())),
        _ => Err(invalid_body(format!("uri must be a text of at most {MAX_URI} characters."))),
    };
    let weight = |value: &Value| {
        let weight = value.as_u64().and_then(|weight| u32::try_from(weight).ok());
        weight.ok_or_else(|| {
            invalid_body(format!("weight must be an integer from 0 to {}.", u32::MAX))
        })
    };
    let flavor = |value: &Value| match value.as_str() {
        Some("") => Ok(None),
        Some(name) => FlavorName::new(name).map(Some).map_err(|error| {
            invalid_body(format!("flavor must be the name of a flavor: {error}."))
        }),
        None => Err(invalid_body("flavor must be a text.".to_owned())),
    };
    let options = |value: &Value| match value.as_object() {
        Some(options) if value.to_string().len() <= MAX_OPTIONS => Ok(options.clone()),
        Some(_) => Err(invalid_body(format!("options may have at most {MAX_OPTIONS} bytes."))),
        None => Err(invalid_body("options must be an object.".to_owned())),
    };
    Ok(PoolChange {
        uri: document.get("uri").map(uri).transpose()?,
        weight: document.get("weight").map(weight).transpose()?,
        flavor: document.get("flavor").map(flavor).transpose()?,
        options: document.get("options").map(options).transpose()?,
    })
}

fn invalid_body(reason: String) -> Error {
    Error::Invalid { part: Part::Body, reason }
}
