//! The sample file says what the table says.

use std::collections::BTreeMap;

use super::super::known::{self, Effect};
use super::{Loaded, read};
use crate::config::Warning;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/zaqar.conf");

fn sample() -> String {
    std::fs::read_to_string(PATH).unwrap()
}

/// Its commented options: section and name to default. Each must follow a line that explains it.
fn options(sample: &str) -> BTreeMap<(String, String), String> {
    let mut options = BTreeMap::new();
    let (mut section, mut above) = ("", "");
    for line in sample.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if is_option(line) {
            let (name, default) = line[1..].split_once('=').unwrap();
            assert!(above.starts_with("# "), "[{section}] {name} is not explained");
            let key = (section.to_owned(), name.trim().to_owned());
            assert_eq!(
                options.insert(key, default.trim().to_owned()),
                None,
                "[{section}] {name} twice"
            );
        }
        above = line;
    }
    options
}

fn is_option(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// What settings say, without where it stands.
fn meaning(loaded: Loaded) -> String {
    let mut settings = loaded.settings;
    settings.raw = std::sync::Arc::default();
    format!("{settings:?}")
}

/// The first line of the part that lists options which change nothing in this build.
const WITHOUT_EFFECT: &str = "# Accepted without effect";

fn defaults(keep: impl Fn(Effect) -> bool) -> BTreeMap<(String, String), String> {
    known::sections()
        .flat_map(|section| section.options.iter().map(|known| (section.name, known)))
        .filter(|(section, known)| keep(known::effect(section, known.name).unwrap()))
        .map(|(section, known)| {
            let default = known.default.unwrap_or_default().to_owned();
            ((section.to_owned(), known.name.to_owned()), default)
        })
        .collect()
}

#[test]
fn it_lists_every_used_option_with_its_default() {
    let sample = sample();
    let (used, _) = sample.split_once(WITHOUT_EFFECT).unwrap();
    assert_eq!(options(used), defaults(|effect| effect == Effect::Used));
}

#[test]
fn what_has_no_effect_is_listed_as_such() {
    let sample = sample();
    let (_, unused) = sample.split_once(WITHOUT_EFFECT).unwrap();
    let known = defaults(|effect| effect != Effect::Used);
    for (option, default) in options(unused) {
        assert_eq!(known.get(&option), Some(&default), "{option:?}");
    }
}

#[test]
fn it_changes_nothing_as_it_is_and_with_every_option_uncommented() {
    let sample = sample();
    let uncommented: String = sample
        .lines()
        .map(|line| if is_option(line) { &line[1..] } else { line })
        .fold(String::new(), |text, line| text + line + "\n");
    let loaded = read(&sample).unwrap();
    assert_eq!(loaded.warnings, []);
    let defaults = meaning(read("").unwrap());
    assert_eq!(meaning(loaded), defaults);

    let loaded = read(&uncommented).unwrap();
    let odd: Vec<_> = loaded
        .warnings
        .iter()
        .filter(|warning| !matches!(warning, Warning::WithoutEffect { .. }))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    assert_eq!(meaning(loaded), defaults);
}
