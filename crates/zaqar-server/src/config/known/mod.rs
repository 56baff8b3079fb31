//! The table of all known options: kind, default, and whether they have an effect here.
//!
//! The table is used to read values, to warn about unknown options, and to check the sample file.
//! It has the service's own options, those of the original's libraries (oslo.log, oslo.cache, …),
//! and those that registered drivers declare.

mod libraries;
mod service;

use std::borrow::Cow;

pub(crate) use service::{WEBSOCKET, WSGI};

/// The kind of an option's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// true, yes, on, 1 or false, no, off, 0 in any case.
    Boolean,
    /// An integer within these bounds, both included.
    Integer {
        /// The minimum.
        min: i64,
        /// The maximum.
        max: i64,
    },
    /// A number that may have a fraction, within these bounds, both included.
    Float {
        /// The minimum.
        min: f64,
        /// The maximum.
        max: f64,
    },
    /// An IP address or a host name.
    Host,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Comma-separated texts.
    List,
    /// Any text; the option can be given several times.
    Repeated,
}

/// Whether an option has an effect in this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It has.
    Used,
    /// It has not, and why.
    None(&'static str),
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default as written in a file; `None` if it has none.
    pub default: Option<&'static str>,
    /// Whether it has an effect.
    pub effect: Effect,
    /// Its value must not be shown.
    pub secret: bool,
    /// Deprecated names.
    pub old_names: &'static [&'static str],
}

impl Known {
    const fn new(name: &'static str, kind: Kind, default: Option<&'static str>) -> Self {
        Self { name, kind, default, effect: Effect::Used, secret: false, old_names: &[] }
    }

    /// The same option, with a secret value.
    #[must_use]
    pub const fn secret(mut self) -> Self {
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

/// A section, or a part of one: several libraries may add options to one section.
#[derive(Debug, Clone)]
pub struct KnownSection {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its options.
    pub options: &'static [Known],
    /// Whether its options have an effect; an option can override this.
    pub effect: Effect,
    /// The effect of options that are not listed; `None` if they are unknown.
    pub rest: Option<Effect>,
}

impl KnownSection {
    const fn new(name: &'static str, options: &'static [Known]) -> Self {
        Self { name: Cow::Borrowed(name), options, effect: Effect::Used, rest: None }
    }

    /// A section without listed options and without any effect.
    const fn whole(name: &'static str, why: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            options: &[],
            effect: Effect::Used,
            rest: Some(Effect::None(why)),
        }
    }
}

/// Sections for stores of the original that this build does not have.
const ABSENT: &[KnownSection] = &[
    KnownSection::whole("drivers:message_store:swift", "this server has no such store"),
    KnownSection::whole("drivers:management_store:sqlalchemy", "this server has no such store"),
    #[cfg(not(feature = "mongodb"))]
    KnownSection::whole("drivers:message_store:mongodb", "this build has no such driver"),
    #[cfg(not(feature = "mongodb"))]
    KnownSection::whole("drivers:management_store:mongodb", "this build has no such driver"),
];

/// All known sections; a name may occur more than once.
#[derive(Debug, Clone)]
pub struct Table {
    sections: Vec<KnownSection>,
}

impl Default for Table {
    /// The sections that belong to no driver.
    fn default() -> Self {
        let sections = service::SECTIONS.iter().chain(ABSENT).chain(libraries::SECTIONS);
        Self { sections: sections.cloned().collect() }
    }
}

impl Table {
    /// Adds a driver's section with its options.
    #[must_use]
    pub fn with(mut self, name: String, options: &'static [Known]) -> Self {
        let (name, effect) = (Cow::Owned(name), Effect::Used);
        self.sections.push(KnownSection { name, options, effect, rest: None });
        self
    }

    /// Adds a section that accepts any option.
    #[must_use]
    pub fn with_any(mut self, name: String) -> Self {
        let (name, effect) = (Cow::Owned(name), Effect::Used);
        self.sections.push(KnownSection { name, options: &[], effect, rest: Some(Effect::Used) });
        self
    }

    /// All sections.
    pub fn sections(&self) -> impl Iterator<Item = &KnownSection> {
        self.sections.iter()
    }

    /// Whether a section is known.
    pub fn is_section(&self, name: &str) -> bool {
        self.sections().any(|section| section.name == name)
    }

    /// The options of a section.
    pub fn options(&self, section: &str) -> impl Iterator<Item = &'static Known> {
        self.sections().filter(move |known| known.name == section).flat_map(|known| known.options)
    }

    /// One option.
    pub fn find(&self, section: &str, option: &str) -> Option<&'static Known> {
        self.options(section).find(|known| known.name == option)
    }

    /// Whether an option has an effect; `None` if it is unknown.
    pub fn effect(&self, section: &str, option: &str) -> Option<Effect> {
        let mut rest = None;
        for known in self.sections().filter(|known| known.name == section) {
            if let Some(known_option) = known.options.iter().find(|known| known.name == option) {
                let of_section = known.effect;
                let is_used = of_section == Effect::Used;
                return Some(if is_used { known_option.effect } else { of_section });
            }
            rest = rest.or(known.rest);
        }
        rest
    }

    /// Whether a value is secret. For an unknown option its name decides.
    pub fn is_secret(&self, section: &str, option: &str) -> bool {
        const TELLING: [&str; 7] = ["password", "passwd", "secret", "token", "key", "uri", "url"];
        match self.find(section, option) {
            Some(known) => known.secret,
            None => TELLING.iter().any(|word| option.to_ascii_lowercase().contains(word)),
        }
    }
}

/// A boolean.
pub const fn boolean(name: &'static str, default: &'static str) -> Known {
    Known::new(name, Kind::Boolean, Some(default))
}

/// An integer from `min` to `max`.
pub const fn integer(name: &'static str, default: &'static str, min: i64, max: i64) -> Known {
    Known::new(name, Kind::Integer { min, max }, Some(default))
}

/// A number, which may have a fraction, from 0 to 86400: the seconds of a day.
pub const fn float(name: &'static str, default: &'static str) -> Known {
    Known::new(name, Kind::Float { min: 0.0, max: 86_400.0 }, Some(default))
}

/// A port; 0 lets the system choose one.
pub const fn port(name: &'static str, default: Option<&'static str>) -> Known {
    Known::new(name, Kind::Integer { min: 0, max: 65_535 }, default)
}

/// A text with a default.
pub const fn text(name: &'static str, default: &'static str) -> Known {
    Known::new(name, Kind::Text, Some(default))
}

/// A text without a default.
pub const fn unset(name: &'static str) -> Known {
    Known::new(name, Kind::Text, None)
}

/// One of a few words.
pub const fn choice(
    name: &'static str,
    default: &'static str,
    choices: &'static [&'static str],
) -> Known {
    Known::new(name, Kind::Choice(choices), Some(default))
}

/// Comma-separated texts.
pub const fn list(name: &'static str, default: Option<&'static str>) -> Known {
    Known::new(name, Kind::List, default)
}

/// An option of the original that has no effect here.
pub const fn unused(name: &'static str, why: &'static str) -> Known {
    unset(name).without_effect(why)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::Registry;

    #[test]
    fn no_option_is_listed_twice() {
        let mut seen = BTreeSet::new();
        for section in Registry::default().registered().known().sections() {
            for known in section.options {
                for name in std::iter::once(&known.name).chain(known.old_names) {
                    let is_new = seen.insert((section.name.to_string(), *name));
                    assert!(is_new, "[{}] {name}", section.name);
                }
            }
        }
    }

    #[test]
    fn an_unknown_option_with_a_telling_name_is_a_secret() {
        let known = super::Table::default();
        assert!(known.is_secret("drivers:message_store:mine", "Access_Token"));
        assert!(!known.is_secret("drivers:message_store:mine", "database"));
        assert!(!known.is_secret("keystone_authtoken", "auth_url"));
        assert!(known.find("signed_url", "secret_key").unwrap().secret);
    }
}
