//! The token that a connection sent last.

use std::fmt;
use std::hint::black_box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use zaqar_core::Secret;

use crate::Identity;

/// Longer tokens are not remembered.
const MAX_BYTES: usize = 1024;

/// What a connection remembers of the token that it sent last: most send one token with every
/// request, and comparing it costs less than what finds it among those of all connections.
#[derive(Default)]
pub struct LastToken(Mutex<Option<Entry>>);

struct Entry {
    token: Secret<Box<str>>,
    identity: Arc<Identity>,
    until: Instant,
}

impl fmt::Debug for LastToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastToken").finish_non_exhaustive()
    }
}

impl LastToken {
    /// The identity of this token, if it was sent last and its time has not passed. The caller
    /// compares the identity's expiry.
    pub(crate) fn get(&self, token: &str, now: Instant) -> Option<Arc<Identity>> {
        let entry = self.entry();
        let entry = entry.as_ref()?;
        let is_it = is_same(entry.token.expose().as_bytes(), token.as_bytes());
        (is_it && now < entry.until).then(|| Arc::clone(&entry.identity))
    }

    /// Remembers a token until a time, in the place of the one before.
    pub(crate) fn put(&self, token: &str, identity: &Arc<Identity>, until: Instant) {
        let entry = (token.len() <= MAX_BYTES).then(|| Entry {
            token: Secret::new(token.into()),
            identity: Arc::clone(identity),
            until,
        });
        let earlier = std::mem::replace(&mut *self.entry(), entry);
        // Not under the lock.
        drop(earlier);
    }

    fn entry(&self) -> MutexGuard<'_, Option<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares all bytes, wherever the first that differs is: a proxy may send requests of others over
/// the connection, who must not learn by the time how much of a token they guessed.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |bits, (one, other)| bits | (one ^ other));
    one.len() == other.len() && black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use zaqar_core::{Clock, ProjectId, Timestamp};

    use super::*;
    use crate::tests::World;
    use crate::{AuthRequest, Authenticator, Layers, Options, Remembered, TokenError};

    fn identity(user: &str, expires: Timestamp) -> Arc<Identity> {
        let project = ProjectId::new("p").unwrap();
        Arc::new(Identity::new(project, user, Vec::new(), expires))
    }

    /// Knows every token, whose user has its name.
    struct KnowsAll {
        asked: AtomicUsize,
        expires: Timestamp,
        until: Option<Instant>,
    }

    #[async_trait]
    impl Authenticator for KnowsAll {
        async fn authenticate(&self, _: AuthRequest<'_>) -> Result<Arc<Identity>, TokenError> {
            Err(TokenError::Invalid)
        }

        fn remembered(&self, auth: AuthRequest<'_>) -> Option<Remembered> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let identity = identity(auth.user_token?, self.expires);
            Some(Remembered { identity, until: self.until })
        }

        fn challenge(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn the_authenticator_is_asked_for_another_token_or_past_its_time() {
        let (world, now) = (World::new(), Instant::now());
        let expires = world.clock.now().plus_secs(60);
        let server = |until| {
            let knows = Arc::new(KnowsAll { asked: AtomicUsize::new(0), expires, until });
            let authenticator = Some(Arc::clone(&knows) as Arc<dyn Authenticator>);
            let layers = Layers { authenticator, ..Layers::default() };
            (world.server_with(Options { layers, ..Options::default() }), knows)
        };
        let (api, knows) = server(Some(now + Duration::from_secs(3600)));
        let (one, other) = (LastToken::default(), LastToken::default());
        let service = |service| AuthRequest { service_token: service, ..AuthRequest::default() };
        for (connection, token, service_token, asked) in [
            (&one, "a", None, 1),
            (&one, "a", None, 1),
            (&other, "a", None, 2),
            (&other, "b", None, 3),
            (&one, "a", None, 3),
            (&one, "b", None, 4),
            (&one, "b", None, 4),
            // A service's token is never passed over, and an identity with it not kept.
            (&one, "b", Some("s"), 5),
            (&one, "c", Some("s"), 6),
            (&one, "c", None, 7),
        ] {
            let auth = AuthRequest { user_token: Some(token), ..service(service_token) };
            assert_eq!(api.recognize(Some(connection), auth).unwrap().user, token);
            assert_eq!(knows.asked.load(Ordering::Relaxed), asked, "{token}");
        }
        let auth = AuthRequest { user_token: Some("a"), ..AuthRequest::default() };
        // It depends on the request, or its time has passed.
        for until in [None, Some(now)] {
            let (api, knows) = server(until);
            for asked in 1..3 {
                assert!(api.recognize(Some(&one), auth).is_some());
                assert_eq!(knows.asked.load(Ordering::Relaxed), asked, "{until:?}");
            }
        }
        // It has expired, by the clock of the service, which may have been corrected: `other` sent
        // this token last.
        let auth = AuthRequest { user_token: Some("b"), ..AuthRequest::default() };
        world.clock.advance(Duration::from_millis(59_999));
        assert!(api.recognize(Some(&other), auth).is_some());
        world.clock.advance(Duration::from_millis(1));
        for connection in [None, Some(&LastToken::default()), Some(&other)] {
            assert!(api.recognize(connection, auth).is_none());
        }
    }

    #[test]
    fn a_connection_remembers_its_last_token_until_its_time() {
        let of = |user: &str| identity(user, Timestamp::MAX);
        let (last, now) = (LastToken::default(), Instant::now());
        let until = now + Duration::from_secs(10);
        let user = |token: &str, now| last.get(token, now).map(|found| found.user.clone());
        assert_eq!(user("", now), None);
        for token in ["token", "x", &"x".repeat(100), &"x".repeat(MAX_BYTES)] {
            last.put(token, &of(token), until);
            let late = until - Duration::from_nanos(1);
            assert_eq!(user(token, late).as_deref(), Some(token));
            assert_eq!(user(token, until), None);
            for at in 0..token.len() {
                let mut other = token.as_bytes().to_vec();
                other[at] ^= 1;
                assert_eq!(user(str::from_utf8(&other).unwrap(), now), None, "{at}");
            }
            for other in [&token[1..], &token[..token.len() - 1], &format!("{token} "), ""] {
                assert_eq!(user(other, now), None, "{other}");
            }
        }
        let long = "x".repeat(MAX_BYTES + 1);
        last.put(&long, &of("long"), until);
        assert_eq!(user(&long, now), None);
        assert_eq!(user("token", now), None, "another came since");
        last.put("token", &of("u"), until);
        assert!(!format!("{last:?}").contains("token"));
    }
}
