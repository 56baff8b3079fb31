//! Options from environment variables: `OS_<SECTION>__<OPTION>`, as oslo.config reads them.
//!
//! Shells, containers and unit files do not allow colons in names, so underscores can replace a
//! section's colons. As the name alone does not tell which, a variable counts only if its section
//! is already known.

use std::ffi::OsStr;
use std::sync::Arc;

use super::error::Warning;
use super::origin::Origin;
use super::source::Environment;

/// A variable that sets an option.
pub(super) struct Override<'a> {
    pub(super) section: String,
    pub(super) option: String,
    pub(super) value: &'a OsStr,
    pub(super) origin: Origin,
}

/// The variables that set an option of one of these sections; later ones win.
pub(super) fn overrides<'a>(
    environment: &'a Environment,
    sections: &[String],
) -> Vec<Override<'a>> {
    let mut found: Vec<_> = environment
        .iter()
        .filter_map(|(name, value)| {
            let (section, option) = name.strip_prefix("OS_")?.split_once("__")?;
            Some(Override {
                section: find(section, sections)?.to_owned(),
                option: Some(option.to_lowercase()).filter(|option| !option.is_empty())?,
                value,
                origin: Origin::Environment(Arc::from(name)),
            })
        })
        .collect();
    found.sort_by_key(
        |found| matches!(&found.origin, Origin::Environment(name) if name.contains(':')),
    );
    found
}

/// Warnings about variables that name no known section, but nearly do: others may be of other
/// services.
pub(super) fn misspelt(environment: &Environment, sections: &[String]) -> Vec<Warning> {
    let upper: Vec<_> =
        sections.iter().map(|section| section.to_uppercase().replace(':', "_")).collect();
    let variables = environment.iter().filter_map(|(name, _)| {
        let (section, option) = name.strip_prefix("OS_")?.split_once("__")?;
        if find(section, sections).is_some() || option.is_empty() {
            return None;
        }
        let nearest = zaqar_core::nearest(section, upper.iter().map(String::as_str))?;
        let nearest = format!("OS_{nearest}__{option}");
        Some(Warning::UnknownVariable { origin: Origin::Environment(Arc::from(name)), nearest })
    });
    variables.collect()
}

/// The section that a variable's first part names.
fn find<'a>(name: &str, sections: &'a [String]) -> Option<&'a str> {
    let is = |section: &&String| {
        let upper = section.to_uppercase();
        upper == name || upper.replace(':', "_") == name
    };
    sections.iter().find(is).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::{Environment, misspelt, overrides};

    fn found(variables: &[(&str, &str)]) -> Vec<String> {
        let environment = Environment::new(variables.iter().copied());
        let sections =
            ["DEFAULT", "transport", "drivers:message_store:redis"].map(str::to_owned).to_vec();
        overrides(&environment, &sections)
            .iter()
            .map(|found| {
                format!(
                    "{}: [{}] {} = {:?}",
                    found.origin, found.section, found.option, found.value
                )
            })
            .collect()
    }

    #[test]
    fn a_variable_sets_an_option_of_a_section_that_is_known() {
        let table = [
            ("OS_DEFAULT__DEBUG", Some("[DEFAULT] debug")),
            ("OS_TRANSPORT__MAX_CLAIM_TTL", Some("[transport] max_claim_ttl")),
            ("OS_DRIVERS:MESSAGE_STORE:REDIS__URI", Some("[drivers:message_store:redis] uri")),
            ("OS_DRIVERS_MESSAGE_STORE_REDIS__URI", Some("[drivers:message_store:redis] uri")),
            ("OS_transport__max_claim_ttl", None),
            ("OS_PLACEMENT_DATABASE__CONNECTION", None),
            ("OS_AUTH_URL", None),
            ("OS_TRANSPORT__", None),
            ("TRANSPORT__MAX_CLAIM_TTL", None),
        ];
        for (name, expected) in table {
            let expected: Vec<_> = expected
                .iter()
                .map(|option| format!("environment variable {name}: {option} = \"1\""))
                .collect();
            assert_eq!(found(&[(name, "1")]), expected, "{name}");
        }
    }

    #[test]
    fn a_variable_with_a_misspelt_section_is_reported() {
        let sections = ["DEFAULT", "transport", "drivers:message_store:redis"].map(str::to_owned);
        let table = [
            ("OS_TRANSPRT__MAX_CLAIM_TTL", Some("OS_TRANSPORT__MAX_CLAIM_TTL")),
            ("OS_DRIVERS_MESSAGE_STORE_REDS__URI", Some("OS_DRIVERS_MESSAGE_STORE_REDIS__URI")),
            ("OS_TRANSPORT__MAX_CLAIM_TTL", None),
            ("OS_PLACEMENT_DATABASE__CONNECTION", None),
            ("OS_AUTH_URL", None),
        ];
        for (name, nearest) in table {
            let told = misspelt(&Environment::new([(name, "1")]), &sections);
            let told: Vec<_> = told.iter().map(ToString::to_string).collect();
            let expected = nearest.map(|nearest| {
                format!(
                    "environment variable {name}: names no section of this server and is \
                     ignored; did you mean {nearest}?"
                )
            });
            assert_eq!(told, Vec::from_iter(expected), "{name}");
        }
    }

    #[test]
    fn the_spelling_with_colons_wins() {
        let found = found(&[
            ("OS_DRIVERS:MESSAGE_STORE:REDIS__URI", "colons"),
            ("OS_DRIVERS_MESSAGE_STORE_REDIS__URI", "underscores"),
        ]);
        assert!(found[1].ends_with("\"colons\""), "{found:?}");
    }
}
