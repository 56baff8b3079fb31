//! How a call reaches the server: admitted, in turn, timed, and repeated where that is harmless.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use zaqar_core::{QueueKey, Timestamp, storage};

use crate::condition::Conditions;
use crate::config::Options;
use crate::envelope::{Attempt, Envelope};
use crate::error::{Error, RETRY_AFTER, Trouble};
use crate::keys::{self, Keys, Place, Schedule};
use crate::peer::{Lane, Request};
use crate::pool::Pool;
use crate::scripts::{self, Script};
use crate::uri::Servers;

/// The first pause before another attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The servers as requests see them. Tasks in the background share it.
#[derive(Clone)]
pub(crate) struct Server(Arc<Shared>);

struct Shared {
    pool: Pool,
    keys: Keys,
    options: Options,
    permits: Semaphore,
    is_closing: AtomicBool,
    conditions: Conditions,
}

/// What a call does. All calls may be repeated: scripts that change something recognise their
/// repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It reads.
    Read,
    /// It changes something that has to be as safe as the options ask for.
    Write,
    /// It changes what is made good later should it be lost.
    Background,
}

/// A call of a script.
pub(crate) struct Call<'a> {
    pub(crate) script: &'static Script,
    pub(crate) place: &'a Place,
    /// Another that the script works on, on the same server.
    pub(crate) other: Option<&'a Place>,
    pub(crate) arguments: &'a [Vec<u8>],
    pub(crate) mode: Mode,
    /// The caller's time, where the script depends on it.
    pub(crate) now: Option<Timestamp>,
    /// On whose behalf.
    pub(crate) project: &'a str,
    pub(crate) lane: Lane,
    /// The caller was counted before: see [`Server::admit`].
    pub(crate) is_admitted: bool,
}

impl<'a> Call<'a> {
    /// A call that works on one place, for no project, and that no time matters to.
    pub(crate) const fn new(
        script: &'static Script,
        place: &'a Place,
        arguments: &'a [Vec<u8>],
        mode: Mode,
    ) -> Self {
        let (other, now, project, lane) = (None, None, "", Lane::Quick);
        Self { script, place, other, arguments, mode, now, project, lane, is_admitted: false }
    }
}

impl Server {
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        Ok(Self(Arc::new(Shared {
            pool: Pool::new(&options)?,
            keys: Keys::new(options.prefix.clone()),
            permits: Semaphore::new(options.pending.clamp(1, Semaphore::MAX_PERMITS)),
            is_closing: AtomicBool::new(false),
            conditions: Conditions::default(),
            options,
        })))
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.0.options.uri.servers, Servers::Cluster(_))
    }

    /// Calls a script.
    pub(crate) async fn run(&self, call: Call<'_>) -> Result<Value, storage::Error> {
        let _permit = if call.is_admitted { None } else { Some(self.admit()?) };
        self.check_size(call.arguments.iter().map(Vec::len).max().unwrap_or(0))?;
        let (script, is_write) = (call.script, call.mode != Mode::Read);
        match self.attempt(call).await {
            Ok(value) => {
                self.0.conditions.served(is_write && !script.works_when_full);
                Ok(value)
            }
            Err(trouble) => Err(self.told(trouble)),
        }
    }

    /// Calls a script that needs no arguments and only reads.
    pub(crate) async fn ask(
        &self,
        script: &'static Script,
        place: &Place,
    ) -> Result<Value, storage::Error> {
        self.run(Call::new(script, place, &[], Mode::Read)).await
    }

    /// Sends a command that reads.
    pub(crate) async fn read(&self, key: &str, command: &Cmd) -> Result<Value, storage::Error> {
        let _permit = self.admit()?;
        self.send(key, command).await.map_err(|trouble| self.told(trouble))
    }

    /// Sends a command that is not a request's: it is not counted, and the end of the store does
    /// not keep it back.
    pub(crate) async fn send(&self, key: &str, command: &Cmd) -> Result<Value, Trouble> {
        let mut retries = Retries::new(&self.0.options);
        loop {
            let mut make = |_| command.clone();
            let answer = self.0.pool.send(Request { key, ..Request::plain(&mut make) }).await;
            if !retries.wait(&answer).await {
                return answer;
            }
        }
    }

    /// Sees to it that a schedule looks at a queue at `at` or before.
    pub(crate) async fn hint(
        &self,
        schedule: Schedule,
        key: &QueueKey,
        at: u64,
    ) -> Result<(), storage::Error> {
        let tag = keys::tag(key);
        let place = self.schedule(schedule, keys::shard(&tag));
        let arguments = [tag.into_bytes(), at.to_string().into_bytes()];
        self.run(Call::new(&scripts::SCHEDULE_HINT, &place, &arguments, Mode::Write)).await?;
        Ok(())
    }

    /// A shard of a schedule, as scripts are told of it.
    pub(crate) fn schedule(&self, schedule: Schedule, shard: usize) -> Place {
        // One key is enough for a script that touches no other.
        Place { key: self.0.keys.schedule(schedule, shard), never: String::new() }
    }

    /// Refuses what comes and waits for what is there.
    pub(crate) async fn close(&self) {
        self.0.is_closing.store(true, Ordering::Release);
        let all = u32::try_from(self.0.options.pending.max(1)).unwrap_or(u32::MAX);
        // It fails only if somebody has closed it: nobody does.
        drop(self.0.permits.acquire_many(all).await);
    }

    /// Counts a request for as long as the permit lives.
    pub(crate) fn admit(&self) -> Result<SemaphorePermit<'_>, storage::Error> {
        if self.0.is_closing.load(Ordering::Acquire) {
            return Err(storage::Error::Closed);
        }
        let permit = self.0.permits.try_acquire();
        permit.map_err(|_| storage::Error::Overloaded { retry_after: RETRY_AFTER })
    }

    /// Refuses an argument that is larger than the server takes.
    pub(crate) fn check_size(&self, bytes: usize) -> Result<(), storage::Error> {
        let (size, max) = (bytes as u64, self.0.conditions.max_bulk());
        if size <= max {
            return Ok(());
        }
        Err(storage::Error::TooLarge { what: "a message or a document", size, max })
    }

    /// Learns the largest argument that the server takes.
    pub(crate) fn set_max_bulk(&self, bytes: u64) {
        self.0.conditions.set_max_bulk(bytes);
    }

    /// What a trouble is to the caller. An operator hears of it once.
    fn told(&self, trouble: Trouble) -> storage::Error {
        self.0.conditions.failed(&trouble);
        trouble.told(self.0.options.max_clock_skew)
    }

    async fn attempt(&self, call: Call<'_>) -> Result<Value, Trouble> {
        let options = &self.0.options;
        let timeout = self.0.pool.timeouts().answer;
        let mut envelope = call
            .script
            .takes_envelope
            .then(|| Envelope::new(call.now, options.max_clock_skew, timeout, options.retry_for));
        let mut is_known = true;
        let mut retries = Retries::new(options);
        loop {
            let attempt = match (call.mode, retries.is_repeat) {
                (Mode::Read, _) => Attempt::Read,
                (_, true) => Attempt::Repeat,
                (_, false) => Attempt::First,
            };
            let mut make = |clock| {
                let envelope = envelope.as_mut().map(|it| it.encode(attempt, clock));
                command(&call, envelope, is_known)
            };
            let request = Request {
                command: &mut make,
                key: &call.place.key,
                is_write: call.mode == Mode::Write,
                lane: call.lane,
                project: call.project,
            };
            let answer = self.0.pool.send(request).await;
            if is_known && matches!(answer, Err(Trouble::NoScript)) {
                is_known = false;
            } else if !retries.wait(&answer).await {
                return answer;
            }
        }
    }
}

/// Attempts of one call: it goes on until it is done, or cannot be, or has taken too long.
struct Retries {
    /// An attempt may have been carried out.
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

    /// Waits for another attempt, if there is to be one.
    async fn wait<T>(&mut self, answer: &Result<T, Trouble>) -> bool {
        match answer {
            Err(Trouble::NotYet(_)) => {}
            Err(Trouble::Unknown(_)) => self.is_repeat = true,
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

fn command(call: &Call<'_>, envelope: Option<Vec<u8>>, is_known: bool) -> Cmd {
    let Call { script, place, other, arguments, .. } = call;
    let mut command = Cmd::new();
    if is_known {
        command.arg("EVALSHA").arg(&script.digest);
    } else {
        // The server keeps it, and on the server that has the key.
        command.arg("EVAL").arg(script.text);
    }
    let keys = [Some(*place), *other].into_iter().flatten().flat_map(|it| [&it.key, &it.never]);
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
