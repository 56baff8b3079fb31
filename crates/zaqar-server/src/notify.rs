//! Deliveries to subscribers: the workers, configured from the settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use zaqar_api::{Context, Error, Keyring, Part, Subscribers, TrustRequest};
use zaqar_core::delivery::{
    BeginRecovery, Delivery, DeliveryQuery, Recovery, RecoveryId, RecoveryRange, Redelivery,
    SubscriberHealth,
};
use zaqar_core::storage::Error as StorageError;
use zaqar_core::{
    Clock, MemoryBudget, MessageId, Payload, ProjectId, QueueKey, Secret, StateLog, SubscriptionId,
};
use zaqar_notify::address::Networks;
use zaqar_notify::delivery_options::DeliveryOptions;
use zaqar_notify::destination::Bounds;
use zaqar_notify::fairness::Limits;
use zaqar_notify::filter::Filter;
use zaqar_notify::http::{self, Roots, WebhookClient};
use zaqar_notify::mail::{self, Mail, Security, Smtp, Template};
use zaqar_notify::retry::Tail;
use zaqar_notify::signature::Scheme;
use zaqar_notify::trust::{self, PlainHosts, Trusts};
use zaqar_notify::webhook::{check_post_data, request_headers};
use zaqar_notify::{Channel, Cipher, Handle, Options, Parts, Webhooks, Workers};

use crate::announce::Integrations;
use crate::config::{MailTemplate, Mailer, Notification, Settings, SmtpSecurity};
use crate::error::StartError;
use crate::store::Stores;
use crate::trusts::Trustee;

/// Channels by the scheme of their subscribers.
type Channels = BTreeMap<String, Arc<dyn Channel>>;

/// Checks what [`Deliveries::new`] reads: certificates for webhooks, mail and trusts.
///
/// # Errors
/// The first of them that cannot be read.
pub(crate) fn check(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<(), StartError> {
    WebhookClient::new(&client_options(&settings.notification))?;
    Mail::new(mail_options(&settings.notification), &MemoryBudget::default())?;
    TrustRules::new(settings, clock)?;
    Ok(())
}

/// Why no subscriber gets a message, if the settings are such that none does.
pub(crate) fn missing_signing_key(settings: &Settings) -> Option<&'static str> {
    let is_missing =
        settings.notification.require_confirmation && settings.signed_url_key.is_none();
    is_missing.then_some(
        "[notification] require_confirmation is set, and [signed_url] secret_key is not: no \
         subscriber can be asked to confirm, so none gets a message",
    )
}

/// Which subscribers and options are accepted.
#[derive(Clone)]
pub(crate) struct SubscriberRules {
    client: WebhookClient,
    trusts: TrustRules,
    added: Channels,
}

/// The workers of this server, and what checks subscribers.
pub(crate) struct Deliveries {
    workers: Workers,
    rules: SubscriberRules,
    default_ttl: u64,
    requires_confirmation: bool,
}

/// The trustee, and the hosts that tokens may be sent to without TLS.
#[derive(Clone)]
struct TrustRules {
    trustee: Option<Arc<Trustee>>,
    plain_hosts: PlainHosts,
}

impl Deliveries {
    /// Makes them; nothing runs yet. The channels that were `added` serve schemes that are not
    /// served here. Requests in flight are charged to `memory`.
    ///
    /// # Errors
    /// Certificates for webhooks or Keystone cannot be read.
    pub(crate) fn new(
        settings: &Settings,
        stores: &Stores,
        clock: &Arc<dyn Clock>,
        keyring: Option<Arc<Keyring>>,
        integrations: Integrations,
        added: Channels,
        memory: &MemoryBudget,
    ) -> Result<Self, StartError> {
        let notification = &settings.notification;
        let rules = SubscriberRules::new(settings, clock, added)?;
        let webhooks = Webhooks::new(rules.client.clone(), memory);
        let acting = rules.trusts.channel(&webhooks);
        let webhooks: Arc<dyn Channel> = Arc::new(webhooks);
        let mail: Arc<dyn Channel> = Arc::new(Mail::new(mail_options(notification), memory)?);
        let mut channels = rules.added.clone();
        channels.insert("mailto".to_owned(), mail);
        channels.extend(["http", "https"].map(|one| (one.to_owned(), Arc::clone(&webhooks))));
        for scheme in ["trust+http", "trust+https"] {
            channels.extend(acting.clone().map(|acting| (scheme.to_owned(), acting)));
        }
        if let Some(problem) = missing_signing_key(settings) {
            error!("{problem}");
        }
        let parts = Parts {
            management: Arc::clone(&stores.management),
            messages: Arc::clone(&stores.messages),
            clock: Arc::clone(clock),
            channels,
            bodies: Arc::new(Bodies { keyring }),
            directory: integrations.directory(),
            events: Some(integrations.event_poster),
        };
        let options =
            Options { signing_key: settings.signed_url_key.clone(), ..options(notification) };
        let default_ttl = settings.limits.default_subscription_ttl;
        let requires_confirmation = options.require_confirmation;
        let workers = Workers::new(parts, options);
        Ok(Self { workers, rules, default_ttl, requires_confirmation })
    }

    /// A handle to control the workers.
    pub(crate) fn handle(&self) -> Handle {
        self.workers.handle()
    }

    /// The layer for the API.
    pub(crate) fn subscribers(&self) -> Arc<dyn Subscribers> {
        Arc::new(SubscriberLayer {
            handle: self.workers.handle(),
            rules: self.rules.clone(),
            default_ttl: self.default_ttl,
            requires_confirmation: self.requires_confirmation,
            not_asked: StateLog::new(),
            not_resumed: StateLog::new(),
            not_removed: StateLog::new(),
        })
    }

    /// Delivers until `shutdown`.
    pub(crate) fn run(self, shutdown: CancellationToken) -> impl Future<Output = ()> + Send {
        self.workers.run(shutdown)
    }
}

impl TrustRules {
    fn new(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Self, StartError> {
        let trustee = settings.access.trustee.clone();
        let trustee = trustee.map(|options| Trustee::new(options, clock)).transpose()?;
        let plain_hosts = PlainHosts::new(settings.notification.trust_http_hosts.clone());
        Ok(Self { trustee: trustee.map(Arc::new), plain_hosts })
    }

    fn channel(&self, webhooks: &Webhooks) -> Option<Arc<dyn Channel>> {
        let trustee = Arc::clone(self.trustee.as_ref()?);
        Some(Arc::new(Trusts::new(webhooks.clone(), trustee, self.plain_hosts.clone())))
    }

    fn trustee(&self) -> Result<&Trustee, String> {
        self.trustee.as_deref().ok_or_else(|| {
            "Subscribers of the types trust+http and trust+https are not served: this server \
             makes no Keystone trusts, as [trustee] is not set."
                .to_owned()
        })
    }
}

fn number(option: u64) -> usize {
    usize::try_from(option).unwrap_or(usize::MAX)
}

fn client_options(notification: &Notification) -> http::Options {
    http::Options {
        networks: Networks::allowing(notification.allow_networks.clone()),
        connect_timeout: notification.connect_timeout,
        timeout: notification.timeout,
        max_kept: 2 * number(notification.max_workers),
        max_kept_per_project: 2 * number(notification.max_per_project),
        roots: notification.ca_file.clone().map_or(Roots::System, Roots::File),
        ..http::Options::default()
    }
}

fn mail_options(notification: &Notification) -> mail::Options {
    let template = |template: &MailTemplate| Template {
        topic: template.topic.clone(),
        body: template.body.clone(),
        sender: template.sender.clone(),
    };
    let mailer = match &notification.mailer {
        Mailer::Command(command) => mail::Mailer::Command(command.clone()),
        Mailer::Smtp { host, port, user, password, security } => mail::Mailer::Smtp(Smtp {
            host: host.clone(),
            port: *port,
            login: user.clone().zip(password.clone()),
            security: match security {
                SmtpSecurity::Tls => Security::Tls,
                SmtpSecurity::StartTls => Security::StartTls,
                SmtpSecurity::None => Security::None,
            },
            ca_file: notification.ca_file.clone(),
        }),
    };
    mail::Options {
        mailer,
        confirmation: template(&notification.confirmation_mail),
        unsubscription: template(&notification.unsubscribe_mail),
        confirmation_url: notification.external_confirmation_url.clone(),
        timeout: notification.timeout,
    }
}

fn options(notification: &Notification) -> Options {
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let max_in_flight = count(notification.max_per_destination);
    let defaults = Options::default();
    let destination = Bounds { max_in_flight, ..defaults.limits.destination };
    let limits = Limits {
        in_flight: count(notification.max_workers),
        per_project: count(notification.max_per_project),
        destination,
        ..Limits::default()
    };
    let total = notification.extended_retry_time;
    let tail = (!total.is_zero()).then(|| Tail { total, ..Tail::default() });
    let require_confirmation = notification.require_confirmation;
    let log = number(notification.log);
    let log_time = notification.log_time;
    Options { limits, require_confirmation, tail, log, log_time, ..defaults }
}

/// Encrypts and decrypts with the server's keys.
struct Bodies {
    keyring: Option<Arc<Keyring>>,
}

impl Cipher for Bodies {
    fn open(&self, project: &ProjectId, payload: Payload) -> Option<Bytes> {
        match (&payload.sealed_with, &self.keyring) {
            (None, _) => Some(payload.bytes),
            (Some(_), keyring) => keyring.as_ref()?.open_payload(project, payload),
        }
    }

    fn seal(&self, project: &ProjectId, payload: Payload) -> Option<Payload> {
        match &self.keyring {
            None => Some(payload),
            Some(keyring) => keyring.seal_payload(project, payload),
        }
    }
}

struct SubscriberLayer {
    handle: Handle,
    rules: SubscriberRules,
    default_ttl: u64,
    requires_confirmation: bool,
    /// Limit logs about what could not be stored for a request.
    not_asked: StateLog,
    not_resumed: StateLog,
    not_removed: StateLog,
}

impl SubscriberRules {
    /// Those of a configuration, with the channels that were `added`.
    ///
    /// # Errors
    /// Certificates for webhooks or Keystone cannot be read.
    pub(crate) fn new(
        settings: &Settings,
        clock: &Arc<dyn Clock>,
        added: Channels,
    ) -> Result<Self, StartError> {
        let client = WebhookClient::new(&client_options(&settings.notification))?;
        Ok(Self { client, trusts: TrustRules::new(settings, clock)?, added })
    }

    /// As [`Subscribers::check`].
    ///
    /// # Errors
    /// Why it is not accepted, as a sentence.
    pub(crate) fn check(
        &self,
        subscriber: Option<&str>,
        options: Option<&Map<String, Value>>,
    ) -> Result<(), String> {
        if let Some(options) = options {
            request_headers(options).map_err(|error| sentence(&error))?;
            check_post_data(options).map_err(|error| sentence(&error))?;
            DeliveryOptions::parse(options).map_err(|error| sentence(&error))?;
            if let Some(filter) = options.get("filter") {
                Filter::parse(filter).map_err(|error| sentence(&error))?;
            }
        }
        if let Some(webhook) = subscriber.and_then(trust::webhook_of) {
            self.trusts.trustee()?;
            let target = self.client.check(webhook).map_err(|error| sentence(&error))?;
            return self.trusts.plain_hosts.check(&target).map_err(|error| sentence(&error));
        }
        match subscriber {
            Some(subscriber) if is_webhook(subscriber) => {
                self.client.check(subscriber).map_err(|error| sentence(&error))?;
                Ok(())
            }
            Some(subscriber) if has_scheme(subscriber, "mailto") => {
                if has_batch(options) {
                    return Err(
                        "The option batch is for webhooks: a mail has one message.".to_owned()
                    );
                }
                mail::check(Some(subscriber), options)
            }
            Some(subscriber) => self.check_added(subscriber, options),
            None => Ok(()),
        }
    }

    /// Asks the channel that was added for the subscriber's scheme.
    fn check_added(
        &self,
        subscriber: &str,
        options: Option<&Map<String, Value>>,
    ) -> Result<(), String> {
        let scheme = subscriber.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        let Some(channel) = scheme.as_ref().and_then(|scheme| self.added.get(scheme)) else {
            return Ok(());
        };
        channel.origin(subscriber)?;
        if has_batch(options) && !channel.takes_batches() {
            return Err("The option batch is not for subscribers of this type.".to_owned());
        }
        Ok(())
    }
}

impl SubscriberLayer {
    async fn confirm(&self, queue: &QueueKey, id: SubscriptionId, secs: u64, has_ended: bool) {
        let asked = self.handle.confirm(queue, id, secs, has_ended).await;
        log_failure(&self.not_asked, asked, id, "a subscriber could not be asked to confirm");
    }
}

/// Logs a failure of the store, rarely if there are many: requests continue without it.
fn log_failure(
    log: &StateLog,
    done: Result<(), StorageError>,
    id: SubscriptionId,
    what: &'static str,
) {
    if let Err(error) = done
        && let Some(failures) = log.failure()
    {
        let error = &error as &dyn std::error::Error;
        warn!(error, subscription = %id, failures, "{what}");
    }
}

#[async_trait]
impl Subscribers for SubscriberLayer {
    async fn check(
        &self,
        subscriber: Option<&str>,
        options: Option<&Map<String, Value>>,
    ) -> Result<(), String> {
        self.rules.check(subscriber, options)
    }

    async fn trust(&self, context: &Context, request: TrustRequest<'_>) -> Result<String, Error> {
        let trustee = self.rules.trusts.trustee();
        let trustee = trustee.map_err(|reason| Error::Invalid { part: Part::Request, reason })?;
        trustee.trust(context, request).await
    }

    async fn end_trust(&self, context: &Context, id: &str) {
        if let Some(trustee) = &self.rules.trusts.trustee {
            trustee.end(context, id).await;
        }
    }

    async fn make_secret(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        options: &Map<String, Value>,
    ) -> Result<Option<Secret<String>>, Error> {
        let Some(scheme) = scheme(options) else { return Ok(None) };
        Ok(self.handle.make_secret(queue, id, scheme).await?)
    }

    async fn rotate_secret(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        options: &Map<String, Value>,
        grace: u64,
    ) -> Result<Option<Secret<String>>, Error> {
        let Some(scheme) = scheme(options) else { return Ok(None) };
        Ok(self.handle.rotate_secret(queue, id, scheme, grace).await?)
    }

    fn requires_confirmation(&self) -> bool {
        self.requires_confirmation
    }

    async fn deliveries(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        query: &DeliveryQuery,
    ) -> Result<Vec<Delivery>, Error> {
        Ok(self.handle.deliveries(queue, id, query).await?)
    }

    async fn delivery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        message: MessageId,
    ) -> Result<Option<Delivery>, Error> {
        Ok(self.handle.delivery(queue, id, message).await?)
    }

    async fn redeliver(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        message: MessageId,
    ) -> Result<Redelivery, Error> {
        Ok(self.handle.redeliver(queue, id, message).await?)
    }

    async fn recover(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        range: RecoveryRange,
    ) -> Result<BeginRecovery, Error> {
        Ok(self.handle.recover(queue, id, range).await?)
    }

    async fn recovery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        recovery: RecoveryId,
    ) -> Result<Option<Recovery>, Error> {
        Ok(self.handle.recovery(queue, id, recovery).await?)
    }

    async fn cancel_recovery(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        recovery: RecoveryId,
    ) -> Result<bool, Error> {
        Ok(self.handle.cancel_recovery(queue, id, recovery).await?)
    }

    async fn test(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
        body: Payload,
    ) -> Result<MessageId, Error> {
        Ok(self.handle.test(queue, id, body).await?)
    }

    async fn health(
        &self,
        queue: &QueueKey,
        id: SubscriptionId,
    ) -> Result<Option<SubscriberHealth>, Error> {
        Ok(self.handle.health(queue, id).await?)
    }

    async fn resume(&self, queue: &QueueKey, id: SubscriptionId) -> Result<(), Error> {
        Ok(self.handle.resume(queue, id).await?)
    }

    async fn created(&self, queue: &QueueKey, id: SubscriptionId, ttl: u64) {
        self.confirm(queue, id, ttl, false).await;
    }

    async fn confirmed(&self, queue: &QueueKey, id: SubscriptionId, is_confirmed: bool) {
        if !is_confirmed {
            self.confirm(queue, id, self.default_ttl, true).await;
        }
    }

    async fn changed(&self, queue: &QueueKey, id: SubscriptionId) {
        let resumed = self.handle.resume(queue, id).await;
        log_failure(&self.not_resumed, resumed, id, "a subscription could not be resumed");
    }

    async fn deleted(&self, queue: &QueueKey, id: SubscriptionId) {
        let removed = self.handle.remove(queue, id).await;
        let what = "deliveries of a deleted subscription could not be deleted";
        log_failure(&self.not_removed, removed, id, what);
    }
}

/// How webhooks are signed, by options that were checked.
fn scheme(options: &Map<String, Value>) -> Option<Scheme> {
    DeliveryOptions::parse(options).ok()?.signing
}

fn has_batch(options: Option<&Map<String, Value>>) -> bool {
    options.is_some_and(|options| options.get("batch").is_some_and(|batch| !batch.is_null()))
}

fn is_webhook(subscriber: &str) -> bool {
    has_scheme(subscriber, "http") || has_scheme(subscriber, "https")
}

fn has_scheme(subscriber: &str, scheme: &str) -> bool {
    subscriber.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(scheme))
}

/// An error's text in the API's style: it begins with a capital letter and ends with a full stop.
fn sentence(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use zaqar_core::{Kind, MemoryBounds, QueueName, SystemClock};
    use zaqar_storage_testkit::Memory;

    use super::*;
    use crate::Registry;
    use crate::config::{Sources, load};
    use crate::report::RecentErrors;

    #[tokio::test]
    async fn a_store_that_is_away_is_not_logged_for_each_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sources = Sources { files: vec![file.path().to_owned()], ..Sources::default() };
        let settings = load(&sources, &Registry::default().registered()).unwrap().settings;
        let store = Memory::new();
        let shared = Arc::new(store.clone());
        let stores = Stores {
            management: shared.clone(),
            messages: shared,
            is_one: true,
            message_figures: None,
            management_figures: None,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let integrations = Integrations { keystone: None, event_poster: Arc::default() };
        let memory = MemoryBudget::new(MemoryBounds::UNLIMITED);
        let deliveries = Deliveries::new(
            &settings,
            &stores,
            &clock,
            None,
            integrations,
            Channels::new(),
            &memory,
        );
        let layer = deliveries.unwrap().subscribers();
        store.set_away(true);
        let (recent, _guard) = RecentErrors::keep();
        let (project, name) = (ProjectId::new("p").unwrap(), QueueName::new("q").unwrap());
        let queue = QueueKey { project, kind: Kind::Queue, name };
        for number in 0..10 {
            let id = SubscriptionId::new(number);
            layer.changed(&queue, id).await;
            layer.deleted(&queue, id).await;
        }
        let (warnings, _) = recent.counts();
        assert!((1..20).contains(&warnings), "{warnings}");
    }

    #[test]
    fn errors_become_sentences() {
        let error = std::io::Error::other("the option filter is wrong");
        assert_eq!(sentence(&error), "The option filter is wrong.");
    }
}
