//! The sample file agrees with the table.

use std::collections::BTreeMap;

use super::super::known::Effect;
use super::{Loaded, read};
use crate::Registry;
use crate::config::Warning;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/zaqar.conf");

fn sample() -> String {
    std::fs::read_to_string(PATH).unwrap()
}

/// Its commented-out options: section and name to default. Each must follow a comment that explains
/// it.
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

/// The settings, without origins.
fn meaning(loaded: Loaded) -> String {
    let mut settings = loaded.settings;
    settings.raw = std::sync::Arc::default();
    format!("{settings:?}")
}

fn defaults(keep: impl Fn(Effect) -> bool) -> BTreeMap<(String, String), String> {
    let known = Registry::default().registered().known();
    let options = known
        .sections()
        .flat_map(|section| section.options.iter().map(|known| (section.name.as_ref(), known)));
    options
        .filter(|(section, option)| keep(known.effect(section, option.name).unwrap()))
        .map(|(section, known)| {
            let default = known.default.unwrap_or_default().to_owned();
            ((section.to_owned(), known.name.to_owned()), default)
        })
        .collect()
}

#[test]
fn it_lists_every_used_option_with_its_default() {
    assert_eq!(options(&sample()), defaults(|effect| effect == Effect::Used));
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

/// The file that `config sample` prints.
fn printed() -> String {
    crate::config::sample::sample(&Registry::default().registered().known())
}

#[test]
fn what_is_printed_lists_every_used_option_with_its_default_and_explains_it() {
    let printed = printed();
    assert_eq!(options(&printed), defaults(|effect| effect == Effect::Used));
    // An option without an explanation has only one line above it.
    let lines: Vec<_> = printed.lines().collect();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_option(line)) {
        assert!(lines[at - 2].starts_with("# "), "nothing explains {line}");
    }
}

#[test]
fn what_is_printed_changes_nothing_as_it_is_and_with_every_option_uncommented() {
    let printed = printed();
    let uncommented: String = printed
        .lines()
        .map(|line| if is_option(line) { &line[1..] } else { line })
        .fold(String::new(), |text, line| text + line + "\n");
    let defaults = meaning(read("").unwrap());
    for text in [printed, uncommented] {
        let loaded = read(&text).unwrap();
        assert_eq!(loaded.warnings, []);
        assert_eq!(meaning(loaded), defaults);
    }
}

#[test]
fn what_is_printed_has_the_options_of_a_driver_of_ones_own() {
    use crate::config::known::{Table, integer};

    const MINE: &[crate::config::known::Known] = &[integer("shards", "4", 1, 64)];
    let known = Table::default().with("drivers:message_store:mine".to_owned(), MINE);
    let text = crate::config::sample::sample(&known);
    let expected = "[drivers:message_store:mine]\n\n# An integer from 1 to 64.\n#shards = 4\n";
    assert!(text.contains(expected), "{text}");
}
