//! How much may wait for the writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that wait, and their bound.
#[derive(Debug)]
pub(crate) struct Room {
    taken: AtomicUsize,
    bound: usize,
}

/// Bytes that have their room until this is dropped.
#[derive(Debug)]
pub(crate) struct Weight {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    pub(crate) fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), bound })
    }

    /// Room for so many bytes. There always is where nothing waits, so that nothing is too large for ever.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Option<Weight> {
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
                let sum = taken.saturating_add(bytes);
                (taken == 0 || sum <= self.bound).then_some(sum)
            })
            .ok()?;
        Some(Weight { room: Arc::clone(self), bytes })
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_but_one_always_fits() {
        let room = Room::new(10);
        let large = room.take(11).unwrap();
        assert!(room.take(1).is_none());
        drop(large);
        let (six, four) = (room.take(6).unwrap(), room.take(4).unwrap());
        assert!(room.take(1).is_none());
        drop(six);
        assert!(room.take(6).is_some());
        drop(four);
        assert_eq!(room.taken.load(Ordering::Acquire), 0);
    }
}
