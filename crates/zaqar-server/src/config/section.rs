//! One section with typed getters, whose errors say where, what and what is valid.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use zaqar_core::Secret;

use super::error::Error;
use super::known::{Kind, Known, Table};
use super::origin::Origin;
use super::raw::{Raw, Value};
use super::reference;
use super::value;

/// One section, for its reader: drivers read their own.
///
/// Each getter returns `None` if the option is not set. An empty number or host counts as not set.
#[derive(Debug, Clone)]
pub struct Section {
    raw: Arc<Raw>,
    name: String,
}

impl Section {
    /// The section of this name; empty if it does not exist.
    pub fn new(raw: &Arc<Raw>, name: impl Into<String>) -> Self {
        Self { raw: Arc::clone(raw), name: name.into() }
    }

    /// A section of options that do not come from a file, such as those of a pool. `known` are the
    /// options that its reader declares.
    pub fn of_options<'a>(
        name: &str,
        known: &'static [Known],
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut raw = Raw::new(Table::default().with(name.to_owned(), known));
        for (option, value) in options {
            raw.set(name.to_owned(), option.to_owned(), value, Origin::Default);
        }
        Self::new(&Arc::new(raw), name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The options that are set, sorted.
    pub fn options(&self) -> impl Iterator<Item = &str> {
        self.raw.options(&self.name)
    }

    /// Where an option is set.
    pub fn origin(&self, option: &str) -> Origin {
        self.raw.origin(&self.name, option)
    }

    /// The text as it is, even if it is empty.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`], like every getter.
    pub fn text(&self, option: &str) -> Result<Option<String>, Error> {
        self.raw
            .values(&self.name, option)
            .last()
            .map(|value| self.follow(option, value))
            .transpose()
    }

    /// A secret text; an empty one counts as not set, because an empty key or password protects
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`].
    pub fn secret(&self, option: &str) -> Result<Option<Secret<String>>, Error> {
        Ok(self.text(option)?.filter(|text| !text.is_empty()).map(Secret::new))
    }

    /// A boolean.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for anything other than true, yes, on, 1, false, no, off, 0 in any case.
    pub fn boolean(&self, option: &str) -> Result<Option<bool>, Error> {
        self.parse(option, value::boolean, || value::BOOLEAN.to_owned())
    }

    /// An integer within bounds.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for anything else.
    pub fn integer(&self, option: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Error> {
        let allowed = || format!("an integer from {} to {}", range.start(), range.end());
        if self.is_blank(option)? {
            return Ok(None);
        }
        self.parse(option, |text| value::integer(text).filter(|n| range.contains(n)), allowed)
    }

    /// A number within bounds, which may have a fraction.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for anything else.
    pub fn float(&self, option: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Error> {
        let allowed = || format!("a number from {} to {}", range.start(), range.end());
        if self.is_blank(option)? {
            return Ok(None);
        }
        self.parse(option, |text| value::float(text).filter(|n| range.contains(n)), allowed)
    }

    /// One of a few words.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for another word.
    pub fn choice<'a>(&self, option: &str, choices: &[&'a str]) -> Result<Option<&'a str>, Error> {
        let one = |text: &str| choices.iter().copied().find(|choice| *choice == text);
        self.parse(option, one, || value::one_of(choices))
    }

    /// An IP address or a host name.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for anything else.
    pub fn host(&self, option: &str) -> Result<Option<String>, Error> {
        let host = |text: &str| value::is_host(text).then(|| text.to_owned());
        if self.is_blank(option)? {
            return Ok(None);
        }
        self.parse(option, host, || "an IP address or a host name".to_owned())
    }

    /// Comma-separated texts, without white space around them.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`].
    pub fn list(&self, option: &str) -> Result<Option<Vec<String>>, Error> {
        Ok(self.text(option)?.map(|text| value::list(&text)))
    }

    /// All values of an option that can be given several times, in order.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`].
    pub fn repeated(&self, option: &str) -> Result<Vec<String>, Error> {
        let values = self.raw.values(&self.name, option);
        values.iter().map(|value| self.follow(option, value)).collect()
    }

    /// An integer as `option` declares it, or its default.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for anything outside of the declared bounds.
    pub fn number_of(&self, option: &Known) -> Result<u64, Error> {
        let Kind::Integer { min, max } = option.kind else {
            return Err(self.invalid(option.name, "declared as an integer"));
        };
        let default = || option.default.and_then(value::integer);
        let number = self.integer(option.name, min..=max)?.or_else(default);
        Ok(u64::try_from(number.unwrap_or_default()).unwrap_or_default())
    }

    /// Seconds as `option` declares them, which may have a fraction, or its default.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for anything outside of the declared bounds.
    pub fn seconds_of(&self, option: &Known) -> Result<Duration, Error> {
        let Kind::Float { min, max } = option.kind else {
            return Err(self.invalid(option.name, "declared as a number with a fraction"));
        };
        let default = || option.default.and_then(value::float);
        let seconds = self.float(option.name, min..=max)?.or_else(default);
        Ok(Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or(Duration::MAX))
    }

    /// One of the words that `option` declares, or its default.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for another word.
    pub fn choice_of(&self, option: &Known) -> Result<&'static str, Error> {
        let Kind::Choice(choices) = option.kind else {
            return Err(self.invalid(option.name, "declared as a choice"));
        };
        Ok(self.choice(option.name, choices)?.or(option.default).unwrap_or_default())
    }

    /// The text of an option, or its default; `None` if both are missing or empty.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`].
    pub fn text_of(&self, option: &Known) -> Result<Option<String>, Error> {
        let set = self.text(option.name)?.filter(|text| !text.is_empty());
        Ok(set.or_else(|| option.default.map(str::to_owned)))
    }

    /// Checks the value of an option, if it is set, against its declared kind.
    pub(super) fn check(&self, option: &Known) -> Result<(), Error> {
        match option.kind {
            Kind::Boolean => self.boolean(option.name).map(drop),
            Kind::Integer { min, max } => self.integer(option.name, min..=max).map(drop),
            Kind::Float { min, max } => self.float(option.name, min..=max).map(drop),
            Kind::Host => self.host(option.name).map(drop),
            Kind::Choice(choices) => self.choice(option.name, choices).map(drop),
            Kind::Text | Kind::List => self.text(option.name).map(drop),
            Kind::Repeated => self.repeated(option.name).map(drop),
        }
    }

    /// An error about an option's value, for rules beyond those of the getters: `must be
    /// {allowed}`.
    pub fn invalid(&self, option: &str, allowed: impl Into<String>) -> Error {
        let value = self.raw.values(&self.name, option).last();
        let text = value.map_or("", |value| value.text.as_str());
        Error::Value {
            origin: self.origin(option),
            section: self.name.as_str().into(),
            option: option.into(),
            value: self.raw.quoted(&self.name, option, text).into(),
            allowed: allowed.into().into(),
        }
    }

    /// An error about a required option that is not set.
    pub fn missing(&self, option: &str) -> Error {
        // If the section is missing too, the origin is the line that asks for the driver, or for
        // Keystone.
        let wanted = || match self.name.split(':').nth(1) {
            Some(role) => self.raw.origin("drivers", role),
            None => self.raw.origin("DEFAULT", "auth_strategy"),
        };
        Error::Missing {
            origin: self.raw.section_origin(&self.name).cloned().unwrap_or_else(wanted),
            section: self.name.as_str().into(),
            option: option.into(),
        }
    }

    /// What the `config` crate's source has for an option: all values, or the one that counts.
    pub(super) fn source_values(&self, option: &str) -> Result<Vec<(String, Origin)>, Error> {
        let values = self.raw.values(&self.name, option);
        let count = if self.raw.is_repeated(&self.name, option) { values.len() } else { 1 };
        values[values.len().saturating_sub(count)..]
            .iter()
            .map(|value| Ok((self.follow(option, value)?, value.origin.clone())))
            .collect()
    }

    fn is_blank(&self, option: &str) -> Result<bool, Error> {
        Ok(self.text(option)?.is_some_and(|text| text.trim().is_empty()))
    }

    fn parse<T>(
        &self,
        option: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        allowed: impl FnOnce() -> String,
    ) -> Result<Option<T>, Error> {
        let Some(text) = self.text(option)? else { return Ok(None) };
        match parse(&text) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(self.invalid(option, allowed())),
        }
    }

    fn follow(&self, option: &str, value: &Value) -> Result<String, Error> {
        reference::follow(&self.raw, &self.name, option, &value.text, &value.origin)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Section;
    use crate::config::ini;
    use crate::config::raw::Raw;

    const NAME: &str = "drivers:message_store:mine";

    fn section(options: &str) -> Section {
        let path = Arc::from("z.conf");
        let mut raw = Raw::default();
        let text = format!("[{NAME}]\n{options}");
        raw.add(&path, ini::parse(&path, text.as_bytes()).unwrap());
        Section::new(&Arc::new(raw), NAME)
    }

    #[test]
    fn a_driver_reads_its_own_section() {
        let mine = section(
            "on = Yes\nsize = 7\nempty =\nratio = 0.5\nmode = b\nhosts = a, b\nadd = 1\nadd = 2\n\
             uri = redis://$user@h\nuser = me\nhost = ::1",
        );
        assert_eq!(mine.boolean("on").unwrap(), Some(true));
        assert_eq!(mine.integer("size", 1..=7).unwrap(), Some(7));
        assert_eq!(mine.integer("empty", 1..=7).unwrap(), None);
        assert_eq!(mine.integer("missing", 1..=7).unwrap(), None);
        assert_eq!(mine.float("ratio", 0.0..=1.0).unwrap(), Some(0.5));
        assert_eq!(mine.choice("mode", &["a", "b"]).unwrap(), Some("b"));
        assert_eq!(mine.list("hosts").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(mine.repeated("add").unwrap(), ["1", "2"]);
        assert_eq!(mine.secret("uri").unwrap().unwrap().expose(), "redis://me@h");
        assert_eq!(mine.host("host").unwrap().unwrap(), "::1");
        assert_eq!(mine.origin("size").to_string(), "z.conf:3");
        assert_eq!(mine.options().count(), 10);
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert_eq!(section("key =").secret("key").unwrap(), None);
    }

    #[test]
    fn errors_of_values_name_place_value_and_allowed_values() {
        let mine = section("a = 8\nb = maybe\nsize = 1.5\npassword = 12\nhost = a b");
        let messages = [
            mine.integer("a", 1..=7).unwrap_err(),
            mine.integer("size", 1..=7).unwrap_err(),
            mine.float("a", 0.0..=1.5).unwrap_err(),
            mine.boolean("b").unwrap_err(),
            mine.choice("b", &["x", "y"]).unwrap_err(),
            mine.integer("password", 1..=7).unwrap_err(),
            mine.host("host").unwrap_err(),
        ]
        .map(|error| {
            error.to_string().replace("z.conf:", "").replace(" [drivers:message_store:mine]", "")
        });
        assert_eq!(
            messages,
            [
                "2: a = \"8\": must be an integer from 1 to 7",
                "4: size = \"1.5\": must be an integer from 1 to 7",
                "2: a = \"8\": must be a number from 0 to 1.5",
                "3: b = \"maybe\": must be a boolean: true, yes, on, 1 or false, no, off, 0",
                "3: b = \"maybe\": must be one of: x, y",
                "5: password = ***: must be an integer from 1 to 7",
                "6: host = \"a b\": must be an IP address or a host name",
            ]
        );
    }
}
