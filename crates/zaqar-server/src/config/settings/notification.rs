//! `[notification]`: how subscribers are notified.

use std::path::PathBuf;
use std::time::Duration;

use zaqar_core::Secret;
use zaqar_notify::address::IpNet;

use crate::config::reader::Options;

/// How subscribers are notified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// How mail is sent.
    pub mailer: Mailer,
    /// `max_notifier_workers`: deliveries in progress at once, at most.
    pub max_workers: u64,
    /// `max_deliveries_per_project`: deliveries of one project in progress at once, at most.
    pub max_per_project: u64,
    /// `max_deliveries_per_destination`: deliveries to one host and port in progress at once, at
    /// most.
    pub max_per_destination: u64,
    /// `delivery_log`: deliveries of each subscription that the log keeps.
    pub log: u64,
    /// `delivery_log_time`: how long it keeps them, in seconds.
    pub log_time: u64,
    /// `allow_networks`: networks that webhooks may reach besides public addresses.
    pub allow_networks: Vec<IpNet>,
    /// `trust_http_hosts`: hosts that a trust's token is sent to without TLS.
    pub trust_http_hosts: Vec<String>,
    /// `ca_file`: the CA certificates to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// `connect_timeout`: for connecting to a webhook.
    pub connect_timeout: Duration,
    /// `timeout`: for a request to a webhook, including connecting.
    pub timeout: Duration,
    /// `extended_retry_time`: how long retries continue after the policy's last.
    pub extended_retry_time: Duration,
    /// `require_confirmation`: a subscriber must confirm before it gets messages.
    pub require_confirmation: bool,
    /// `external_confirmation_url`: the page that a confirmation mail links to.
    pub external_confirmation_url: Option<String>,
    /// `subscription_confirmation_email_template`.
    pub confirmation_mail: MailTemplate,
    /// `unsubscribe_confirmation_email_template`.
    pub unsubscribe_mail: MailTemplate,
}

/// How mail is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mailer {
    /// By a program that reads the mail (`smtp_mode = third_part`): its path and arguments.
    Command(Vec<String>),
    /// By an SMTP server (`smtp_mode = self_local`).
    Smtp {
        /// `smtp_host`.
        host: String,
        /// `smtp_port`; `None` means the protocol's default.
        port: Option<u16>,
        /// `smtp_user_name`.
        user: Option<String>,
        /// `smtp_user_password`.
        password: Option<Secret<String>>,
        /// `smtp_security`.
        security: SmtpSecurity,
    },
}

/// How the connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// By TLS from the first byte, as in the original.
    Tls,
    /// By TLS after STARTTLS, never without.
    StartTls,
    /// Unprotected.
    None,
}

/// The template of a mail. In the body `{0}` is the queue, `{1}` the project, `{2}` the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailTemplate {
    /// The subject.
    pub topic: String,
    /// The text.
    pub body: String,
    /// The sender.
    pub sender: String,
}

impl Notification {
    pub(super) fn read(options: &mut Options<'_>) -> Self {
        Self {
            mailer: Mailer::read(options),
            max_workers: options.number("max_notifier_workers"),
            max_per_project: options.number("max_deliveries_per_project"),
            max_per_destination: options.number("max_deliveries_per_destination"),
            log: options.number("delivery_log"),
            log_time: options.number("delivery_log_time"),
            allow_networks: networks(options),
            trust_http_hosts: options.list("trust_http_hosts"),
            ca_file: options.optional_text("ca_file").map(PathBuf::from),
            connect_timeout: seconds(options, "connect_timeout", LONGEST_CONNECT),
            timeout: seconds(options, "timeout", LONGEST_ATTEMPT),
            extended_retry_time: Duration::from_secs(options.number("extended_retry_time")),
            require_confirmation: options.boolean("require_confirmation"),
            external_confirmation_url: options.optional_text("external_confirmation_url"),
            confirmation_mail: MailTemplate::read(
                options,
                "subscription_confirmation_email_template",
            ),
            unsubscribe_mail: MailTemplate::read(
                options,
                "unsubscribe_confirmation_email_template",
            ),
        }
    }
}

/// In seconds. An attempt must end within the lease of its row.
const LONGEST_ATTEMPT: f64 = 20.0;
const LONGEST_CONNECT: f64 = 15.0;

fn seconds(options: &mut Options<'_>, option: &str, longest: f64) -> Duration {
    let seconds = options.float(option);
    if !(0.1..=longest).contains(&seconds) {
        options.refuse(option, format!("seconds from 0.1 to {longest}"));
        return Duration::from_secs(1);
    }
    Duration::from_secs_f64(seconds)
}

fn networks(options: &mut Options<'_>) -> Vec<IpNet> {
    let texts = options.list("allow_networks");
    let read = texts.iter().map(|text| {
        let address = text.parse().map(|address: std::net::IpAddr| IpNet::from(address)).ok();
        address.or_else(|| text.parse().ok())
    });
    match read.collect::<Option<Vec<_>>>() {
        Some(networks) => networks,
        None => {
            let allowed = "addresses and networks separated by commas, such as 10.0.0.0/8,::1";
            options.refuse("allow_networks", allowed);
            Vec::new()
        }
    }
}

impl Mailer {
    /// All options are checked in both modes, so that an invalid one is not first noticed when the
    /// mode is changed.
    fn read(options: &mut Options<'_>) -> Self {
        let mode = options.choice("smtp_mode");
        let command = options.text("smtp_command");
        let host = options.optional_host("smtp_host");
        let port = options.optional_port("smtp_port");
        let user = options.optional_text("smtp_user_name");
        let password = options.secret("smtp_user_password");
        let security = match options.choice("smtp_security") {
            "starttls" => SmtpSecurity::StartTls,
            "none" => SmtpSecurity::None,
            _ => SmtpSecurity::Tls,
        };
        match (mode, host) {
            ("self_local", Some(host)) => Self::Smtp { host, port, user, password, security },
            (mode, _) => {
                if mode == "self_local" {
                    options.refuse("smtp_mode", "third_part unless smtp_host is set");
                }
                Self::Command(command.split_whitespace().map(str::to_owned).collect())
            }
        }
    }
}

impl MailTemplate {
    fn read(options: &mut Options<'_>, option: &str) -> Self {
        let text = options.text(option);
        let Some([topic, body, sender]) = parts(&text) else {
            options.refuse(option, "topic:…,body:…,sender:… in any order");
            return Self { topic: String::new(), body: String::new(), sender: String::new() };
        };
        if !has_known_places(&body) {
            options.refuse(option, "a template without braces other than {0}, {1} and {2}");
        }
        Self { topic, body, sender }
    }
}

/// The texts after `topic:`, `body:` and `sender:`. A comma separates two of them only if the next
/// one follows; the original splits at every comma, and so breaks its own default.
fn parts(text: &str) -> Option<[String; 3]> {
    const NAMES: [&str; 3] = ["topic:", "body:", "sender:"];
    let mut parts = [None, None, None];
    let mut current = None;
    for piece in text.split(',') {
        let begins = |at: &usize| piece.trim_start().starts_with(NAMES[*at]);
        match (0..3).find(begins).filter(|at| parts[*at].is_none()) {
            Some(at) => {
                parts[at] = Some(piece.trim_start()[NAMES[at].len()..].to_owned());
                current = Some(at);
            }
            None => {
                let part = parts[current?].as_mut()?;
                part.push(',');
                part.push_str(piece);
            }
        }
    }
    let [topic, body, sender] = parts.map(|part| part.map(|text| text.trim().to_owned()));
    Some([topic?, body?, sender?])
}

fn has_known_places(body: &str) -> bool {
    let rest =
        ["{0}", "{1}", "{2}"].iter().fold(body.to_owned(), |rest, place| rest.replace(place, ""));
    !rest.contains(['{', '}'])
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn a_template_has_three_parts_and_commas_within_them() {
        let table = [
            ("topic:T,body:B,sender:S", Some(["T", "B", "S"])),
            (
                " sender: S <s@x> , body:B, c: d, e ,topic:T, U",
                Some(["T, U", "B, c: d, e", "S <s@x>"]),
            ),
            ("topic:T,body:B,topic:x,sender:S", Some(["T", "B,topic:x", "S"])),
            ("topic:T,body:B", None),
            ("x,topic:T,body:B,sender:S", None),
            ("", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|parts| parts.map(str::to_owned));
            assert_eq!(parts(text), expected, "{text}");
        }
    }
}
