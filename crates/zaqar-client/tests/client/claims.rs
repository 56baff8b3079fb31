//! Claims: renewed while held, lost when they expire, released when dropped.

use std::time::Duration;

use zaqar_client::{Claim, ClaimOptions, Client, Error, NewMessage, Queue};

use crate::scripted::{Answer, Scripted};
use crate::support::Server;

const CLAIMED: &str = r#"{"messages":[
    {"id":"m1","href":"/v2/queues/q/messages/m1?claim_id=c1","ttl":60,"age":0,"body":1},
    {"id":"m2","href":"/v2/queues/q/messages/m2?claim_id=c1","ttl":60,"age":0,"body":2}]}"#;

fn options() -> ClaimOptions {
    ClaimOptions { renew_every: Some(Duration::from_millis(5)), ..ClaimOptions::default() }
}

/// A server that answers a claim, and each renewal with this status.
async fn server(renewal: u16) -> (Scripted, Queue) {
    let server = Scripted::start(move |_, request| {
        let method = request.line.split(' ').next().unwrap();
        Some(match method {
            "POST" => Answer::new(201, CLAIMED).with("Location: /v2/queues/q/claims/c1"),
            "PATCH" => Answer::new(renewal, ""),
            _ => Answer::new(204, ""),
        })
    })
    .await;
    let queue = Client::new(&server.url, "p").unwrap().queue("q").unwrap();
    (server, queue)
}

#[tokio::test]
async fn a_claim_is_renewed_while_it_is_held_and_released_when_it_is_dropped() {
    let (server, queue) = server(204).await;
    let claim = queue.claim(&options()).await.unwrap().unwrap();
    server.until(|request| request.line == "PATCH /v2/queues/q/claims/c1").await;
    let renewal = server.asked()[1].body.clone();
    assert_eq!(renewal, r#"{"ttl":60,"grace":60}"#);
    assert!(!claim.is_lost());
    claim.delete(&claim.messages()[0].id).await.unwrap();
    drop(claim);
    server.until(|request| request.line == "DELETE /v2/queues/q/claims/c1").await;
    let deleted = "DELETE /v2/queues/q/messages/m1?claim_id=c1";
    assert!(server.lines().iter().any(|line| line == deleted), "{:?}", server.lines());
}

#[tokio::test]
async fn a_claim_whose_messages_are_deleted_is_not_released() {
    let (server, queue) = server(204).await;
    let quiet = ClaimOptions::default();
    let claim = queue.claim(&quiet).await.unwrap().unwrap();
    for message in claim.messages() {
        claim.delete(&message.id).await.unwrap();
    }
    claim.release().await.unwrap();
    assert_eq!(server.asked().len(), 3, "{:?}", server.lines());
}

#[tokio::test]
async fn a_claim_is_lost_if_its_renewal_is_404() {
    let (server, queue) = server(404).await;
    let claim = queue.claim(&options()).await.unwrap().unwrap();
    claim.lost().await;
    assert!(claim.is_lost());
    claim.release().await.unwrap();
    assert!(!server.lines().iter().any(|line| line.starts_with("DELETE")));
}

#[tokio::test]
async fn a_lost_claim_deletes_nothing() {
    let (server, queue) = server(404).await;
    let claim = queue.claim(&options()).await.unwrap().unwrap();
    claim.lost().await;
    let error = claim.delete_all().await.unwrap_err();
    assert!(matches!(error, Error::ClaimLost { .. }) && !error.may_be_done(), "{error}");
    assert!(!server.lines().iter().any(|line| line.starts_with("DELETE")));
}

#[tokio::test]
async fn hold_at_most_may_be_the_longest_duration() {
    let (_server, queue) = server(204).await;
    let options = ClaimOptions { hold_at_most: Duration::MAX, ..options() };
    assert!(!queue.claim(&options).await.unwrap().unwrap().is_lost());
}

#[tokio::test]
async fn a_claim_that_cannot_be_renewed_is_lost_when_it_expires() {
    let (_server, queue) = server(500).await;
    let claim = queue.claim(&ClaimOptions { ttl: 0, ..options() }).await.unwrap().unwrap();
    claim.lost().await;
}

#[tokio::test]
async fn a_claim_expires_while_its_renewal_has_no_answer() {
    let (_server, queue) = server(0).await;
    let claim = queue.claim(&ClaimOptions { ttl: 1, ..options() }).await.unwrap().unwrap();
    // Less than the timeout of a request, 30 s.
    let lost = tokio::time::timeout(Duration::from_secs(25), claim.lost());
    lost.await.expect("the claim is lost when its ttl of 1 s is over");
}

#[tokio::test]
async fn a_claim_is_not_renewed_past_hold_at_most() {
    let (server, queue) = server(204).await;
    let options = ClaimOptions { ttl: 0, hold_at_most: Duration::ZERO, ..options() };
    queue.claim(&options).await.unwrap().unwrap().lost().await;
    assert!(!server.lines().iter().any(|line| line.starts_with("PATCH")));
}

async fn claim(queue: &Queue) -> Option<Claim> {
    queue.claim(&ClaimOptions::default()).await.unwrap()
}

#[tokio::test]
async fn released_messages_can_be_claimed_again() {
    let server = Server::start();
    let queue = server.client().queue("jobs").unwrap();
    let messages = (1..=3).map(|number| NewMessage::new(number).unwrap());
    queue.post(messages).await.unwrap();
    let held = claim(&queue).await.unwrap();
    assert_eq!(held.messages().len(), 3);
    assert!(claim(&queue).await.is_none());
    held.delete(&held.messages()[0].id).await.unwrap();
    held.release().await.unwrap();
    let again = claim(&queue).await.unwrap();
    let bodies: Vec<u32> =
        again.messages().iter().map(|message| message.body.parse().unwrap()).collect();
    assert_eq!(bodies, [2, 3]);
    // A claimed message cannot be deleted without its claim.
    let error = queue.delete_message(&again.messages()[0].id).await.unwrap_err();
    assert_eq!(error.status(), Some(403), "{error}");
}

#[tokio::test]
async fn delete_all_deletes_the_remaining_messages_of_a_claim() {
    let server = Server::with("[transport]\nmessage_delete_with_claim_id = true\n");
    let queue = server.client().queue("jobs").unwrap();
    queue.post((1..=3).map(|number| NewMessage::new(number).unwrap())).await.unwrap();
    let held = claim(&queue).await.unwrap();
    held.delete(&held.messages()[1].id).await.unwrap();
    held.delete_all().await.unwrap();
    assert_eq!(queue.stats().await.unwrap().total, 0);
}
