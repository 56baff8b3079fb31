//! The Configuration section: every known option with its value, and unknown options that are set.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Map;

use crate::config::Raw;
use crate::config::known::Kind;

use super::layout::Section;

pub(super) fn section(raw: &Raw) -> Section {
    let mut groups: BTreeMap<&str, BTreeMap<&str, (String, Kind)>> = BTreeMap::new();
    for section in raw.known().sections() {
        for option in section.options {
            let default = option.default.unwrap_or("None");
            let value = if option.secret { "***" } else { default };
            let options = groups.entry(&section.name).or_default();
            options.insert(option.name, (value.to_owned(), option.kind));
        }
    }
    for (section, option, value) in raw.effective() {
        let kind = raw.known().find(section, option).map_or(Kind::Text, |known| known.kind);
        groups.entry(section).or_default().insert(option, (value, kind));
    }
    let (mut text, mut data) = (String::new(), Map::new());
    for (group, options) in groups {
        let group = if group == "DEFAULT" { "default" } else { group };
        let _ = writeln!(text, "\n{group}: ");
        let mut members = Map::new();
        for (option, (value, kind)) in options {
            let _ = writeln!(text, "  {option} = {}", value_text(&value, kind));
            members.insert(option.to_owned(), value.into());
        }
        data.insert(group.to_owned(), members.into());
    }
    Section::new("Configuration", text, data.into())
}

/// A value; the items of a list are on lines of their own.
fn value_text(value: &str, kind: Kind) -> String {
    match kind {
        Kind::List if !value.is_empty() && value != "None" && value != "***" => {
            let mut items: Vec<_> = value.split(',').map(str::trim).collect();
            items.sort_unstable();
            items.iter().map(|item| format!("\n    {item}")).collect()
        }
        Kind::List
        | Kind::Boolean
        | Kind::Integer { .. }
        | Kind::Float { .. }
        | Kind::Host
        | Kind::Text
        | Kind::Choice(_)
        | Kind::Repeated => value.replace('\n', "\n    "),
    }
}
