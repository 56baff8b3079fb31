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

#[tokio::test(start_paused = true)]
async fn a_queue_counts_until_all_who_would_create_it_have_failed() {
    let quotas = quotas();
    let limits = Limits::default().with(Limit::Queues, 1);
    let admit = async |name| quotas.admit_queue(&limits, &key(name)).await;
    let (one, other) = (admit("q").await.unwrap(), admit("q").await.unwrap());
    assert!(!quotas.inner.queues.contains_key(&key("q")), "it is not there");
    drop(one);
    assert!(matches!(admit("r").await, Err(Error::OverQuota { .. })), "the other may create it");
    drop(other);
    Box::new(admit("r").await.unwrap()).settle();
    assert!(matches!(admit("q").await, Err(Error::OverQuota { .. })), "another one is there");
}

#[tokio::test(start_paused = true)]
async fn a_post_that_fails_gives_back_what_it_took() {
    let quotas = quotas();
    let limits = Limits::default().with(Limit::QueueMessages, 2).with(Limit::Bytes, 1000);
    let admit = async |amount| {
        let mut taken = Taken::default();
        let admitted = quotas.admit_messages(&limits, key("q"), amount, &mut taken).await;
        admitted.map(|()| Box::new(taken))
    };
    for _ in 0..3 {
        drop(admit(Amount { messages: 2, bytes: 900 }).await.unwrap());
    }
    admit(Amount { messages: 1, bytes: 10 }).await.unwrap().settle();
    assert_eq!(quotas.counter(&Counted::Queue(key("q"))).bytes_of(1), 10);
    assert!(admit(Amount { messages: 2, bytes: 20 }).await.is_err());
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
        let mut taken = Taken::default();
        let admitted = quotas.admit_messages(&limits, key(name), amount, &mut taken).await;
        admitted.map(|()| Box::new(taken).settle()).is_ok()
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

#[tokio::test]
async fn what_one_server_sets_another_takes_over() {
    let (store, clock) = (Arc::new(Memory::new()), ManualClock::new(Timestamp::from_millis(1)));
    let clock: Arc<dyn Clock> = Arc::new(clock);
    let default = Limits::default().with(Limit::Queues, 10).with(Limit::Messages, 5);
    let options = Options { default, projects_file: None, is_managed: true };
    let load = || Quotas::load(&options, store.clone(), store.clone(), clock.clone()).unwrap();
    let (one, other) = (load(), load());
    let project = ProjectId::new("p").unwrap();
    let set = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap();
    let limit = |quotas: &Quotas, limit| quotas.inner.loaded.load().of(&project).get(limit);
    let holds = one.set_quotas(&project, &set(r#"{"max_queues": 3, "max_messages": 0}"#)).await;
    assert_eq!(holds.unwrap()["max_queues"], 3);
    assert_eq!(limit(&other, Limit::Queues), Some(10), "before it looks");
    other.take_over().await.unwrap();
    assert_eq!(limit(&other, Limit::Queues), Some(3));
    assert_eq!(limit(&other, Limit::Messages), None, "0 is no limit");
    // It stays over what the configuration says after a reload.
    let default = Limits::default().with(Limit::Queues, 20).with(Limit::Subscriptions, 7);
    other.reload(&Options { default, ..options.clone() }).unwrap();
    assert_eq!(limit(&other, Limit::Queues), Some(3));
    assert_eq!(limit(&other, Limit::Subscriptions), Some(7));
    let shown = other.quotas(&project).await.unwrap();
    assert_eq!((shown.len(), &shown["max_subscriptions"]), (8, &Value::from(7)));
    for wrong in [r#"{"max_quees": 1}"#, r#"{"max_queues": -1}"#, r#"{"max_queues": "3"}"#] {
        let answer = one.set_quotas(&project, &set(wrong)).await;
        assert!(matches!(answer, Err(Error::Invalid { .. })), "{wrong}: {answer:?}");
    }
    other.unset_quotas(&project).await.unwrap();
    other.unset_quotas(&project).await.unwrap();
    one.take_over().await.unwrap();
    assert_eq!(limit(&one, Limit::Queues), Some(10));
}

#[tokio::test]
async fn an_earlier_state_that_comes_late_changes_nothing() {
    let (quotas, project) = (quotas(), ProjectId::new("p").unwrap());
    let store = Arc::clone(&quotas.inner.stores.management);
    let set = |value: u64| Map::from_iter([("max_queues".to_owned(), Value::from(value))]);
    let known = Arc::clone(quotas.inner.loaded.load().managed());
    let nothing = Managed::default();
    quotas.unset_quotas(&project).await.unwrap();
    assert!(managed::load(store.as_ref(), None).await.unwrap().is_none(), "it wrote");
    quotas.set_quotas(&project, &set(1)).await.unwrap();
    let early = managed::load(store.as_ref(), None).await.unwrap().unwrap();
    quotas.set_quotas(&project, &set(2)).await.unwrap();
    let holds = || quotas.inner.loaded.load().of(&project).get(Limit::Queues);
    quotas.put(nothing, Some(&known));
    quotas.put(early, Some(&known));
    assert_eq!(holds(), Some(2));
    let now = quotas.inner.loaded.load().managed().generation();
    assert!(managed::load(store.as_ref(), now).await.unwrap().is_none(), "read again");
    quotas.unset_quotas(&ProjectId::new("other").unwrap()).await.unwrap();
    assert_eq!(quotas.inner.loaded.load().managed().generation(), now, "it wrote");
    // The store was restored from a backup.
    let held = Arc::clone(quotas.inner.loaded.load().managed());
    quotas.put(Managed::default(), Some(&held));
    assert_eq!(holds(), None);
}
