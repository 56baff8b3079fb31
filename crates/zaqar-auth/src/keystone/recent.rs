//! The tokens that were used last, in front of the cache of all validated ones: a look-up here
//! costs a lock and two comparisons, and records nothing.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::digest::Digest;
use super::token::Token;

/// Places for tokens. A digest chooses its place, so two tokens that are in use may take turns in
/// one; then the cache behind is asked.
const PLACES: usize = 256;

/// A validated token, and until when it is remembered.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub(super) token: Arc<Token>,
    pub(super) until: Instant,
}

impl Remembered {
    /// A token that is remembered for a time from now on.
    pub(super) fn for_time(token: Arc<Token>, time: Duration) -> Self {
        /// Far enough, and no `Instant` past the last one.
        const MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
        Self { token, until: Instant::now() + time.min(MAX) }
    }
}

/// A token by its digest.
type Entry = (Digest, Remembered);

/// At most [`PLACES`] tokens, none of them past its time.
pub(super) struct Recent {
    places: Box<[Mutex<Option<Entry>>]>,
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

impl Default for Recent {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| Mutex::default()).collect() }
    }
}

impl Recent {
    pub(super) fn get(&self, key: Digest, now: Instant) -> Option<Remembered> {
        match &*self.place(key) {
            Some((kept, remembered)) if *kept == key && now < remembered.until => {
                Some(remembered.clone())
            }
            Some(_) | None => None,
        }
    }

    pub(super) fn put(&self, key: Digest, remembered: Remembered) {
        let earlier = self.place(key).replace((key, remembered));
        // Not under the lock.
        drop(earlier);
    }

    fn place(&self, key: Digest) -> MutexGuard<'_, Option<Entry>> {
        self.places[key.place(PLACES)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::digest::Digester;
    use super::*;

    fn remembered(user: &str, until: Instant) -> Remembered {
        let document =
            json!({"token": {"user": {"id": user}, "expires_at": "2999-01-01T00:00:00Z"}});
        Remembered { token: Arc::new(Token::read(&document).unwrap()), until }
    }

    #[test]
    fn a_token_is_remembered_until_its_time_or_another_takes_its_place() {
        let (recent, digester, now) = (Recent::default(), Digester::default(), Instant::now());
        let until = now + Duration::from_secs(10);
        let keys: Vec<_> = (0..2000).map(|n| digester.digest(&n.to_string())).collect();
        for (n, key) in keys.iter().enumerate() {
            recent.put(*key, remembered(&n.to_string(), until));
            assert_eq!(recent.get(*key, now).unwrap().token.user.id, n.to_string());
            let late = until - Duration::from_nanos(1);
            assert!(recent.get(*key, late).is_some() && recent.get(*key, until).is_none());
        }
        let kept = keys.iter().enumerate().filter_map(|(n, key)| Some((n, recent.get(*key, now)?)));
        let kept: Vec<_> =
            kept.map(|(n, found)| (n.to_string(), found.token.user.id.clone())).collect();
        assert!(kept.len() <= PLACES && kept.iter().all(|(n, user)| n == user));
        assert!(recent.get(digester.digest("never"), now).is_none());
    }
}
