//! Helpers that create subscriptions and the leases that they depend on.

use zaqar_core::storage::{NewSubscription, Renewal};
use zaqar_core::{LeaseId, SubscriptionId};

use crate::kit::Kit;

/// A subscription of 300 seconds, with this number as its id.
pub(crate) fn subscription(id: u128, subscriber: &str) -> NewSubscription {
    NewSubscription {
        id: SubscriptionId::new(id),
        subscriber: subscriber.to_owned(),
        ttl: 300,
        options: "{}".to_owned(),
        confirmed: true,
        lease: None,
    }
}

/// A subscription that depends on a lease.
pub(crate) fn on_lease(lease: LeaseId, number: u128) -> NewSubscription {
    let subscriber = format!("websocket:{number}");
    NewSubscription { lease: Some(lease), ttl: 1_000_000, ..subscription(number, &subscriber) }
}

/// Renews a lease for this many seconds from now.
pub(crate) async fn renew(kit: &Kit, lease: LeaseId, secs: u64) -> Renewal {
    let renewal = kit.store().keep_lease(lease, kit.now().plus_secs(secs), kit.now()).await;
    renewal.expect("keep_lease answers")
}

/// Renews a lease for this many seconds from now. Returns whether it was live or created.
pub(crate) async fn keep(kit: &Kit, lease: LeaseId, secs: u64) -> bool {
    renew(kit, lease, secs).await != Renewal::Expired
}
