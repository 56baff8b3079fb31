//! Tokens of Keystone, and the catalog.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zaqar_client::{Client, Credentials, Domain, Error, Identity, Named, Secret};

use crate::scripted::{Answer, Scripted};

fn identity() -> Identity {
    let domain = Domain::Name("Default".to_owned());
    Identity::Password {
        user: Named::Name { name: "u".to_owned(), domain: domain.clone() },
        password: Secret::new("p".to_owned()),
        project: Named::Name { name: "demo".to_owned(), domain },
    }
}

/// A Keystone that numbers its tokens and has two regions in its catalog.
pub(crate) async fn keystone(
    service: &str,
    lifetime: &'static str,
) -> (Scripted, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let (count, service) = (Arc::clone(&made), service.to_owned());
    let keystone = Scripted::start(move |_, request| {
        if !request.body.contains("\"p\"") {
            return Some(Answer::new(401, r#"{"error":{"message":"no","title":"Unauthorized"}}"#));
        }
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let endpoint = |region: &str, url: &str| {
            format!(r#"{{"interface":"public","region_id":"{region}","url":"{url}"}}"#)
        };
        let (south, north) = (endpoint("south", "http://127.0.0.1:1"), endpoint("north", &service));
        let body = format!(
            r#"{{"token":{{"expires_at":"{lifetime}","project":{{"id":"17"}},"catalog":[
            {{"type":"messaging","endpoints":[{south},{north}]}}]}}}}"#
        );
        Some(Answer::new(201, &body).with(&format!("X-Subject-Token: token-{number}")))
    })
    .await;
    (keystone, made)
}

pub(crate) fn client(keystone: &Scripted) -> Client {
    let mut credentials = Credentials::new(&keystone.url, identity());
    credentials.region = Some("north".to_owned());
    Client::builder().keystone(credentials).build().unwrap()
}

#[tokio::test]
async fn the_service_is_found_in_the_catalog_and_a_token_is_used_until_it_is_rejected() {
    let service =
        Scripted::start(|number, _| Some(Answer::new(if number == 2 { 401 } else { 204 }, "")))
            .await;
    let (keystone, made) = keystone(&service.url, "2099-01-01T00:00:00.000000Z").await;
    let client = client(&keystone);
    client.ping().await.unwrap();
    client.ping().await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 1);
    client.ping().await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 2);
    let asked = service.asked();
    let tokens: Vec<_> = asked.iter().map(|one| one.header("x-auth-token").unwrap()).collect();
    assert_eq!(tokens, ["token-1", "token-1", "token-1", "token-2"]);
    assert_eq!(keystone.lines()[0], "POST /v3/auth/tokens");
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let service = Scripted::start(|_, _| Some(Answer::new(204, ""))).await;
    let (keystone, made) = keystone(&service.url, "2001-01-01T00:00:00Z").await;
    let client = client(&keystone);
    client.ping().await.unwrap();
    client.ping().await.unwrap();
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_wrong_password_and_a_catalog_without_the_service_are_reported() {
    let service = Scripted::start(|_, _| Some(Answer::new(204, ""))).await;
    let (keystone, _) = keystone(&service.url, "2099-01-01T00:00:00Z").await;
    let mut credentials = Credentials::new(&keystone.url, identity());
    credentials.region = Some("west".to_owned());
    let client = Client::builder().keystone(credentials).build().unwrap();
    let error = client.ping().await.unwrap_err().to_string();
    assert!(error.contains("messaging"), "{error}");

    let secret = Secret::new("wrong".to_owned());
    let identity = Identity::Application { id: Named::Id("c".to_owned()), user: None, secret };
    let credentials = Credentials::new(&keystone.url, identity);
    let client = Client::builder().keystone(credentials).build().unwrap();
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, Error::Keystone { .. }), "{error}");
    assert!(!error.to_string().contains("wrong\""), "{error}");
}

#[tokio::test]
async fn calls_that_wait_for_one_token_get_the_same_error() {
    let keystone = Scripted::start(|_, _| Some(Answer::new(503, "busy"))).await;
    let client = client(&keystone);
    let (one, other) = tokio::join!(client.ping(), client.ping());
    for error in [one.unwrap_err(), other.unwrap_err()] {
        let text = error.to_string();
        assert!(matches!(error, Error::Keystone { .. }) && text.contains("503"), "{text}");
    }
    assert_eq!(keystone.asked().len(), 1);
}
