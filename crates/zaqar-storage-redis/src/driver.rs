//! The store, and steps on the head of a queue.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use zaqar_core::{Generation, QueueKey, Timestamp, storage};

use crate::config::Options;
use crate::error::{Error, RETRY_AFTER};
use crate::foreign;
use crate::groups::Groups;
use crate::hub::Hub;
use crate::keys::{Keys, Place, Schedule};
use crate::peer::Lane;
use crate::reply::{Outcome, Reply};
use crate::scripts::Script;
use crate::server::{Call, Mode, Server};

/// Pieces of due work that a request does before its own, and pieces it does at all.
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
    pub(crate) groups: Groups,
    /// Where the next sweep begins.
    pub(crate) shard: AtomicUsize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.abort();
    }
}

/// A step on a queue's head.
pub(crate) struct Step {
    pub(crate) script: &'static Script,
    pub(crate) mode: Mode,
    pub(crate) now: Option<Timestamp>,
    pub(crate) lane: Lane,
    /// The caller was counted before: see [`Server::admit`].
    pub(crate) is_admitted: bool,
    pub(crate) arguments: Vec<Vec<u8>>,
}

impl Step {
    /// A step whose answer is small.
    pub(crate) const fn new(
        script: &'static Script,
        mode: Mode,
        now: Option<Timestamp>,
        arguments: Vec<Vec<u8>>,
    ) -> Self {
        Self { script, mode, now, lane: Lane::Quick, is_admitted: false, arguments }
    }
}

/// Where the assumed version stands among a step's arguments, and how many come before its own.
pub(crate) const VERSION: usize = 1;
const HINT: usize = 2;
pub(crate) const OWN: usize = 3;

impl Redis {
    /// Opens a store: connects, and looks at what is there.
    ///
    /// # Errors
    /// See [`Error`]. A server that is away is waited for as long as a request would.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let channel = Keys::new(options.prefix.clone()).channel(options.uri.database);
        let (poll, tasks) = (options.news_poll, options.tasks.clone());
        let groups = Groups::new(options.pending);
        let server = Server::new(options)?;
        foreign::look(&server).await?;
        let hub = Hub::start(server.clone(), channel, poll, tasks);
        Ok(Self { inner: Arc::new(Inner { server, hub, groups, shard: AtomicUsize::new(0) }) })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.inner.server
    }

    /// Does a step on a queue: tells the schedule first where the step asks for that, and comes
    /// again where it is not done at once.
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
                        arguments: &step.arguments,
                        mode: step.mode,
                        now: step.now,
                        project: key.project.as_str(),
                        lane: step.lane,
                        is_admitted: step.is_admitted,
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
                b"lost" => {
                    let lost = "the messages were taken out and the answer that had them was lost";
                    return Err(storage::Error::unavailable(lost));
                }
                b"spent" => return Err(storage::Error::failed("the queue has no positions left")),
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
            self.server().hint(Schedule::Sweeps, key, at).await?;
            step.arguments[HINT] = number(at);
        }
        if !reply.is_empty()
            && let Some(at) = reply.some_number()?
        {
            self.server().hint(Schedule::Deliveries, key, at).await?;
            step.arguments[OWN] = number(at);
        }
        Ok(())
    }
}

/// What steps say that do not ask for more.
const SAID: [&str; 7] = ["done", "none", "exhausted", "exists", "duplicate", "now", "slow"];

/// What every step's arguments begin with.
pub(crate) fn arguments(assumed: Option<Generation>) -> Vec<Vec<u8>> {
    let (incarnation, version) = match assumed {
        Some(assumed) => (digits(assumed.incarnation.get()), digits(assumed.version.get())),
        None => (Vec::new(), Vec::new()),
    };
    vec![incarnation, version, Vec::new()]
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

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}
