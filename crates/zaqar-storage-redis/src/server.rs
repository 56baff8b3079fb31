//! Sends calls of scripts to the server: admission, per-project fairness, timeouts and retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis::{Cmd, Pipeline, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use zaqar_core::{QueueKey, Timestamp, storage};

use crate::config::Options;
use crate::envelope::{Attempt, Envelope};
use crate::error::{Error, Failure, RETRY_AFTER};
use crate::health::Health;
use crate::keys::{self, Keys, Schedule, ScriptKeys};
use crate::peer::{Commands, Lane, Request};
use crate::pool::Pool;
use crate::record::Life;
use crate::scripts::{self, Script};
use crate::uri::Servers;

/// The delay before the first retry.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Access to the servers for requests. Background tasks share it.
#[derive(Clone)]
pub(crate) struct Server(Arc<Shared>);

struct Shared {
    pool: Pool,
    keys: Keys,
    options: Options,
    permits: Semaphore,
    is_closing: AtomicBool,
    health: Health,
    /// The layout in which messages are stored: see `layout`.
    layout: AtomicU32,
}

/// The effect of a call. Every call may be repeated: scripts that change something recognise their
/// repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Reads only.
    Read,
    /// Changes something, with the durability that the options require.
    Write,
    /// Changes something that is repaired later if it is lost.
    Background,
}

/// A call of a script.
pub(crate) struct ScriptCall<'a> {
    pub(crate) script: &'static Script,
    pub(crate) keys: &'a ScriptKeys,
    /// Keys of another object that the script uses, on the same server.
    pub(crate) other_keys: Option<&'a ScriptKeys>,
    pub(crate) arguments: &'a [Vec<u8>],
    pub(crate) mode: Mode,
    /// The caller's time, where the script depends on it.
    pub(crate) now: Option<Timestamp>,
    /// The project on whose behalf the call is made.
    pub(crate) project: &'a str,
    pub(crate) lane: Lane,
    /// The caller holds a permit already: see [`Server::admit`].
    pub(crate) is_admitted: bool,
}

impl<'a> ScriptCall<'a> {
    /// A call with one set of keys, no project and no time.
    pub(crate) const fn new(
        script: &'static Script,
        keys: &'a ScriptKeys,
        arguments: &'a [Vec<u8>],
        mode: Mode,
    ) -> Self {
        let (other_keys, now, project, lane) = (None, None, "", Lane::Small);
        Self { script, keys, other_keys, arguments, mode, now, project, lane, is_admitted: false }
    }
}

impl Server {
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        Ok(Self(Arc::new(Shared {
            pool: Pool::new(&options)?,
            keys: Keys::new(options.prefix.clone()),
            permits: Semaphore::new(options.pending.clamp(1, Semaphore::MAX_PERMITS)),
            is_closing: AtomicBool::new(false),
            layout: AtomicU32::new(keys::LAYOUT),
            health: Health::new(options.uri.servers.to_string()),
            options,
        })))
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Where it is, without credentials.
    pub(crate) fn address(&self) -> String {
        self.0.options.uri.servers.to_string()
    }

    /// A failure while the store is opened.
    pub(crate) fn connect_error(&self, failure: Failure) -> Error {
        Error::connect(self.0.options.uri.servers.to_string(), failure)
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.0.options.uri.servers, Servers::Cluster(_))
    }

    /// How far our clock may differ from the server's; `None` for no limit.
    pub(crate) fn max_clock_skew(&self) -> Option<Duration> {
        self.0.options.max_clock_skew
    }

    /// Executes a script.
    pub(crate) async fn run(&self, call: ScriptCall<'_>) -> Result<Value, storage::Error> {
        let _permit = if call.is_admitted { None } else { Some(self.admit()?) };
        self.check_size(call.arguments.iter().map(Vec::len).max().unwrap_or(0))?;
        let (script, is_write) = (call.script, call.mode != Mode::Read);
        match self.attempt(call).await {
            Ok(value) => {
                self.0.health.succeeded(is_write && !script.works_when_full);
                Ok(value)
            }
            Err(failure) => Err(self.report(failure)),
        }
    }

    /// Executes a script that takes no arguments and only reads.
    pub(crate) async fn read_script(
        &self,
        script: &'static Script,
        keys: &ScriptKeys,
    ) -> Result<Value, storage::Error> {
        self.run(ScriptCall::new(script, keys, &[], Mode::Read)).await
    }

    /// Sends a command that reads.
    pub(crate) async fn read(&self, key: &str, command: &Cmd) -> Result<Value, storage::Error> {
        let _permit = self.admit()?;
        self.send(key, command).await.map_err(|failure| self.report(failure))
    }

    /// Sends commands that read a queue, once. `None` if they fail: a script then tells why.
    pub(crate) async fn read_once(
        &self,
        key: &QueueKey,
        lane: Lane,
        commands: Pipeline,
    ) -> Option<Value> {
        let _permit = self.admit().ok()?;
        let keys = self.0.keys.head(key);
        let (mut commands, project) = (Some(commands), key.project.as_str());
        let mut take = |_| Commands::Reads(commands.take().unwrap_or_default());
        let request = Request { key: &keys.key, lane, project, ..Request::plain(&mut take) };
        let answer = self.0.pool.send(request).await.ok()?;
        self.0.health.succeeded(false);
        Some(answer)
    }

    /// Sends a command that is not part of a request: it needs no permit, and it is sent also while
    /// the store is being closed.
    pub(crate) async fn send(&self, key: &str, command: &Cmd) -> Result<Value, Failure> {
        let mut retries = Retries::new(&self.0.options);
        loop {
            let mut make = |_| Commands::One(command.clone());
            let answer = self.0.pool.send(Request { key, ..Request::plain(&mut make) }).await;
            if !retries.wait(&answer).await {
                return answer;
            }
        }
    }

    /// Schedules a queue no later than `at`.
    pub(crate) async fn schedule_by(
        &self,
        schedule: Schedule,
        key: &QueueKey,
        at: u64,
    ) -> Result<(), storage::Error> {
        let tag = keys::tag(key);
        let keys = self.schedule_keys(schedule, keys::shard(&tag));
        let arguments = [tag.into_bytes(), at.to_string().into_bytes()];
        self.run(ScriptCall::new(&scripts::SCHEDULE_BY, &keys, &arguments, Mode::Write)).await?;
        Ok(())
    }

    /// The keys of a shard of a schedule.
    pub(crate) fn schedule_keys(&self, schedule: Schedule, shard: usize) -> ScriptKeys {
        // A script that uses only one key declares only that one.
        ScriptKeys { key: self.0.keys.schedule(schedule, shard), absent: String::new() }
    }

    /// Rejects new requests and waits for those in progress.
    pub(crate) async fn close(&self) {
        self.0.is_closing.store(true, Ordering::Release);
        let all = u32::try_from(self.0.options.pending.max(1)).unwrap_or(u32::MAX);
        // This fails only if the semaphore is closed, which it never is.
        drop(self.0.permits.acquire_many(all).await);
    }

    /// Admits a request; it counts until the permit is dropped.
    pub(crate) fn admit(&self) -> Result<SemaphorePermit<'_>, storage::Error> {
        if self.0.is_closing.load(Ordering::Acquire) {
            return Err(storage::Error::Closed);
        }
        let permit = self.0.permits.try_acquire();
        permit.map_err(|_| storage::Error::Overloaded { retry_after: RETRY_AFTER })
    }

    /// The layout in which messages are stored.
    pub(crate) fn layout(&self) -> u32 {
        self.0.layout.load(Ordering::Relaxed)
    }

    pub(crate) fn set_layout(&self, layout: u32) {
        self.0.layout.store(layout, Ordering::Relaxed);
    }

    /// The layout that the URI asks for.
    pub(crate) fn wanted_layout(&self) -> Option<u32> {
        self.0.options.uri.layout
    }

    /// The life in the record of a message that lives for `ttl` seconds: `None` in the layout
    /// without it, and for lives of more than a century.
    pub(crate) fn life(&self, ttl: u64, is_fresh: bool) -> Option<Life> {
        let secs = u32::try_from(ttl).ok().filter(|_| self.layout() >= keys::LAYOUT_WITH_LIVES)?;
        Some(Life { secs, is_fresh })
    }

    /// Rejects an argument that is larger than the server accepts.
    pub(crate) fn check_size(&self, bytes: usize) -> Result<(), storage::Error> {
        let (size, max) = (bytes as u64, self.0.health.max_bulk());
        if size <= max {
            return Ok(());
        }
        Err(storage::Error::TooLarge { what: "a message or a document", size, max })
    }

    /// Sets the largest argument that the server accepts.
    pub(crate) fn set_max_bulk(&self, bytes: u64) {
        self.0.health.set_max_bulk(bytes);
    }

    /// Converts a failure for the caller and logs a change of the server's state.
    pub(crate) fn report(&self, failure: Failure) -> storage::Error {
        self.0.health.failed(&failure);
        failure.into_storage_error(self.0.options.max_clock_skew)
    }

    async fn attempt(&self, call: ScriptCall<'_>) -> Result<Value, Failure> {
        let options = &self.0.options;
        let timeout = self.0.pool.timeouts().answer;
        let mut envelope = call
            .script
            .takes_envelope
            .then(|| Envelope::new(call.now, options.max_clock_skew, timeout, options.retry_for));
        let mut is_cached = true;
        let mut retries = Retries::new(options);
        loop {
            let attempt = match (call.mode, retries.is_repeat) {
                (Mode::Read, _) => Attempt::Read,
                (_, true) => Attempt::Repeat,
                (_, false) => Attempt::First,
            };
            let mut make = |clock| {
                let envelope = envelope.as_mut().map(|it| it.encode(attempt, clock));
                Commands::One(command(&call, envelope, is_cached))
            };
            let request = Request {
                commands: &mut make,
                key: &call.keys.key,
                is_write: call.mode == Mode::Write,
                lane: call.lane,
                project: call.project,
            };
            let answer = self.0.pool.send(request).await;
            if is_cached && matches!(answer, Err(Failure::NoScript)) {
                is_cached = false;
            } else if !retries.wait(&answer).await {
                return answer;
            }
        }
    }
}

/// The retries of one call, bounded by number and time.
struct Retries {
    /// An earlier attempt may have been executed.
    is_repeat: bool,
    started: Instant,
    retry_for: Duration,
    pause: Duration,
    max_pause: Duration,
    left: u32,
}

impl Retries {
    fn new(options: &Options) -> Self {
        Self {
            is_repeat: false,
            started: Instant::now(),
            retry_for: options.retry_for,
            pause: FIRST_PAUSE,
            max_pause: options.reconnect_sleep.max(FIRST_PAUSE),
            left: options.max_reconnect_attempts,
        }
    }

    /// Waits before the next attempt; `false` if there is none.
    async fn wait<T>(&mut self, answer: &Result<T, Failure>) -> bool {
        match answer {
            Err(Failure::Retryable(_)) => {}
            Err(Failure::Ambiguous(_)) => self.is_repeat = true,
            _ => return false,
        }
        if self.left == 0 || self.started.elapsed() + self.pause >= self.retry_for {
            return false;
        }
        self.left -= 1;
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.max_pause);
        true
    }
}

fn command(call: &ScriptCall<'_>, envelope: Option<Vec<u8>>, is_cached: bool) -> Cmd {
    let ScriptCall { script, keys, other_keys, arguments, .. } = call;
    let mut command = Cmd::new();
    if is_cached {
        command.arg("EVALSHA").arg(&script.digest);
    } else {
        // The node that has the key caches the script.
        command.arg("EVAL").arg(script.text);
    }
    let keys =
        [Some(*keys), *other_keys].into_iter().flatten().flat_map(|it| [&it.key, &it.absent]);
    let keys: Vec<_> = keys.filter(|key| !key.is_empty()).collect();
    command.arg(keys.len()).arg(keys);
    for argument in *arguments {
        command.arg(argument.as_slice());
    }
    if let Some(envelope) = envelope {
        command.arg(envelope);
    }
    command
}
