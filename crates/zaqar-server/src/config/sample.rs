//! `config sample`: every option that has an effect, with its default and valid values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::known::{Effect, Kind, Known, Table};

/// The sample that comes with the crate: the only place that explains options.
const EXPLAINED: &str = include_str!("../../zaqar.conf");

/// Comments above options: section and name to lines.
type Explanations<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a str>>;

/// A configuration file with every option of `known` that has an effect, commented out, with its
/// default. Without edits it changes nothing. Options of registered drivers are included.
pub(crate) fn sample(known: &Table) -> String {
    let explanations = explanations(EXPLAINED);
    let mut text = preamble(EXPLAINED);
    let mut written = BTreeSet::new();
    for section in known.sections() {
        let name = section.name.as_ref();
        let used: Vec<_> = known
            .options(name)
            .filter(|option| known.effect(name, option.name) == Some(Effect::Used))
            .collect();
        if used.is_empty() || !written.insert(name) {
            continue;
        }
        let _ = writeln!(text, "[{name}]\n");
        for option in used {
            for line in explanations.get(&(name, option.name)).into_iter().flatten() {
                let _ = writeln!(text, "{line}");
            }
            let _ = writeln!(text, "# {}", takes(option));
            let default = option.default.unwrap_or_default();
            let _ = writeln!(text, "{}\n", format!("#{} = {default}", option.name).trim_end());
        }
    }
    text
}

/// The valid values of an option, as a sentence.
fn takes(option: &Known) -> String {
    match option.kind {
        Kind::Boolean => "true or false.".to_owned(),
        Kind::Integer { min, max } => format!("An integer from {min} to {max}."),
        Kind::Float { min, max } => format!("A number from {min} to {max}."),
        Kind::Host => "An IP address or a host name.".to_owned(),
        Kind::Text if option.secret => "A text; it is never shown.".to_owned(),
        Kind::Text => "A text.".to_owned(),
        Kind::Choice(choices) => {
            let words = choices.iter().map(|word| if word.is_empty() { "nothing" } else { word });
            format!("One of: {}.", words.collect::<Vec<_>>().join(", "))
        }
        Kind::List => "A comma-separated list.".to_owned(),
        Kind::Repeated => "A text; the option may be given several times.".to_owned(),
    }
}

/// The comments before the first section.
fn preamble(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.starts_with('['));
    lines.map(|line| format!("{line}\n")).collect()
}

fn explanations(text: &str) -> Explanations<'_> {
    let (mut found, mut section, mut above) = (Explanations::new(), "", Vec::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if line.starts_with("# ") {
            above.push(line);
            continue;
        } else if let Some((name, _)) = line.strip_prefix('#').and_then(|rest| rest.split_once('='))
        {
            found.insert((section, name.trim()), std::mem::take(&mut above));
        }
        above.clear();
    }
    found
}
