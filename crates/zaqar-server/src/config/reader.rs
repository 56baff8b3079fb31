//! Reads options by the table of known options, which has their kinds, bounds and defaults. Errors
//! are collected.

use std::sync::Arc;
use std::time::Duration;

use zaqar_core::Secret;

use super::error::{Error, Warning};
use super::known::{Kind, Known};
use super::raw::Raw;
use super::section::Section;
use super::value;

/// Reads all sections and collects errors and warnings.
pub(super) struct Reader {
    pub(super) raw: Arc<Raw>,
    pub(super) problems: Vec<Error>,
    pub(super) warnings: Vec<Warning>,
}

/// Reads the options of one section. If a value is invalid, it returns the default and records the
/// error.
pub(super) struct Options<'a> {
    pub(super) section: Section,
    pub(super) reader: &'a mut Reader,
}

impl Reader {
    pub(super) fn new(raw: Arc<Raw>) -> Self {
        Self { raw, problems: Vec::new(), warnings: Vec::new() }
    }

    pub(super) fn section(&mut self, name: &str) -> Options<'_> {
        Options { section: Section::new(&self.raw, name), reader: self }
    }
}

impl Options<'_> {
    pub(super) fn boolean(&mut self, option: &str) -> bool {
        let read = self.section.boolean(option);
        self.or_default(option, read, value::boolean).unwrap_or_default()
    }

    pub(super) fn integer(&mut self, option: &str) -> i64 {
        self.optional_integer(option).unwrap_or_default()
    }

    /// An integer whose minimum in the table is not negative.
    pub(super) fn number(&mut self, option: &str) -> u64 {
        u64::try_from(self.integer(option)).unwrap_or_default()
    }

    pub(super) fn float(&mut self, option: &str) -> f64 {
        let Some(Known { kind: Kind::Float { min, max }, .. }) = self.known(option) else {
            return 0.0;
        };
        let read = self.section.float(option, *min..=*max);
        self.or_default(option, read, value::float).unwrap_or_default()
    }

    pub(super) fn port(&mut self, option: &str) -> u16 {
        self.optional_port(option).unwrap_or_default()
    }

    pub(super) fn optional_port(&mut self, option: &str) -> Option<u16> {
        self.optional_integer(option).and_then(|port| u16::try_from(port).ok())
    }

    pub(super) fn choice(&mut self, option: &str) -> &'static str {
        let Some(Known { kind: Kind::Choice(choices), .. }) = self.known(option) else { return "" };
        let read = self.section.choice(option, choices);
        let of = |text: &str| choices.iter().copied().find(|choice| *choice == text);
        self.or_default(option, read, of).unwrap_or_default()
    }

    pub(super) fn host(&mut self, option: &str) -> String {
        self.optional_host(option).unwrap_or_default()
    }

    pub(super) fn optional_host(&mut self, option: &str) -> Option<String> {
        let read = self.section.host(option);
        self.or_default(option, read, |text| Some(text.to_owned()))
    }

    pub(super) fn text(&mut self, option: &str) -> String {
        self.optional_text(option).unwrap_or_default()
    }

    /// A text that is not empty.
    pub(super) fn optional_text(&mut self, option: &str) -> Option<String> {
        let read = self.section.text(option).map(|text| text.filter(|text| !text.is_empty()));
        self.or_default(option, read, |text| Some(text.to_owned()))
    }

    pub(super) fn secret(&mut self, option: &str) -> Option<Secret<String>> {
        let read = self.section.secret(option);
        self.or_default(option, read, |text| Some(Secret::new(text.to_owned())))
    }

    pub(super) fn list(&mut self, option: &str) -> Vec<String> {
        let read = self.section.list(option);
        self.or_default(option, read, |text| Some(value::list(text))).unwrap_or_default()
    }

    /// A required text; if it is missing, `None`, and the error is recorded.
    pub(super) fn needed(&mut self, option: &str) -> Option<String> {
        let text = self.optional_text(option);
        if text.is_none() {
            self.missing(option);
        }
        text
    }

    /// Seconds, which may have a fraction.
    pub(super) fn seconds(&mut self, option: &str) -> Duration {
        let Some(Known { kind: Kind::Float { min, max }, .. }) = self.known(option) else {
            return Duration::ZERO;
        };
        let read = self.section.float(option, *min..=*max);
        let seconds = self.or_default(option, read, value::float).unwrap_or_default();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// All values of an option that can be given several times; its default if there are none.
    pub(super) fn repeated(&mut self, option: &str) -> Vec<String> {
        let read = self.section.repeated(option).map(|all| (!all.is_empty()).then_some(all));
        let values = self.or_default(option, read, |text| Some(vec![text.to_owned()]));
        values.unwrap_or_default().into_iter().filter(|value| !value.is_empty()).collect()
    }

    /// Whether an option is set, even to its default.
    pub(super) fn is_set(&self, option: &str) -> bool {
        self.section.options().any(|set| set == option)
    }

    /// Records the error that an option must be set.
    pub(super) fn missing(&mut self, option: &str) {
        let problem = self.section.missing(option);
        self.reader.problems.push(problem);
    }

    /// Records the error that an option's value is invalid.
    pub(super) fn refuse(&mut self, option: &str, allowed: impl Into<String>) {
        let problem = self.section.invalid(option, allowed);
        self.reader.problems.push(problem);
    }

    /// Records the warning that an option has no effect.
    pub(super) fn warn(&mut self, option: &str, why: &'static str) {
        self.reader.warnings.push(Warning::WithoutEffect {
            origin: self.section.origin(option),
            section: self.section.name().to_owned(),
            option: option.to_owned(),
            why,
        });
    }

    fn optional_integer(&mut self, option: &str) -> Option<i64> {
        let Some(Known { kind: Kind::Integer { min, max }, .. }) = self.known(option) else {
            return None;
        };
        let read = self.section.integer(option, *min..=*max);
        self.or_default(option, read, value::integer)
    }

    fn or_default<T>(
        &mut self,
        option: &str,
        read: Result<Option<T>, Error>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let read = read.unwrap_or_else(|problem| {
            self.reader.problems.push(problem);
            None
        });
        read.or_else(|| parse(self.known(option)?.default?))
    }

    fn known(&self, option: &str) -> Option<&'static Known> {
        self.reader.raw.known().find(self.section.name(), option)
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::Kind;
    use super::super::value;
    use crate::Registry;

    #[test]
    fn every_default_is_a_value_that_its_option_takes() {
        for section in Registry::default().registered().known().sections() {
            for known in section.options {
                let Some(default) = known.default else { continue };
                let fits = match known.kind {
                    Kind::Boolean => value::boolean(default).is_some(),
                    Kind::Integer { min, max } => {
                        value::integer(default).is_some_and(|n| (min..=max).contains(&n))
                    }
                    Kind::Float { min, max } => {
                        value::float(default).is_some_and(|n| (min..=max).contains(&n))
                    }
                    Kind::Host => value::is_host(default),
                    Kind::Choice(choices) => choices.contains(&default),
                    Kind::Text | Kind::List | Kind::Repeated => true,
                };
                assert!(fits, "[{}] {} = {default}", section.name, known.name);
            }
        }
    }
}
