use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, mpsc};

use super::*;

/// Sends groups, each of which needs a permit, and reports their items.
struct Gate {
    batcher: Batcher<&'static str, u32, (usize, u32)>,
    permits: Arc<Semaphore>,
    sent: mpsc::Sender<Vec<u32>>,
    started: Arc<AtomicUsize>,
}

impl Gate {
    fn new(limits: Limits) -> (Arc<Self>, mpsc::Receiver<Vec<u32>>) {
        let (sent, received) = mpsc::channel(100);
        let batcher = Batcher::new(limits);
        let permits = Arc::new(Semaphore::new(0));
        (Arc::new(Self { batcher, permits, sent, started: Arc::default() }), received)
    }

    fn call(self: &Arc<Self>, key: &'static str, item: u32) -> Call {
        let gate = Arc::clone(self);
        tokio::spawn(async move {
            let (permits, sent) = (Arc::clone(&gate.permits), gate.sent.clone());
            let started = Arc::clone(&gate.started);
            let send = move |_, items: Vec<u32>| {
                let (permits, sent) = (Arc::clone(&permits), sent.clone());
                started.fetch_add(1, Ordering::SeqCst);
                async move {
                    permits.acquire().await.unwrap().forget();
                    assert!(!items.contains(&666), "a planted panic");
                    sent.send(items.clone()).await.unwrap();
                    items.iter().map(|item| (items.len(), *item)).collect()
                }
            };
            gate.batcher.submit(key, item, item as usize, send).await
        })
    }

    /// Submits calls one after the other; the first is in flight when the others arrive.
    async fn calls(self: &Arc<Self>, items: &[u32]) -> Vec<Call> {
        let mut calls = Vec::new();
        for item in items {
            calls.push(self.call("q", *item));
            Self::settle().await;
        }
        calls
    }

    /// Lets spawned tasks run until they are blocked.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

type Call = tokio::task::JoinHandle<Result<(usize, u32), Error>>;

const WIDE: Limits = Limits { items: 100, bytes: 1000, waiting: 100 };

#[tokio::test]
async fn waiting_calls_form_one_group_and_each_gets_its_own_answer() {
    let (gate, mut sent) = Gate::new(WIDE);
    let calls = gate.calls(&[1, 2, 3, 4, 5]).await;
    gate.permits.add_permits(2);
    for (item, call) in (1..).zip(calls) {
        let group = if item == 1 { 1 } else { 4 };
        assert_eq!(call.await.unwrap(), Ok((group, item)));
    }
    assert_eq!(sent.recv().await.unwrap(), [1]);
    assert_eq!(sent.recv().await.unwrap(), [2, 3, 4, 5]);
}

#[tokio::test]
async fn groups_are_bounded_in_calls_and_bytes() {
    let (gate, mut sent) = Gate::new(Limits { items: 2, bytes: 10, waiting: 100 });
    let calls = gate.calls(&[1, 2, 3, 4, 9, 1, 50, 2]).await;
    gate.permits.add_permits(100);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    for group in [vec![1], vec![2, 3], vec![4], vec![9, 1], vec![50], vec![2]] {
        assert_eq!(sent.recv().await.unwrap(), group);
    }
}

#[tokio::test]
async fn keys_do_not_wait_for_each_other() {
    let (gate, _sent) = Gate::new(WIDE);
    let calls = [gate.call("a", 1), gate.call("b", 2)];
    Gate::settle().await;
    assert_eq!(gate.started.load(Ordering::SeqCst), 2, "both are in flight");
    gate.permits.add_permits(2);
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn calls_beyond_the_limit_are_rejected_and_dropped_ones_free_their_place() {
    let (gate, mut sent) = Gate::new(Limits { items: 9, bytes: 99, waiting: 2 });
    let mut calls = gate.calls(&[1, 2, 3]).await;
    assert_eq!(gate.call("q", 4).await.unwrap(), Err(Error::Full));
    calls.remove(1).abort();
    Gate::settle().await;
    calls.push(gate.call("q", 5));
    Gate::settle().await;
    gate.permits.add_permits(2);
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
    assert_eq!(sent.recv().await.unwrap(), [1]);
    assert_eq!(sent.recv().await.unwrap(), [3, 5], "the dropped call is not sent");
}

#[tokio::test]
async fn a_caller_that_is_dropped_does_not_stop_its_group() {
    let (gate, mut sent) = Gate::new(WIDE);
    let first = gate.call("q", 1);
    Gate::settle().await;
    first.abort();
    let second = gate.call("q", 2);
    Gate::settle().await;
    gate.permits.add_permits(2);
    assert_eq!(second.await.unwrap(), Ok((1, 2)));
    assert_eq!(sent.recv().await.unwrap(), [1]);
}

#[tokio::test]
async fn a_panic_is_reported_and_the_key_stays_usable() {
    let (gate, _sent) = Gate::new(WIDE);
    let calls = gate.calls(&[666, 1]).await;
    gate.permits.add_permits(9);
    for call in calls {
        assert_eq!(
            call.await.unwrap(),
            Err(Error::Lost),
            "it panicked, or waited behind the panic"
        );
    }
    assert_eq!(gate.call("q", 2).await.unwrap(), Ok((1, 2)));
}
