//! Addresses that must not be reached.

use std::net::IpAddr;

use zaqar_notify::address::Networks;
use zaqar_notify::http::{Options, Resolve, WebhookClient};
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
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.1"] {
        let target = format!("http://{host}:{port}/");
        assert!(matches!(closed.check(&target), Err(TargetError::Refused(_))), "{host}");
        let target = Target::parse(&target).unwrap();
        let attempt = post(&closed, &target).await;
        assert!(refused(&attempt), "{host}: {attempt:?}");
        assert_eq!(attempt.verdict(), Verdict::Rejected);
    }
    // A name is not told from one that does not exist.
    let named = Target::parse(&format!("http://localhost:{port}/")).unwrap();
    let attempt = post(&closed, &named).await;
    assert!(matches!(attempt, Attempt::Failed(Failure::NoConnection(_))), "{attempt:?}");
    assert_eq!(receiver.connections(), 0);
    assert_eq!(answered(post(&open, &receiver.target()).await).status, 204);
}

/// A tenant cannot tell a name that leads inside from one that does not exist: the same error, the
/// same verdict, and nothing when subscribing.
#[tokio::test]
async fn a_name_that_leads_inside_looks_like_one_that_does_not_exist() {
    let receiver = receiver().await;
    let target = format!("http://rebound.example:{}/", receiver.address.port());
    let mut texts = Vec::new();
    for addresses in [
        vec![],
        vec!["127.0.0.1"],
        vec!["8.8.8.8", "127.0.0.1"],
        vec!["127.0.0.1", "8.8.8.8"],
        vec!["169.254.169.254"],
        vec!["::ffff:127.0.0.1"],
        vec!["64:ff9b::7f00:1"],
    ] {
        let resolver = Fixed(addresses.iter().map(|one| one.parse().unwrap()).collect());
        let client = WebhookClient::with_resolver(&Options::default(), resolver).unwrap();
        let attempt = post(&client, &Target::parse(&target).unwrap()).await;
        assert_eq!(attempt.verdict(), Verdict::Retry(None), "{addresses:?}");
        let Attempt::Failed(failure) = attempt else { panic!("{addresses:?}: {attempt:?}") };
        texts.push(failure.to_string());
        assert!(client.check(&target).is_ok(), "{addresses:?}");
    }
    let client = WebhookClient::with_resolver(&Options::default(), Unresolvable).unwrap();
    let attempt = post(&client, &Target::parse(&target).unwrap()).await;
    let Attempt::Failed(failure) = attempt else { panic!("{attempt:?}") };
    texts.push(failure.to_string());
    texts.dedup();
    let [text] = texts.as_slice() else { panic!("{texts:?}") };
    assert!(text.ends_with("the name leads to no address that webhooks may reach"), "{text}");
    assert_eq!(receiver.connections(), 0);
}

struct Unresolvable;

#[async_trait::async_trait]
impl Resolve for Unresolvable {
    async fn resolve(&self, _: &zaqar_core::ProjectId, _: &str) -> std::io::Result<Vec<IpAddr>> {
        Err(std::io::Error::other("NXDOMAIN from 10.0.0.53"))
    }
}

#[tokio::test]
async fn the_dialled_address_is_the_one_that_was_checked() {
    let receiver = receiver().await;
    let resolver = Fixed(vec!["127.0.0.1".parse().unwrap()]);
    let client = WebhookClient::with_resolver(&options(), resolver).unwrap();
    let target = format!("http://fixed.example:{}/", receiver.address.port());
    assert!(client.check(&target).is_ok());
    assert_eq!(answered(post(&client, &Target::parse(&target).unwrap()).await).status, 204);
}

#[tokio::test]
async fn a_check_lets_pass_what_may_work_later() {
    let nowhere = WebhookClient::with_resolver(&Options::default(), Fixed(Vec::new())).unwrap();
    assert!(nowhere.check("https://new.example/").is_ok());
    assert!(nowhere.check("ftp://new.example/").is_err());
    let target = Target::parse("https://new.example/").unwrap();
    let attempt = post(&nowhere, &target).await;
    assert!(matches!(attempt, Attempt::Failed(Failure::NoConnection(_))), "{attempt:?}");
    let literal = WebhookClient::with_resolver(
        &Options { networks: Networks::default(), ..Options::default() },
        Fixed(Vec::new()),
    )
    .unwrap();
    let found = literal.check("http://[fd00::1]/").unwrap_err();
    assert!(found.to_string().contains("a unique local address"), "{found}");
}
