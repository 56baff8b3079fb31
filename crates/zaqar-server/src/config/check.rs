//! Warnings about what is set and changes nothing: unknown sections and options, and options without effect.

use super::error::Warning;
use super::known::{self, Effect};
use super::origin::Origin;
use super::raw::Raw;
use super::suggest;

/// Looks at everything that is set. `driver_sections` belong to registered drivers: where the table does not list one, what it holds is
/// the driver's own affair.
pub(super) fn warnings(raw: &Raw, driver_sections: &[String]) -> Vec<Warning> {
    let is_registered = |section: &str| driver_sections.iter().any(|name| name == section);
    let mut warnings = raw.old_names().to_vec();
    for section in raw.sections() {
        let options = raw.options(section);
        match (known::is_section(section), is_registered(section)) {
            (true, false) if is_of_driver(section) => {
                warnings.extend(options.map(|option| without_driver(raw, section, option)));
            }
            (true, _) => {
                warnings.extend(options.filter_map(|option| of_option(raw, section, option)))
            }
            (false, false) => warnings.push(of_section(raw, section, driver_sections)),
            (false, true) => {}
        }
    }
    warnings
}

fn is_of_driver(section: &str) -> bool {
    ["drivers:transport:", "drivers:message_store:", "drivers:management_store:"]
        .iter()
        .any(|role| section.starts_with(role))
}

fn without_driver(raw: &Raw, section: &str, option: &str) -> Warning {
    Warning::WithoutEffect {
        origin: raw.origin(section, option),
        section: section.to_owned(),
        option: option.to_owned(),
        why: "this build has no such driver",
    }
}

fn of_section(raw: &Raw, section: &str, driver_sections: &[String]) -> Warning {
    let names = known::sections().map(|known| known.name);
    let nearest =
        suggest::nearest(section, names.chain(driver_sections.iter().map(String::as_str)));
    Warning::UnknownSection {
        origin: raw.section_origin(section).cloned().unwrap_or(Origin::Default),
        section: section.to_owned(),
        nearest: nearest.map(str::to_owned),
    }
}

fn of_option(raw: &Raw, section: &str, option: &str) -> Option<Warning> {
    let origin = raw.origin(section, option);
    let (section_name, option_name) = (section.to_owned(), option.to_owned());
    Some(match known::effect(section, option) {
        Some(Effect::Used) => return None,
        Some(Effect::None(why)) => {
            Warning::WithoutEffect { origin, section: section_name, option: option_name, why }
        }
        None => Warning::UnknownOption {
            origin,
            section: section_name,
            option: option_name,
            nearest: nearest(section, option),
        },
    })
}

/// The nearest option of the section, or the same name in one other section.
fn nearest(section: &str, option: &str) -> Option<String> {
    if let Some(known) = elsewhere(option) {
        return Some(format!("[{known}] {option}"));
    }
    suggest::nearest(option, known::options(section).map(|known| known.name)).map(str::to_owned)
}

/// The only section that has this option.
fn elsewhere(option: &str) -> Option<&'static str> {
    let mut with = known::sections()
        .filter(|section| section.options.iter().any(|known| known.name == option));
    let only = with.next()?;
    with.next().is_none().then_some(only.name)
}
