//! Slots of a Cluster that move while they are in use.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test fails on whatever it does not expect")]

use std::time::Instant;

use zaqar_core::ClaimId;
use zaqar_core::storage::{ClaimRequest, Claimed, Claims, DeadLetters, Guarded, Movable};

use crate::load::{check, under_load};
use crate::servers::Cluster;
use crate::support::{Queue, generation, head, key_of, now, open, options, rand, spread};

#[tokio::test(flavor = "multi_thread")]
async fn slots_of_a_cluster_move() {
    let cluster = &Cluster::start();
    let store = open(options(&cluster.uri())).await;
    let queues = &spread(&store).await;
    let heads: Vec<_> = queues.iter().map(head).collect();
    let record = under_load(queues, |record| async move {
        for head in &heads {
            tokio::task::block_in_place(|| cluster.move_slot(head));
            record.until_served(queues.len(), Instant::now(), true).await;
        }
    })
    .await;
    check(queues, &record).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_move_while_slots_move() {
    const COUNT: usize = 400;
    let cluster = Cluster::start();
    let store = open(options(&cluster.uri())).await;
    let source = Queue::new(&store, "source").await;
    // On different masters, and in projects whose names look like tags.
    let mut dead = source.clone();
    for n in 0.. {
        dead = Queue { key: key_of(&format!("}}{{{n}"), "dead"), generation: generation(), ..dead };
        dead.open().await.expect("it answers");
        if cluster.owner(&head(&dead)) != cluster.owner(&head(&source)) {
            break;
        }
    }
    for n in 0..COUNT {
        source.post(&[&n.to_string()]).await;
    }
    let (claim, _) = source.try_claim(COUNT).await.unwrap();
    store.claim_release(&source.key, claim, now()).await.unwrap();
    let bury = |_| {
        let (source, dead) = (source.clone(), dead.clone());
        tokio::spawn(async move {
            loop {
                match claim_with(&source, &dead).await {
                    Ok(messages) => return assert_eq!(messages, 0),
                    Err(error) => assert!(error.is_retryable(), "{error:?}"),
                }
            }
        })
    };
    let buriers: Vec<_> = (0..4).map(bury).collect();
    tokio::task::block_in_place(|| {
        cluster.move_slot(&head(&source));
        cluster.move_slot(&head(&dead));
    });
    for claimer in buriers {
        claimer.await.expect("a claim ends");
    }
    let mut dead_letters = dead.texts().await;
    dead_letters.sort_by_key(|text| text.parse::<usize>().unwrap());
    assert_eq!(dead_letters, (0..COUNT).map(|n| n.to_string()).collect::<Vec<_>>(), "each once");
    assert_eq!(source.texts().await, [""; 0]);
}

async fn claim_with(source: &Queue, dead: &Queue) -> Result<usize, zaqar_core::storage::Error> {
    let rule = DeadLetters {
        max_claim_count: 1,
        target: dead.key.clone(),
        generation: dead.generation,
        ttl: None,
    };
    let id = ClaimId::new(rand());
    let request =
        ClaimRequest { grace: 60, dead_letters: Some(rule), ..ClaimRequest::new(id, 60, 10) };
    match source.store.claim(&source.key, source.generation, &request, now()).await? {
        Guarded::Done(Claimed::Messages { messages, .. }) => Ok(messages.len()),
        refused => panic!("{refused:?}"),
    }
}

/// A head that goes to a master that is done is found, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_finds_queues_whose_slots_move() {
    let cluster = Cluster::start();
    let store = open(options(&cluster.uri())).await;
    let queues = spread(&store).await;
    for (moved, pages) in queues.iter().zip(1..) {
        let moves = store.moves().expect("a store that moves queues");
        let (mut found, mut cursor, mut page) = (Vec::new(), None, 0);
        loop {
            let (some, next) = moves.heads(cursor, 1).await.expect("a Cluster lists its queues");
            found.extend(some);
            page += 1;
            if page == pages {
                tokio::task::block_in_place(|| cluster.move_slot(&head(moved)));
            }
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        for queue in &queues {
            assert!(found.contains(&queue.key), "{} after page {pages}", queue.key);
        }
    }
}
