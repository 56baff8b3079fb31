//! The store, and calls of scripts on the head of a queue.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use zaqar_core::{Generation, QueueKey, Timestamp, storage};

use crate::answer_sizes::{self, AnswerSizes};
use crate::broadcaster::Broadcaster;
use crate::config::Options;
use crate::error::{Error, RETRY_AFTER};
use crate::groups::Groups;
use crate::keys::{Keys, Schedule, ScriptKeys};
use crate::peer::Lane;
use crate::reads::Reads;
use crate::reply::{Outcome, Reply};
use crate::scripts::{self, Script};
use crate::server::{Mode, ScriptCall, Server};
use crate::startup;

/// Calls that end due work before a request proceeds anyway, and calls per request in total.
const DUE_ROUNDS: usize = 8;
const MAX_ROUNDS: usize = 10_000;

#[doc = include_str!("docs.md")]
#[derive(Clone)]
pub struct Redis {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) server: Server,
    pub(crate) broadcaster: Arc<Broadcaster>,
    pub(crate) groups: Groups,
    pub(crate) answer_sizes: AnswerSizes,
    pub(crate) reads: Reads,
    /// The shard with which the next sweep begins.
    pub(crate) shard: AtomicUsize,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.broadcaster.abort();
    }
}

/// A call of a script on a queue's head.
pub(crate) struct HeadCall {
    pub(crate) script: &'static Script,
    pub(crate) mode: Mode,
    pub(crate) now: Option<Timestamp>,
    pub(crate) lane: Lane,
    /// The caller holds a permit already: see [`Server::admit`].
    pub(crate) is_admitted: bool,
    pub(crate) arguments: Vec<Vec<u8>>,
}

impl HeadCall {
    /// A call with a small answer.
    pub(crate) const fn new(
        script: &'static Script,
        mode: Mode,
        now: Option<Timestamp>,
        arguments: Vec<Vec<u8>>,
    ) -> Self {
        Self { script, mode, now, lane: Lane::Small, is_admitted: false, arguments }
    }
}

/// Index of the assumed version among a call's arguments, and of the first argument of the script's
/// own.
pub(crate) const VERSION: usize = 1;
const SCHEDULED_AT: usize = 2;
pub(crate) const FIRST_OWN: usize = 3;

impl Redis {
    /// Opens a store: connects, and checks the servers and the stored data.
    ///
    /// # Errors
    /// See [`Error`]. Waits for a server that is unavailable for as long as a request would.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let channel = Keys::new(options.prefix.clone()).channel(options.uri.database);
        let (poll, tasks) = (options.news_poll, options.tasks.clone());
        let groups = Groups::new(options.pending);
        let server = Server::new(options)?;
        startup::check(&server).await?;
        let broadcaster = Broadcaster::start(server.clone(), channel, poll, tasks);
        let (shard, answer_sizes) = (AtomicUsize::new(0), AnswerSizes::default());
        let reads = Reads::default();
        let inner = Inner { server, broadcaster, groups, answer_sizes, reads, shard };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.inner.server
    }

    /// Executes a script on a queue's head. Updates the schedules first if the script requires it,
    /// and calls it again until it is done.
    pub(crate) async fn call_head(
        &self,
        key: &QueueKey,
        call: HeadCall,
    ) -> Result<Outcome, storage::Error> {
        self.call_heads(key, None, call).await
    }

    /// As [`Self::call_head`], for a script that also uses another head.
    pub(crate) async fn call_heads(
        &self,
        key: &QueueKey,
        other_keys: Option<&ScriptKeys>,
        mut call: HeadCall,
    ) -> Result<Outcome, storage::Error> {
        let server = self.server();
        let keys = server.keys().head(key);
        let sizes = returns_messages(call.script).then_some(&self.inner.answer_sizes);
        if let Some(sizes) = sizes.filter(|_| call.lane == Lane::Small) {
            call.lane = sizes.lane(key);
        }
        for round in 1..MAX_ROUNDS {
            let call_now = ScriptCall {
                script: call.script,
                keys: &keys,
                other_keys,
                arguments: &call.arguments,
                mode: call.mode,
                now: call.now,
                project: key.project.as_str(),
                lane: call.lane,
                is_admitted: call.is_admitted,
            };
            let answer = server.run(call_now).await?;
            if let Some(sizes) = sizes {
                sizes.note(key, answer_sizes::size(&answer));
            }
            let mut reply = Reply::new(answer)?;
            let status = match reply.bytes()?.as_slice() {
                b"schedule" => {
                    self.update_schedules(key, &mut call, reply).await?;
                    continue;
                }
                b"retry" => {
                    if round >= DUE_ROUNDS {
                        call.arguments[FIRST_OWN] = b"proceed".to_vec();
                    }
                    continue;
                }
                b"again" => continue,
                b"absent" => return Ok(Outcome::Absent),
                b"stale" => return Ok(Outcome::Stale(reply.generation()?)),
                b"moved" => return Err(reply.moved()?),
                b"lost" => {
                    let lost =
                        "the messages were popped, but the answer that contained them was lost";
                    return Err(storage::Error::unavailable(lost));
                }
                b"no positions" => {
                    return Err(storage::Error::failed("the queue has no positions left"));
                }
                status => STATUSES.into_iter().find(|word| word.as_bytes() == status),
            };
            return match status {
                Some(status) => Ok(Outcome::Answer(status, reply)),
                None => Err(storage::Error::failed("a script answered an unknown status")),
            };
        }
        Err(storage::Error::Overloaded { retry_after: RETRY_AFTER })
    }

    async fn update_schedules(
        &self,
        key: &QueueKey,
        call: &mut HeadCall,
        mut reply: Reply,
    ) -> Result<(), storage::Error> {
        if let Some(at) = reply.some_number()? {
            self.server().schedule_by(Schedule::Sweeps, key, at).await?;
            call.arguments[SCHEDULED_AT] = number(at);
        }
        if !reply.is_empty()
            && let Some(at) = reply.some_number()?
        {
            self.server().schedule_by(Schedule::Deliveries, key, at).await?;
            call.arguments[FIRST_OWN] = number(at);
        }
        Ok(())
    }
}

/// Whether a script answers messages without a bound on their bytes that is small.
fn returns_messages(script: &'static Script) -> bool {
    let all: [&Script; 4] = [&scripts::CLAIM, &scripts::CLAIM_GET, &scripts::GET, &scripts::POP];
    all.into_iter().any(|it| std::ptr::eq(it, script))
}

/// Statuses that scripts answer when they are done.
const STATUSES: [&str; 7] = ["done", "none", "exhausted", "exists", "duplicate", "now", "split"];

/// The arguments that all scripts on a head begin with.
pub(crate) fn arguments(assumed: Option<Generation>) -> Vec<Vec<u8>> {
    let (incarnation, version) = match assumed {
        Some(assumed) => (digits(assumed.incarnation.get()), digits(assumed.version.get())),
        None => (Vec::new(), Vec::new()),
    };
    vec![incarnation, version, Vec::new()]
}

/// A number with leading zeros, so that its string order is its numeric order.
pub(crate) fn digits(number: u64) -> Vec<u8> {
    format!("{number:020}").into_bytes()
}

pub(crate) fn number(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// A time in the encoding of scripts; bounded by the year 287396.
pub(crate) fn time(time: Timestamp) -> Vec<u8> {
    number(time.as_millis().min(LAST_MILLI))
}

/// Seconds as milliseconds in the encoding of scripts.
pub(crate) fn millis(seconds: u64) -> Vec<u8> {
    number(bounded_millis(seconds))
}

/// Seconds as milliseconds in the range of numbers that scripts accept.
pub(crate) fn bounded_millis(seconds: u64) -> u64 {
    seconds.saturating_mul(1000).min(LAST_MILLI)
}

/// The largest integer up to which doubles represent every integer.
const LAST_MILLI: u64 = (1 << 53) - 1;

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}
