//! Quotas over the in-memory store.

use futures_util::FutureExt;
use zaqar_core::{ManualClock, QueueName, Timestamp};
use zaqar_storage_testkit::Memory;

use super::*;

fn quotas() -> Quotas {
    let (store, clock) = (Arc::new(Memory::new()), ManualClock::new(Timestamp::from_millis(1)));
    let (management, messages) = (Arc::clone(&store) as _, store as _);
    Quotas::load(&Options::default(), management, messages, Arc::new(clock)).unwrap()
}

fn key(name: &str) -> QueueKey {
    let (project, name) = (ProjectId::new("p").unwrap(), QueueName::new(name).unwrap());
    QueueKey { project, kind: Kind::Queue, name }
}

#[tokio::test]
async fn a_count_goes_on_without_its_caller() {
    let (quotas, what) = (quotas(), Counted::Queue(key("q")));
    let counter = quotas.counter(&what);
    let asked = quotas.count(&what, &counter, Limits::default()).now_or_never();
    assert!(asked.is_none(), "the caller gave up");
    assert_eq!(counter.age(Instant::now()), Age::Unknown);
    let _turn = counter.counting.lock().await;
    assert_eq!(counter.age(Instant::now()), Age::Fresh);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_a_bounded_time_for_a_count_permit() {
    let (quotas, what) = (quotas(), Counted::Queue(key("q")));
    let others = quotas.inner.counting.acquire_many(AT_ONCE as u32).await.unwrap();
    let counter = quotas.counter(&what);
    let began = Instant::now();
    let asked = quotas.count(&what, &counter, Limits::default()).await;
    assert!(matches!(asked, Err(Error::Overloaded { .. })), "{asked:?}");
    assert_eq!(began.elapsed().as_secs(), COUNT_TIMEOUT.as_secs());
    drop(others);
    quotas.count(&what, &counter, Limits::default()).await.unwrap();
    assert_eq!(counter.age(Instant::now()), Age::Fresh);
}

#[tokio::test]
async fn a_queue_that_was_only_admitted_is_admitted_again() {
    let quotas = quotas();
    let limits = Limits::default().with(Limit::Queues, 1);
    quotas.admit_queue(&limits, &key("q")).await.unwrap();
    assert!(!quotas.inner.queues.contains_key(&key("q")), "it does not exist");
    // As after a second.
    quotas.inner.admitted.invalidate(&key("q"));
    let again = quotas.admit_queue(&limits, &key("q")).await;
    assert!(matches!(again, Err(Error::OverQuota { .. })), "{again:?}");
}

#[tokio::test]
async fn a_rejected_post_leaves_no_trace() {
    let quotas = quotas();
    let limits = Limits::default()
        .with(Limit::QueueMessages, 2)
        .with(Limit::Messages, 3)
        .with(Limit::QueueBytes, 1000);
    let post = async |name, messages| {
        let amount = Amount { messages, bytes: 10 * messages };
        quotas.admit_messages(&limits, key(name), amount).await.is_ok()
    };
    // Exceeds the queue's quota, which leaves the project's count unchanged.
    for _ in 0..3 {
        assert!(!post("q", 3).await);
    }
    assert!(post("q", 2).await);
    // Exceeds the project's quota, which leaves the queue's count unchanged.
    for _ in 0..3 {
        assert!(!post("r", 2).await);
    }
    assert_eq!(quotas.counter(&Counted::Queue(key("r"))).bytes_of(1), 0);
    assert!(post("r", 1).await);
    assert_eq!(quotas.counter(&Counted::Queue(key("r"))).bytes_of(1), 10);
}
