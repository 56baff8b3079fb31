#![doc = include_str!("../README.md")]

mod auth;
mod claim;
mod client;
mod error;
mod http;
mod keystone;
mod messages;
mod operations;
mod pages;
mod query;
mod resource;
mod retry;
mod subscriptions;
mod tls;
mod types;

pub mod cloud;
pub mod webhook;
pub mod websocket;

pub use auth::{Auth, SignedUrl};
pub use claim::{Claim, ClaimHandle, ClaimOptions};
pub use client::{Builder, Client};
pub use error::{Error, Refusal};
pub use keystone::{Credentials, Domain, Identity, Named};
pub use resource::{Kind, Purge, Queue, QueueKind, Resource, Topic, TopicKind};
pub use retry::Retries;
pub use subscriptions::SubscriptionHandle;
pub use tls::Tls;
pub use types::{
    Attempt, Body, ClaimId, ClaimInfo, Delivery, DeliveryFilter, DeliverySummary, End, Flavor,
    Health, Id, Listed, ManagedQuotas, Message, MessageId, MessageVolume, MetadataChange,
    NewMessage, NewSubscription, Object, OperationStatus, Pool, PoolChange, PoolDrain, PoolsHealth,
    Popped, QueueEntry, QueueFilter, QueueMove, QueuePage, QueueToMove, QuotaChange, Quotas,
    Recovery, RecoveryId, RecoveryRange, Share, SharedPath, Stats, StoreHealth, Subscribed,
    SubscriberHealth, Subscription, SubscriptionChange, SubscriptionId,
};
pub use zaqar_core::{Secret, Timestamp};
