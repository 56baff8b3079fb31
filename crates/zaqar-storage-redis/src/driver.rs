//! The store, and how a script reaches the server: counted, timed, and repeated where that is harmless.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use zaqar_core::{Generation, QueueKey, Timestamp, storage};

use crate::config::Options;
use crate::connection::{Pool, Request};
use crate::error::{Error, RETRY_AFTER, Trouble};
use crate::foreign;
use crate::keys::{self, Agenda, Keys, Place};
use crate::news::Hub;
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};
use crate::uri::Servers;

/// The first pause before another attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Pieces of due work that a request has done before its own turn, and pieces it has done at all.
const ROUNDS: usize = 8;
const MAX_ROUNDS: usize = 10_000;

#[doc = include_str!("docs.md")]
#[derive(Clone)]
pub struct Redis {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) server: Server,
    pub(crate) hub: Arc<Hub>,
    /// Where the next sweep begins.
    pub(crate) shard: AtomicUsize,
    seen: AtomicU64,
}

/// The server as requests see it. Tasks in the background share it.
#[derive(Clone)]
pub(crate) struct Server(Arc<Line>);

struct Line {
    pool: Pool,
    keys: Keys,
    options: Options,
    permits: Semaphore,
    is_closing: AtomicBool,
    opened: Instant,
    /// When a full server was last spoken of.
    said_full: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.abort();
    }
}

/// Whether a call may be made again where it may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing, or nothing more the second time.
    Harmless,
    /// It is harmless once this argument says that it is a repeat.
    Marked(usize),
    /// It would do more.
    Never,
}

/// A call of a script.
pub(crate) struct Call<'a> {
    pub(crate) script: &'static Script,
    pub(crate) place: &'a Place,
    /// Another that the script works on, on the same server.
    pub(crate) other: Option<&'a Place>,
    pub(crate) arguments: &'a mut [Vec<u8>],
    pub(crate) repeat: Repeat,
    pub(crate) is_write: bool,
}

/// A step on a queue's head.
pub(crate) struct Step {
    pub(crate) script: &'static Script,
    pub(crate) repeat: Repeat,
    pub(crate) is_write: bool,
    pub(crate) arguments: Vec<Vec<u8>>,
}

/// Where the assumed generation and the time stand among a step's arguments, and how many come before its own.
pub(crate) const VERSION: usize = 1;
const HINT: usize = 3;
pub(crate) const OWN: usize = 4;

impl Redis {
    /// Opens a store: connects, and looks at what is there.
    ///
    /// # Errors
    /// See [`Error`]. A server that is away is waited for as long as a request would.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let channel = Keys::new(options.prefix.clone()).channel(options.uri.database);
        let poll = options.news_poll;
        let server = Server::new(options)?;
        foreign::look(&server).await?;
        let hub = Hub::start(server.clone(), channel, poll);
        Ok(Self {
            inner: Arc::new(Inner {
                server,
                hub,
                shard: AtomicUsize::new(0),
                seen: AtomicU64::new(0),
            }),
        })
    }

    /// The time to act at: `now`, or the latest that this store was told. The head remembers it for the other servers.
    pub(crate) fn at(&self, now: Timestamp) -> Timestamp {
        let seen = self.inner.seen.fetch_max(now.as_millis(), Ordering::AcqRel);
        Timestamp::from_millis(seen.max(now.as_millis()))
    }

    pub(crate) fn server(&self) -> &Server {
        &self.inner.server
    }

    /// Does a step on a queue: tells the agenda first where the step asks for that, and comes again where it is not done at once.
    pub(crate) async fn step(&self, key: &QueueKey, step: Step) -> Result<Outcome, storage::Error> {
        self.step_on_both(key, None, step).await
    }

    /// As [`Self::step`], of a script that works on another head, too.
    pub(crate) async fn step_on_both(
        &self,
        key: &QueueKey,
        other: Option<&Place>,
        mut step: Step,
    ) -> Result<Outcome, storage::Error> {
        let server = self.server();
        let place = server.keys().head(key);
        for round in 1..MAX_ROUNDS {
            let mut reply = Reply::new(
                server
                    .run(Call {
                        script: step.script,
                        place: &place,
                        other,
                        arguments: &mut step.arguments,
                        repeat: step.repeat,
                        is_write: step.is_write,
                    })
                    .await?,
            )?;
            let said = match reply.bytes()?.as_slice() {
                b"hint" => {
                    self.hint(key, &mut step, reply).await?;
                    continue;
                }
                b"again" => {
                    if round >= ROUNDS {
                        step.arguments[OWN] = b"go".to_vec();
                    }
                    continue;
                }
                b"absent" => return Ok(Outcome::Absent),
                b"stale" => return Ok(Outcome::Stale(reply.generation()?)),
                said => SAID.into_iter().find(|word| word.as_bytes() == said),
            };
            return match said {
                Some(said) => Ok(Outcome::Said(said, reply)),
                None => Err(storage::Error::failed("a script says what it should not")),
            };
        }
        Err(storage::Error::Overloaded { retry_after: RETRY_AFTER })
    }

    async fn hint(
        &self,
        key: &QueueKey,
        step: &mut Step,
        mut reply: Reply,
    ) -> Result<(), storage::Error> {
        if let Some(at) = reply.some_number()? {
            self.server().hint(Agenda::Sweeps, key, at).await?;
            step.arguments[HINT] = number(at);
        }
        if !reply.is_empty()
            && let Some(at) = reply.some_number()?
        {
            self.server().hint(Agenda::Deliveries, key, at).await?;
            step.arguments[OWN] = number(at);
        }
        Ok(())
    }
}

/// What steps say that do not ask for more.
const SAID: [&str; 6] = ["done", "none", "worn", "exists", "duplicate", "now"];

/// What every step's arguments begin with.
pub(crate) fn arguments(assumed: Option<Generation>, now: Timestamp) -> Vec<Vec<u8>> {
    let (incarnation, version) = match assumed {
        Some(assumed) => (digits(assumed.incarnation.get()), digits(assumed.version.get())),
        None => (Vec::new(), Vec::new()),
    };
    vec![incarnation, version, time(now), Vec::new()]
}

/// A number that compares as a text as it does as a number.
pub(crate) fn digits(number: u64) -> Vec<u8> {
    format!("{number:020}").into_bytes()
}

pub(crate) fn number(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// A time as scripts take it: what lies past the year 287396 is then.
pub(crate) fn time(time: Timestamp) -> Vec<u8> {
    number(time.as_millis().min(LAST_MILLI))
}

/// Seconds as scripts take them.
pub(crate) fn millis(seconds: u64) -> Vec<u8> {
    number(seconds.saturating_mul(1000).min(LAST_MILLI))
}

/// The last whole number before doubles have gaps.
const LAST_MILLI: u64 = (1 << 53) - 1;

impl Server {
    fn new(options: Options) -> Result<Self, Error> {
        Ok(Self(Arc::new(Line {
            pool: Pool::new(&options)?,
            keys: Keys::new(options.prefix.clone()),
            permits: Semaphore::new(options.pending.clamp(1, Semaphore::MAX_PERMITS)),
            is_closing: AtomicBool::new(false),
            opened: Instant::now(),
            said_full: AtomicU64::new(0),
            options,
        })))
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Calls a script, in its turn.
    pub(crate) async fn run(&self, call: Call<'_>) -> Result<Value, storage::Error> {
        let _permit = self.admit()?;
        self.attempt(call).await.map_err(|trouble| self.told(trouble))
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.0.options.uri.servers, Servers::Cluster(_))
    }

    /// Calls a script that needs no arguments and may be called any number of times.
    pub(crate) async fn ask(
        &self,
        script: &'static Script,
        place: &Place,
    ) -> Result<Value, storage::Error> {
        let (arguments, repeat) = (&mut [], Repeat::Harmless);
        self.run(Call { script, place, other: None, arguments, repeat, is_write: false }).await
    }

    /// Sends a command that reads.
    pub(crate) async fn read(&self, key: &str, command: &Cmd) -> Result<Value, storage::Error> {
        let _permit = self.admit()?;
        let send = || Request { command: command.clone(), key, is_write: false };
        self.persist(Repeat::Harmless, |_| self.0.pool.send(send()))
            .await
            .map_err(|trouble| self.told(trouble))
    }

    /// Sends a command that is not a request's: it is not counted, and the end of the store does not keep it back.
    pub(crate) async fn send(&self, key: &str, command: &Cmd) -> Result<Value, Trouble> {
        let send = || Request { command: command.clone(), key, is_write: false };
        self.persist(Repeat::Harmless, |_| self.0.pool.send(send())).await
    }

    /// Sees to it that an agenda looks at a queue at `at` or before.
    pub(crate) async fn hint(
        &self,
        agenda: Agenda,
        key: &QueueKey,
        at: u64,
    ) -> Result<(), storage::Error> {
        let tag = keys::tag(key);
        let place = self.agenda(agenda, keys::shard(&tag));
        let mut arguments = [tag.into_bytes(), number(at)];
        self.run(Call {
            script: &scripts::AGENDA_HINT,
            place: &place,
            other: None,
            arguments: &mut arguments,
            repeat: Repeat::Harmless,
            is_write: true,
        })
        .await?;
        Ok(())
    }

    /// A shard of an agenda, as scripts are told of it.
    pub(crate) fn agenda(&self, agenda: Agenda, shard: usize) -> Place {
        // One key is enough for a script that touches no other.
        Place { key: self.0.keys.agenda(agenda, shard), never: String::new() }
    }

    /// Refuses what comes and waits for what is there.
    pub(crate) async fn close(&self) {
        self.0.is_closing.store(true, Ordering::Release);
        let all = u32::try_from(self.0.options.pending.max(1)).unwrap_or(u32::MAX);
        // It fails only if somebody has closed it: nobody does.
        drop(self.0.permits.acquire_many(all).await);
    }

    fn admit(&self) -> Result<SemaphorePermit<'_>, storage::Error> {
        if self.0.is_closing.load(Ordering::Acquire) {
            return Err(storage::Error::Closed);
        }
        let permit = self.0.permits.try_acquire();
        permit.map_err(|_| storage::Error::Overloaded { retry_after: RETRY_AFTER })
    }

    /// What a trouble is to the caller. An operator hears of a full server now and then, not with every request.
    fn told(&self, trouble: Trouble) -> storage::Error {
        const SECONDS: u64 = 10;
        if let Trouble::Full(error) = &trouble {
            let now = self.0.opened.elapsed().as_secs() / SECONDS + 1;
            if self.0.said_full.swap(now, Ordering::Relaxed) != now {
                tracing::warn!(%error, "Redis is full: posts are refused");
            }
        }
        trouble.into()
    }

    async fn attempt(&self, call: Call<'_>) -> Result<Value, Trouble> {
        let Call { script, place, other, arguments, repeat, is_write } = call;
        let mut is_known = true;
        loop {
            let answer = self
                .persist(repeat, |is_repeat| {
                    if is_repeat && let Repeat::Marked(at) = repeat {
                        arguments[at] = b"again".to_vec();
                    }
                    let command = command(script, place, other, arguments, is_known);
                    self.0.pool.send(Request { command, key: &place.key, is_write })
                })
                .await;
            match answer {
                Err(Trouble::NoScript) if is_known => is_known = false,
                answer => return answer,
            }
        }
    }

    /// Sends until it is done, or cannot be, or may have been and must not be twice.
    async fn persist<F>(
        &self,
        repeat: Repeat,
        mut send: impl FnMut(bool) -> F,
    ) -> Result<Value, Trouble>
    where
        F: Future<Output = Result<Value, Trouble>>,
    {
        let options = &self.0.options;
        let started = Instant::now();
        let (mut pause, mut left, mut is_repeat) =
            (FIRST_PAUSE, options.max_reconnect_attempts, false);
        loop {
            let trouble = match send(is_repeat).await {
                Err(trouble @ Trouble::NotYet(_)) => trouble,
                Err(trouble @ Trouble::Unknown(_)) if repeat != Repeat::Never => {
                    is_repeat = true;
                    trouble
                }
                answer => return answer,
            };
            if left == 0 || started.elapsed() + pause >= options.patience {
                return Err(trouble);
            }
            left -= 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(options.reconnect_sleep.max(FIRST_PAUSE));
        }
    }
}

fn command(
    script: &Script,
    place: &Place,
    other: Option<&Place>,
    arguments: &[Vec<u8>],
    is_known: bool,
) -> Cmd {
    let mut command = Cmd::new();
    if is_known {
        command.arg("EVALSHA").arg(&script.digest);
    } else {
        // The server keeps it, and on the server that has the key.
        command.arg("EVAL").arg(script.text);
    }
    let keys = [Some(place), other].into_iter().flatten().flat_map(|it| [&it.key, &it.never]);
    let keys: Vec<_> = keys.filter(|key| !key.is_empty()).collect();
    command.arg(keys.len()).arg(keys);
    for argument in arguments {
        command.arg(argument.as_slice());
    }
    command
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}
