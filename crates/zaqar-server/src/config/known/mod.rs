//! Every option that is known: what it takes, its default, and whether it changes anything here.
//!
//! One table drives the reading of values, the warnings and the check of the sample file. The options are the original's, with its
//! libraries' (oslo.log, oslo.cache, …), and ours.

mod libraries;
mod service;
mod stores;

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// true, yes, on, 1 or false, no, off, 0 in any case.
    Boolean,
    /// An integer within these bounds, both included.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A number that may have a fraction, within these bounds, both included.
    Float {
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// An IP address or a host name.
    Host,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts separated by commas.
    List,
    /// Any text, as often as the option is given.
    Repeated,
}

/// Whether an option changes anything in this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Used,
    /// It does not, and why.
    None(&'static str),
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default as it would be written; `None` when it has none.
    pub default: Option<&'static str>,
    /// Whether it changes anything.
    pub effect: Effect,
    /// Its value must not be shown.
    pub secret: bool,
    /// Names that it had in the past.
    pub old_names: &'static [&'static str],
}

impl Known {
    const fn new(name: &'static str, kind: Kind, default: Option<&'static str>) -> Self {
        Self { name, kind, default, effect: Effect::Used, secret: false, old_names: &[] }
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn formerly(mut self, old_names: &'static [&'static str]) -> Self {
        self.old_names = old_names;
        self
    }

    const fn without_effect(mut self, why: &'static str) -> Self {
        self.effect = Effect::None(why);
        self
    }

    const fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }
}

/// A section, or a part of one: a section may have several parts, from several of the original's libraries.
#[derive(Debug)]
pub struct KnownSection {
    /// Its name.
    pub name: &'static str,
    /// Its options.
    pub options: &'static [Known],
    /// Whether its options change anything; an option may also say so for itself.
    pub effect: Effect,
    /// Why every option that is not listed has no effect; `None` when such an option is unknown.
    pub rest: Option<&'static str>,
}

impl KnownSection {
    const fn new(name: &'static str, options: &'static [Known]) -> Self {
        Self { name, options, effect: Effect::Used, rest: None }
    }

    /// A section of which no option is listed, and none has an effect.
    const fn whole(name: &'static str, why: &'static str) -> Self {
        Self { name, options: &[], effect: Effect::Used, rest: Some(why) }
    }

    const fn without_effect(mut self, why: &'static str) -> Self {
        self.effect = Effect::None(why);
        self
    }
}

/// All known sections; a name may come more than once.
pub fn sections() -> impl Iterator<Item = &'static KnownSection> {
    service::SECTIONS.iter().chain(stores::SECTIONS).chain(libraries::SECTIONS)
}

/// Whether a section is known.
pub fn is_section(name: &str) -> bool {
    sections().any(|section| section.name == name)
}

/// The options of a section.
pub fn options(section: &str) -> impl Iterator<Item = &'static Known> {
    sections().filter(move |known| known.name == section).flat_map(|known| known.options)
}

/// One option.
pub fn find(section: &str, option: &str) -> Option<&'static Known> {
    options(section).find(|known| known.name == option)
}

/// Whether an option changes anything; `None` when it is unknown.
pub fn effect(section: &str, option: &str) -> Option<Effect> {
    let mut rest = None;
    for known in sections().filter(|known| known.name == section) {
        if let Some(known_option) = known.options.iter().find(|known| known.name == option) {
            return Some(if known.effect == Effect::Used {
                known_option.effect
            } else {
                known.effect
            });
        }
        rest = rest.or(known.rest);
    }
    rest.map(Effect::None)
}

/// Whether a value must not be shown. Of an option that nobody knows, its name tells.
pub fn is_secret(section: &str, option: &str) -> bool {
    const TELLING: [&str; 7] = ["password", "passwd", "secret", "token", "key", "uri", "url"];
    match find(section, option) {
        Some(known) => known.secret,
        None => TELLING.iter().any(|word| option.to_ascii_lowercase().contains(word)),
    }
}

const fn boolean(name: &'static str, default: &'static str) -> Known {
    Known::new(name, Kind::Boolean, Some(default))
}

const fn integer(name: &'static str, default: &'static str, min: i64, max: i64) -> Known {
    Known::new(name, Kind::Integer { min, max }, Some(default))
}

const fn float(name: &'static str, default: &'static str) -> Known {
    Known::new(name, Kind::Float { min: 0.0, max: 86_400.0 }, Some(default))
}

const fn port(name: &'static str, default: Option<&'static str>) -> Known {
    Known::new(name, Kind::Integer { min: 0, max: 65_535 }, default)
}

const fn text(name: &'static str, default: &'static str) -> Known {
    Known::new(name, Kind::Text, Some(default))
}

const fn unset(name: &'static str) -> Known {
    Known::new(name, Kind::Text, None)
}

const fn choice(
    name: &'static str,
    default: &'static str,
    choices: &'static [&'static str],
) -> Known {
    Known::new(name, Kind::Choice(choices), Some(default))
}

const fn list(name: &'static str, default: Option<&'static str>) -> Known {
    Known::new(name, Kind::List, default)
}

const fn unused(name: &'static str, why: &'static str) -> Known {
    unset(name).without_effect(why)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{find, is_secret, sections};

    #[test]
    fn no_option_is_listed_twice() {
        let mut seen = BTreeSet::new();
        for section in sections() {
            for known in section.options {
                for name in std::iter::once(&known.name).chain(known.old_names) {
                    assert!(seen.insert((section.name, *name)), "[{}] {name}", section.name);
                }
            }
        }
    }

    #[test]
    fn an_unknown_option_with_a_telling_name_is_a_secret() {
        assert!(is_secret("drivers:message_store:mine", "Access_Token"));
        assert!(!is_secret("drivers:message_store:mine", "database"));
        assert!(!is_secret("keystone_authtoken", "auth_url"));
        assert!(find("signed_url", "secret_key").unwrap().secret);
    }
}
