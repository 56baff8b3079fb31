//! Addresses that must not be reached.

use zaqar_notify::address::Networks;
use zaqar_notify::http::{Options, WebhookClient};
use zaqar_notify::outcome::{Attempt, Failure, Verdict};
use zaqar_notify::target::{Target, TargetError};

use crate::receiver::{Fixed, Receiver, answer_all, answered, options, post};

async fn receiver() -> Receiver {
    Receiver::start(|_, stream| answer_all(stream, "HTTP/1.1 204 \r\n\r\n")).await
}

fn refused(attempt: &Attempt) -> bool {
    matches!(attempt, Attempt::Failed(Failure::Refused(_)))
}

#[tokio::test]
async fn an_address_is_refused_unless_it_is_opened() {
    let receiver = receiver().await;
    let port = receiver.address.port();
    let closed = WebhookClient::new(&Options::default()).unwrap();
    let open = WebhookClient::new(&options()).unwrap();
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "2130706433", "localhost"] {
        let target = format!("http://{host}:{port}/");
        let target = Target::parse(&target).unwrap();
        let attempt = post(&closed, &target).await;
        assert!(refused(&attempt), "{host}: {attempt:?}");
        assert_eq!(attempt.verdict(), Verdict::Rejected);
    }
    assert_eq!(receiver.connections(), 0);
    assert_eq!(answered(post(&open, &receiver.target()).await).status, 204);
}

/// The dialled address decides, not the one that was checked on subscribing.
#[tokio::test]
async fn a_name_that_now_leads_inside_is_refused() {
    let receiver = receiver().await;
    let target = format!("http://rebound.example:{}/", receiver.address.port());
    for (addresses, is_refused) in [
        (vec!["127.0.0.1"], true),
        (vec!["8.8.8.8", "127.0.0.1"], true),
        (vec!["127.0.0.1", "8.8.8.8"], true),
        (vec!["169.254.169.254"], true),
        (vec!["::ffff:127.0.0.1"], true),
        (vec!["64:ff9b::7f00:1"], true),
    ] {
        let resolver = Fixed(addresses.iter().map(|one| one.parse().unwrap()).collect());
        let client = WebhookClient::with_resolver(&Options::default(), resolver).unwrap();
        let attempt = post(&client, &Target::parse(&target).unwrap()).await;
        assert_eq!(refused(&attempt), is_refused, "{addresses:?}: {attempt:?}");
        let checked = client.check(&target).await;
        assert_eq!(
            matches!(checked, Err(TargetError::Refused(_))),
            is_refused,
            "{addresses:?}: {checked:?}"
        );
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn the_dialled_address_is_the_one_that_was_checked() {
    let receiver = receiver().await;
    let resolver = Fixed(vec!["127.0.0.1".parse().unwrap()]);
    let client = WebhookClient::with_resolver(&options(), resolver).unwrap();
    let target = format!("http://fixed.example:{}/", receiver.address.port());
    assert!(client.check(&target).await.is_ok());
    assert_eq!(answered(post(&client, &Target::parse(&target).unwrap()).await).status, 204);
}

#[tokio::test]
async fn a_check_lets_pass_what_may_work_later() {
    let nowhere = WebhookClient::with_resolver(&Options::default(), Fixed(Vec::new())).unwrap();
    assert!(nowhere.check("https://new.example/").await.is_ok());
    assert!(nowhere.check("ftp://new.example/").await.is_err());
    let target = Target::parse("https://new.example/").unwrap();
    let attempt = post(&nowhere, &target).await;
    assert!(matches!(attempt, Attempt::Failed(Failure::NoConnection(_))), "{attempt:?}");
    let literal = WebhookClient::with_resolver(
        &Options { networks: Networks::default(), ..Options::default() },
        Fixed(Vec::new()),
    )
    .unwrap();
    let found = literal.check("http://[fd00::1]/").await.unwrap_err();
    assert!(found.to_string().contains("a unique local address"), "{found}");
}
