//! Name resolution.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::Instant;
use zaqar_core::ProjectId;

/// Resolves names.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of a name to which a project sends.
    ///
    /// # Errors
    /// The name does not resolve.
    async fn resolve(&self, project: &ProjectId, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// Concurrent look-ups, at most: each blocks a thread of the runtime's pool.
const LOOKUPS: usize = 64;
/// Of these, of one project: names that no server answers for take the resolver's whole time.
const LOOKUPS_PER_PROJECT: usize = 16;
/// How long a name that did not resolve is not looked up again.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// Names that did not resolve and are remembered, at most.
const MAX_FAILED: usize = 1000;

/// The system's resolver: `/etc/hosts`, DNS and whatever else is configured. 64 names are looked up
/// at once, 16 of them for one project, and each name once at a time for it; one that does not
/// resolve is not looked up again for 5 s.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    lookups: Arc<Lookups>,
}

/// Held during a look-up: the addresses that the last one found, and when it ended.
type Turn = Arc<AsyncMutex<Option<(Instant, Vec<IpAddr>)>>>;

type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

struct Lookups {
    all: Arc<Semaphore>,
    projects: Mutex<HashMap<ProjectId, Arc<Semaphore>>>,
    /// Names that are being looked up, each for one project: one that waits for its share of
    /// look-ups makes no other project wait.
    names: Mutex<HashMap<(ProjectId, String), Turn>>,
    /// Until when names that did not resolve are not looked up.
    failed: Mutex<HashMap<String, Instant>>,
    /// Looks a name up; blocks.
    look_up: Box<LookUp>,
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("all", &self.all).finish_non_exhaustive()
    }
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self::with(|name| {
            let found = (name, 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

impl SystemResolver {
    fn with(look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        let lookups = Lookups {
            all: Arc::new(Semaphore::new(LOOKUPS)),
            projects: Mutex::default(),
            names: Mutex::default(),
            failed: Mutex::default(),
            look_up: Box::new(look_up),
        };
        Self { lookups: Arc::new(lookups) }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, project: &ProjectId, name: &str) -> io::Result<Vec<IpAddr>> {
        let (lookups, name) = (Arc::clone(&self.lookups), name.to_ascii_lowercase());
        lookups.check(&name)?;
        // Whoever waits for the same name has no permit, and needs no look-up of its own.
        let began = Instant::now();
        let mut of_name = lookups.turn_of(project, &name).lock_owned().await;
        if let Some((at, found)) = &*of_name
            && *at >= began
        {
            return Ok(found.clone());
        }
        let of_project = lookups.share(project).acquire_owned().await.map_err(io::Error::other)?;
        let of_all = Arc::clone(&lookups.all).acquire_owned().await.map_err(io::Error::other)?;
        // Others that looked it up meanwhile may have failed.
        lookups.check(&name)?;
        let looking = tokio::task::spawn_blocking(move || {
            // The thread has the permits: it goes on if the caller gives up.
            let _permits = (of_project, of_all);
            let found = (lookups.look_up)(&name);
            match &found {
                Ok(found) => *of_name = Some((Instant::now(), found.clone())),
                Err(_) => lookups.note_failure(name),
            }
            found
        });
        looking.await.map_err(io::Error::other)?
    }
}

impl Lookups {
    fn share(&self, project: &ProjectId) -> Arc<Semaphore> {
        let mut projects = lock(&self.projects);
        if let Some(share) = projects.get(project) {
            return Arc::clone(share);
        }
        projects.retain(|_, share| Arc::strong_count(share) > 1);
        let share = Arc::new(Semaphore::new(LOOKUPS_PER_PROJECT));
        projects.insert(project.clone(), Arc::clone(&share));
        share
    }

    fn turn_of(&self, project: &ProjectId, name: &str) -> Turn {
        let mut names = lock(&self.names);
        let key = (project.clone(), name.to_owned());
        if let Some(turn) = names.get(&key) {
            return Arc::clone(turn);
        }
        names.retain(|_, turn| Arc::strong_count(turn) > 1);
        let turn = Turn::default();
        names.insert(key, Arc::clone(&turn));
        turn
    }

    fn check(&self, name: &str) -> io::Result<()> {
        match lock(&self.failed).get(name) {
            Some(until) if *until > Instant::now() => {
                Err(io::Error::new(io::ErrorKind::NotFound, "it did not resolve seconds ago"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn note_failure(&self, name: String) {
        let (mut failed, now) = (lock(&self.failed), Instant::now());
        if failed.len() >= MAX_FAILED {
            failed.retain(|_, until| *until > now);
        }
        if failed.len() < MAX_FAILED {
            failed.insert(name, now + FAILED_FOR);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::RwLock;

    fn project(name: &str) -> ProjectId {
        ProjectId::new(name).unwrap()
    }

    /// A resolver whose look-ups of `slow…` wait for the lock, and the number of look-ups.
    fn slow(gate: &Arc<RwLock<()>>) -> (SystemResolver, Arc<AtomicUsize>) {
        let (gate, count) = (Arc::clone(gate), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        let resolver = SystemResolver::with(move |name| {
            counted.fetch_add(1, Ordering::SeqCst);
            if name.starts_with("slow") {
                drop(gate.blocking_read());
            }
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        });
        (resolver, count)
    }

    /// Starts look-ups of a project, as many as a project may have in flight, and waits until they
    /// have all of its share.
    async fn start(
        resolver: &SystemResolver,
        count: &AtomicUsize,
    ) -> Vec<tokio::task::JoinHandle<io::Result<Vec<IpAddr>>>> {
        let start = |at| {
            let resolver = resolver.clone();
            let name = format!("slow{at}.example");
            tokio::spawn(async move { resolver.resolve(&project("greedy"), &name).await })
        };
        let slow = (0..64).map(start).collect();
        while count.load(Ordering::SeqCst) < LOOKUPS_PER_PROJECT {
            tokio::task::yield_now().await;
        }
        slow
    }

    #[tokio::test]
    async fn names_of_one_project_delay_those_of_no_other() {
        let gate = Arc::new(RwLock::new(()));
        let (resolver, count) = slow(&gate);
        let closed = gate.write().await;
        let slow = start(&resolver, &count).await;
        // One that waits for its share has its turn at a name that others want.
        let (greedy, waiting) = (project("greedy"), resolver.clone());
        let waiting =
            tokio::spawn(async move { waiting.resolve(&project("greedy"), "quick.example").await });
        while resolver.lookups.turn_of(&greedy, "quick.example").try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        let (quiet, failing) = (project("quiet"), Duration::from_secs(60));
        let quick = resolver.resolve(&quiet, "quick.example");
        let quick = tokio::time::timeout(failing, quick).await.expect("nothing is in its way");
        assert_eq!(quick.unwrap(), [Ipv4Addr::LOCALHOST]);
        assert_eq!(count.load(Ordering::SeqCst), LOOKUPS_PER_PROJECT + 1);
        drop(closed);
        for slow in slow {
            slow.await.unwrap().unwrap();
        }
        waiting.await.unwrap().unwrap();
        assert_eq!(resolver.lookups.all.available_permits(), LOOKUPS);
        // Shares that nobody uses are dropped.
        for at in 0..10 {
            resolver.resolve(&project(&at.to_string()), "quick.example").await.unwrap();
        }
        assert!(lock(&resolver.lookups.projects).len() < 3);
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_for_all_who_wait_for_it() {
        let gate = Arc::new(RwLock::new(()));
        let (resolver, count) = slow(&gate);
        let closed = gate.write().await;
        let greedy = project("greedy");
        let start = |_| {
            let (resolver, greedy) = (resolver.clone(), greedy.clone());
            tokio::spawn(async move { resolver.resolve(&greedy, "slow.example").await })
        };
        let slow: Vec<_> = (0..64).map(start).collect();
        // Each of them waits now.
        while Arc::strong_count(&resolver.lookups.turn_of(&greedy, "slow.example")) < 64 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            resolver.resolve(&greedy, "quick.example").await.unwrap(),
            [Ipv4Addr::LOCALHOST],
            "one name delays no other"
        );
        drop(closed);
        for slow in slow {
            assert_eq!(slow.await.unwrap().unwrap(), [Ipv4Addr::LOCALHOST]);
        }
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_look_up_that_nobody_waits_for_still_counts() {
        let gate = Arc::new(RwLock::new(()));
        let (resolver, count) = slow(&gate);
        let closed = gate.write().await;
        let slow = start(&resolver, &count).await;
        for slow in slow {
            slow.abort();
            assert!(slow.await.unwrap_err().is_cancelled());
        }
        assert_eq!(resolver.lookups.all.available_permits(), LOOKUPS - LOOKUPS_PER_PROJECT);
        assert_eq!(resolver.lookups.share(&project("greedy")).available_permits(), 0);
        drop(closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_does_not_resolve_is_not_looked_up_again_at_once() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let resolver = SystemResolver::with(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Err(io::ErrorKind::TimedOut.into())
        });
        let (one, other) = (project("one"), project("other"));
        for (project, name) in [(&one, "a.example"), (&other, "A.Example"), (&one, "a.example")] {
            resolver.resolve(project, name).await.unwrap_err();
            assert_eq!(count.load(Ordering::SeqCst), 1);
        }
        tokio::time::advance(FAILED_FOR).await;
        resolver.resolve(&one, "a.example").await.unwrap_err();
        assert_eq!(count.load(Ordering::SeqCst), 2);
        for at in 0..MAX_FAILED + 10 {
            resolver.lookups.note_failure(at.to_string());
        }
        assert_eq!(lock(&resolver.lookups.failed).len(), MAX_FAILED);
        tokio::time::advance(FAILED_FOR).await;
        resolver.lookups.note_failure("b.example".to_owned());
        assert_eq!(lock(&resolver.lookups.failed).len(), 1);
    }
}
