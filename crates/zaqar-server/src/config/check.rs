//! Warnings about settings without effect: unknown sections and options, and known options that
//! change nothing.

use super::error::Warning;
use super::known::Effect;
use super::origin::Origin;
use super::raw::Raw;

/// Warnings about everything that is set.
pub(super) fn warnings(raw: &Raw) -> Vec<Warning> {
    let mut warnings = raw.warnings().to_vec();
    for section in raw.sections() {
        if raw.known().is_section(section) {
            let options = raw.options(section);
            warnings.extend(options.filter_map(|option| of_option(raw, section, option)));
        } else {
            warnings.push(of_section(raw, section));
        }
    }
    warnings
}

fn of_section(raw: &Raw, section: &str) -> Warning {
    let names = raw.known().sections().map(|known| known.name.as_ref());
    let nearest = zaqar_core::nearest(section, names).map(str::to_owned);
    Warning::UnknownSection {
        origin: raw.section_origin(section).cloned().unwrap_or(Origin::Default),
        section: section.to_owned(),
        nearest,
    }
}

fn of_option(raw: &Raw, section: &str, option: &str) -> Option<Warning> {
    let origin = raw.origin(section, option);
    let (section_name, option_name) = (section.to_owned(), option.to_owned());
    Some(match raw.known().effect(section, option) {
        Some(Effect::Used) => return None,
        Some(Effect::None(why)) => {
            Warning::WithoutEffect { origin, section: section_name, option: option_name, why }
        }
        None => Warning::UnknownOption {
            origin,
            section: section_name,
            option: option_name,
            nearest: nearest(raw, section, option),
        },
    })
}

/// The most similar option of the section, or the same name in one other section.
fn nearest(raw: &Raw, section: &str, option: &str) -> Option<String> {
    if let Some(known) = elsewhere(raw, option) {
        return Some(format!("[{known}] {option}"));
    }
    let names = raw.known().options(section).map(|known| known.name);
    zaqar_core::nearest(option, names).map(str::to_owned)
}

/// The only section that has this option.
fn elsewhere<'a>(raw: &'a Raw, option: &str) -> Option<&'a str> {
    let has_it = |section: &&'a crate::config::known::KnownSection| {
        section.options.iter().any(|known| known.name == option)
    };
    let mut with = raw.known().sections().filter(has_it);
    let only = with.next()?;
    with.next().is_none().then_some(only.name.as_ref())
}
