//! Mail, for subscribers with `mailto:`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, MIME_VERSION_1_0};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tracing::warn;
use zaqar_core::{MemoryBudget, Secret, StateLog};

use crate::channel::{Channel, Outgoing, request_id};
use crate::memory::{RequestMemory, WAIT};
use crate::outcome::{Answer, Attempt, Failure};
use crate::row::Content;
use crate::target::Origin;
use crate::webhook::Notification;

/// Logs what the operator's own mail system answers; tenants are told only that it failed.
static FAILURES: StateLog = StateLog::new();
/// Bytes of a failing command's error output that are logged.
const MAX_ERROR_OUTPUT: usize = 1024;

/// How mail is sent.
#[derive(Debug, Clone)]
pub enum Mailer {
    /// By a program that reads the mail from its standard input: its path and arguments.
    Command(Vec<String>),
    /// By SMTP.
    Smtp(Smtp),
}

/// A mail server.
#[derive(Debug, Clone)]
pub struct Smtp {
    /// Its name or address.
    pub host: String,
    /// Its port; `None` means the default of `security`.
    pub port: Option<u16>,
    /// The user and password to log in with; `None` means no login.
    pub login: Option<(String, Secret<String>)>,
    /// How the connection is protected.
    pub security: Security,
    /// A PEM file of CA certificates that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// TLS after STARTTLS; without it nothing is sent.
    StartTls,
    /// Unprotected.
    None,
}

/// A mail with placeholders: `{0}` is the queue, `{1}` the project, `{2}` the URL.
#[derive(Debug, Clone)]
pub struct Template {
    /// The subject line.
    pub topic: String,
    /// The text.
    pub body: String,
    /// The sender.
    pub sender: String,
}

/// Options of mail.
#[derive(Debug, Clone)]
pub struct Options {
    /// How it is sent.
    pub mailer: Mailer,
    /// The request to confirm a subscription.
    pub confirmation: Template,
    /// The notice that a subscription has ended.
    pub unsubscription: Template,
    /// The page that a request to confirm links to; without it none is sent.
    pub confirmation_url: Option<String>,
    /// The timeout for one mail, including connecting.
    pub timeout: Duration,
}

/// Sends to subscribers with `mailto:`.
pub struct Mail {
    options: Options,
    transport: Transport,
    memory: RequestMemory,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mail").field("options", &self.options).finish_non_exhaustive()
    }
}

enum Transport {
    Command,
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
}

/// Why mail cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// A file of certificates cannot be read.
    #[error("no certificate can be read from {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server's name or TLS settings are invalid.
    #[error("the mail server {host} cannot be used")]
    Server {
        /// Its name.
        host: String,
        /// The cause.
        #[source]
        source: lettre::transport::smtp::Error,
    },
}

impl Mail {
    /// Mail with these options. Mail that is being sent is charged to a budget. Nothing is
    /// connected yet.
    ///
    /// # Errors
    /// [`MailError`].
    pub fn new(options: Options, memory: &MemoryBudget) -> Result<Self, MailError> {
        let transport = match &options.mailer {
            Mailer::Command(_) => Transport::Command,
            Mailer::Smtp(smtp) => Transport::Smtp(Box::new(connect(smtp, options.timeout)?)),
        };
        Ok(Self { options, transport, memory: RequestMemory::new(memory) })
    }

    fn message(&self, outgoing: &Outgoing<'_>) -> Result<Message, String> {
        let to = Address::parse(outgoing.subscriber)?;
        let one = outgoing.messages.first().ok_or("there is no message")?;
        let (from, subject, text) = match one.content {
            Content::Message | Content::Test => {
                let queue = outgoing.queue.name.as_str();
                let notification = Notification { ttl: one.ttl, body: one.body, queue };
                let text = String::from_utf8_lossy(&notification.to_json()).into_owned();
                let option = |name: &str| outgoing.options.get(name).and_then(Value::as_str);
                let from = option("from").unwrap_or(&self.options.confirmation.sender).to_owned();
                let subject = to.subject.or_else(|| option("subject").map(str::to_owned));
                (from, subject.unwrap_or_default(), text)
            }
            Content::Confirmation | Content::Recovery => self.confirmation(one.body)?,
        };
        let from: Mailbox = from.parse().map_err(|error| format!("from {from:?}: {error}"))?;
        let sent = SystemTime::UNIX_EPOCH + Duration::from_millis(outgoing.now.as_millis());
        Message::builder()
            // The same for every attempt, so that mailboxes recognize duplicates.
            .message_id(Some(format!("<{}@{}>", request_id(outgoing), id_domain(&from))))
            .date(sent)
            .from(from)
            .to(to.mailbox)
            .subject(one_line(&subject))
            .header(MIME_VERSION_1_0)
            .header(ContentType::TEXT_PLAIN)
            .body(text)
            .map_err(|error| error.to_string())
    }

    fn confirmation(&self, body: &[u8]) -> Result<(String, String, String), String> {
        let page = self.options.confirmation_url.as_deref();
        let page = page.ok_or("[notification] external_confirmation_url is not configured")?;
        let request: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let member = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
        let template = match member("Message_Type") {
            "UnsubscribeConfirmation" => &self.options.unsubscription,
            _ => &self.options.confirmation,
        };
        let mut url = page.to_owned();
        for (at, (name, value)) in [
            ("Signature", member("URL-Signature")),
            ("Methods", member("URL-Methods")),
            ("Paths", member("URL-Paths")),
            ("Project", member("X-Project-ID")),
            ("Expires", member("URL-Expires")),
            ("Url", member("WSGISubscribeURL")),
            ("Queue", member("queue_name")),
        ]
        .into_iter()
        .enumerate()
        {
            url.push(if at == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        }
        let values = [member("queue_name"), member("X-Project-ID"), &url];
        let text = fill(&template.body, values);
        Ok((template.sender.clone(), template.topic.clone(), text))
    }

    async fn command(&self, command: &[String], mail: &[u8]) -> Result<(), Failure> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| Failure::Unusable("smtp_command is empty".to_owned()))?;
        let failed = |error: std::io::Error| {
            log_failure(&format!("{program}: {error}"));
            Failure::NoConnection("the mail command cannot be run".to_owned())
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that stops reading explains why by its status.
                let _is_read = stdin.write_all(mail).await;
                let _is_closed = stdin.shutdown().await;
            }
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), feed);
        let output = output.map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let said = &output.stderr[..output.stderr.len().min(MAX_ERROR_OUTPUT)];
        let said = String::from_utf8_lossy(said);
        log_failure(&format!("{program}: {}: {}", output.status, said.trim()));
        Err(Failure::NoAnswer(format!("the mail command failed: {}", output.status)))
    }
}

#[async_trait]
impl Channel for Mail {
    fn origin(&self, subscriber: &str) -> Result<Origin, String> {
        Address::parse(subscriber)?;
        Ok(Origin::mail())
    }

    fn takes_batches(&self) -> bool {
        false
    }

    async fn send(&self, outgoing: &Outgoing<'_>) -> Attempt {
        let message = match self.message(outgoing) {
            Ok(message) => message,
            Err(why) => return Attempt::Failed(Failure::Unusable(why)),
        };
        // The messages, the mail, and its encoding.
        let bytes = outgoing.message_bytes().saturating_mul(3);
        let _permit = match self.memory.acquire(&outgoing.queue.project, bytes, WAIT).await {
            Ok(permit) => permit,
            Err(failure) => return Attempt::Failed(failure),
        };
        let sending = async {
            match (&self.transport, &self.options.mailer) {
                (Transport::Smtp(transport), _) => {
                    transport.send(message).await.map(|_| ()).map_err(|error| failure(&error))
                }
                (Transport::Command, Mailer::Command(command)) => {
                    self.command(command, &message.formatted()).await
                }
                (Transport::Command, Mailer::Smtp(_)) => Ok(()),
            }
        };
        // The transport's own timeout only covers connecting.
        match tokio::time::timeout(self.options.timeout, sending).await {
            Ok(Ok(())) => Attempt::Answered(Answer {
                status: 200,
                retry_after: None,
                body: bytes::Bytes::new(),
            }),
            Ok(Err(failure)) => Attempt::Failed(failure),
            Err(_) => Attempt::Failed(Failure::TimedOut(self.options.timeout)),
        }
    }
}

fn connect(
    smtp: &Smtp,
    timeout: Duration,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
    let wrong = |source| MailError::Server { host: smtp.host.clone(), source };
    let mut parameters = TlsParameters::builder(smtp.host.clone());
    if let Some(path) = &smtp.ca_file {
        let unreadable = |source| MailError::Certificates { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(|error| unreadable(error.into()))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| unreadable(error.into()))?;
        parameters = parameters.add_root_certificate(certificate);
    }
    let parameters = parameters.build_rustls().map_err(wrong)?;
    let (tls, port) = match smtp.security {
        Security::Tls => (Tls::Wrapper(parameters), 465),
        Security::StartTls => (Tls::Required(parameters), 587),
        Security::None => (Tls::None, 25),
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&smtp.host)
        .port(smtp.port.unwrap_or(port))
        .tls(tls)
        .timeout(Some(timeout));
    if let Some((user, password)) = &smtp.login {
        let password = password.expose().clone();
        builder = builder.credentials(Credentials::new(user.clone(), password));
    }
    Ok(builder.build())
}

fn log_failure(error: &str) {
    if let Some(failures) = FAILURES.failure() {
        warn!(error, failures, "a mail was not sent");
    }
}

/// The domain of a mail's id: the sender's, which is unique for ids that are random.
fn id_domain(from: &Mailbox) -> &str {
    let domain = from.email.domain();
    if domain.is_ascii() { domain } else { "zaqar.invalid" }
}

/// A tenant may know how the mail server answered for its recipient, and no more about it.
fn failure(error: &lettre::transport::smtp::Error) -> Failure {
    if error.is_permanent() {
        Failure::Unusable(causes(error))
    } else if error.is_transient() {
        Failure::NoAnswer(causes(error))
    } else {
        log_failure(&causes(error));
        Failure::NoConnection("the mail server does not take mail at the moment".to_owned())
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A subscriber's address: `mailto:a@b?subject=…`.
#[derive(Debug)]
struct Address {
    mailbox: Mailbox,
    subject: Option<String>,
}

impl Address {
    fn parse(subscriber: &str) -> Result<Self, String> {
        let wrong = || "the subscriber is not mailto: with one address".to_owned();
        let (_, rest) = subscriber.split_once(':').ok_or_else(wrong)?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let decode =
            |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        let address = decode(address).map_err(|_| wrong())?;
        let address = address.parse().map_err(|_| wrong())?;
        let mut subject = None;
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            if name.eq_ignore_ascii_case("subject") {
                subject = Some(decode(&value.replace('+', " ")).map_err(|_| wrong())?);
            }
        }
        Ok(Self { mailbox: Mailbox::new(None, address), subject })
    }
}

/// Whether mail can be sent to a subscriber with these options.
///
/// # Errors
/// The reason why it cannot.
pub fn check(subscriber: Option<&str>, options: Option<&Map<String, Value>>) -> Result<(), String> {
    if let Some(subscriber) = subscriber {
        Address::parse(subscriber)?;
    }
    if let Some(from) = options.and_then(|options| options.get("from")) {
        let from = from.as_str().ok_or("the option from must be an address")?;
        let parsed: Result<Mailbox, _> = from.parse();
        parsed.map_err(|_| "the option from must be an address".to_owned())?;
    }
    Ok(())
}

/// The text of a header as one line, so that a tenant cannot add headers.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The template with its placeholders filled; values are not expanded again.
fn fill(template: &str, values: [&str; 3]) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let placeholder = (0..3).find(|index| rest.starts_with(["{0}", "{1}", "{2}"][*index]));
        match placeholder {
            Some(index) => {
                out.push_str(values[index]);
                rest = &rest[3..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use zaqar_core::{
        Incarnation, Kind, MessageId, Position, ProjectId, QueueKey, QueueName, SubscriptionId,
        Timestamp,
    };

    use super::*;
    use crate::channel::OutgoingMessage;

    #[test]
    fn addresses_are_taken_apart() {
        for (subscriber, address, subject) in [
            ("mailto:a@b.org", "a@b.org", None),
            ("MAILTO:a%2Bc@b.org?Subject=A%20b+c&x=1", "a+c@b.org", Some("A b c")),
        ] {
            let found = Address::parse(subscriber).unwrap();
            assert_eq!(found.mailbox.to_string(), address);
            assert_eq!(found.subject.as_deref(), subject);
        }
        for wrong in
            ["mailto:", "mailto:a", "mailto:a@b,c@d", "mailto:a@b%0d%0aBcc:c@d", "mailto:%ff"]
        {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    fn mail() -> Mail {
        let template = || Template {
            topic: "Confirm".to_owned(),
            body: "{0} {1} {2}".to_owned(),
            sender: "Zaqar <zaqar@example.org>".to_owned(),
        };
        let options = Options {
            mailer: Mailer::Command(vec!["/nonexistent/internal/sendmail".to_owned()]),
            confirmation: template(),
            unsubscription: template(),
            confirmation_url: None,
            timeout: Duration::from_secs(60),
        };
        Mail::new(options, &MemoryBudget::default()).unwrap()
    }

    fn with_outgoing<T>(use_it: impl FnOnce(&Outgoing<'_>) -> T) -> T {
        let message = MessageId { incarnation: Incarnation::new(1), position: Position::new(2) };
        let messages =
            [OutgoingMessage { id: message, ttl: 60, content: Content::Message, body: b"1" }];
        let project = ProjectId::new("p").unwrap();
        use_it(&Outgoing {
            queue: &QueueKey { project, kind: Kind::Queue, name: QueueName::new("q").unwrap() },
            subscription: SubscriptionId::new(0xab),
            subscriber: "mailto:user@example.org",
            options: &Map::new(),
            signing: None,
            messages: &messages,
            is_batch: false,
            timeout: None,
            now: Timestamp::from_millis(1_795_928_400_000),
        })
    }

    #[test]
    fn a_mail_has_the_headers_that_filters_expect() {
        let formatted = || with_outgoing(|one| mail().message(one).unwrap().formatted());
        let text = String::from_utf8(formatted()).unwrap();
        for header in [
            "Message-ID: <00000000000000010000000000000002-000000000000000000000000000000ab@example.org>",
            "Date: Sun, 29 Nov 2026 05:00:00 +0000",
            "MIME-Version: 1.0",
        ] {
            assert_eq!(text.matches(&format!("{header}\r\n")).count(), 1, "{header} in {text}");
        }
        assert_eq!(formatted(), text.as_bytes(), "another attempt");
        for (from, domain) in [("a@b.org", "b.org"), ("a@b\u{fc}cher.org", "zaqar.invalid")] {
            assert_eq!(id_domain(&from.parse().unwrap()), domain);
        }
    }

    #[test]
    fn a_tenant_does_not_see_the_mail_command() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let attempt = with_outgoing(|one| runtime.block_on(mail().send(one)));
        let Attempt::Failed(failure) = attempt else { panic!("{attempt:?}") };
        assert_eq!(failure.to_string(), "no connection: the mail command cannot be run");
    }

    #[test]
    fn no_header_can_be_written_into_another() {
        assert_eq!(one_line("a\r\nBcc: b\tc\u{85}d"), "a  Bcc: b c d");
    }

    #[test]
    fn templates_are_filled_once() {
        assert_eq!(fill("{0} {1} {2} {3} {", ["{1}", "p", "u"]), "{1} p u {3} {");
    }
}
