//! `[notification]`: how subscribers are told.

use zaqar_core::Secret;

use crate::config::reader::Options;

/// How subscribers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// How mail leaves.
    pub mailer: Mailer,
    /// `max_notifier_workers`: deliveries under way at once.
    pub max_workers: u64,
    /// `require_confirmation`: a subscriber must confirm before it is told anything.
    pub require_confirmation: bool,
    /// `external_confirmation_url`: the page that a confirmation mail leads to.
    pub external_confirmation_url: Option<String>,
    /// `subscription_confirmation_email_template`.
    pub confirmation_mail: MailTemplate,
    /// `unsubscribe_confirmation_email_template`.
    pub unsubscribe_mail: MailTemplate,
}

/// How mail leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mailer {
    /// Through a program that reads the mail (`smtp_mode = third_part`): its path and arguments.
    Command(Vec<String>),
    /// To a server (`smtp_mode = self_local`).
    Smtp {
        /// `smtp_host`.
        host: String,
        /// `smtp_port`; the protocol's when it is not set.
        port: Option<u16>,
        /// `smtp_user_name`.
        user: Option<String>,
        /// `smtp_user_password`.
        password: Option<Secret<String>>,
    },
}

/// A mail to write. In the body `{0}` is the queue, `{1}` the project, `{2}` the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailTemplate {
    /// The subject.
    pub topic: String,
    /// The text.
    pub body: String,
    /// Who sends it.
    pub sender: String,
}

impl Notification {
    pub(super) fn read(options: &mut Options<'_>) -> Self {
        Self {
            mailer: Mailer::read(options),
            max_workers: options.number("max_notifier_workers"),
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

impl Mailer {
    /// All options are looked at in both modes, so that a wrong one does not wait for the other mode to be seen.
    fn read(options: &mut Options<'_>) -> Self {
        let mode = options.choice("smtp_mode");
        let command = options.text("smtp_command");
        let host = options.optional_host("smtp_host");
        let port = options.optional_port("smtp_port");
        let user = options.optional_text("smtp_user_name");
        let password = options.secret("smtp_user_password");
        match (mode, host) {
            ("self_local", Some(host)) => Self::Smtp { host, port, user, password },
            (mode, _) => {
                if mode == "self_local" {
                    options.refuse("smtp_mode", "third_part as long as smtp_host is not set");
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
            options.refuse(option, "a template with no other braces than {0}, {1} and {2}");
        }
        Self { topic, body, sender }
    }
}

/// The texts behind `topic:`, `body:` and `sender:`. A comma parts two of them only where the next begins; the original parts at each
/// comma, and so cuts its own default in two.
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
