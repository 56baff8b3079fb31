//! The layout of a report: titles, rulers, order. The widths are those of oslo.reports.

use serde_json::{Map, Value};

const WIDTH: usize = 72;

/// A section of a report.
#[derive(Debug, PartialEq)]
pub(super) struct Section {
    title: &'static str,
    body: String,
    data: Value,
}

impl Section {
    /// `body` is for the text form, `data` has the same contents for the JSON form.
    pub(super) fn new(title: &'static str, body: String, data: Value) -> Self {
        Self { title, body, data }
    }
}

/// The whole report as JSON: an object with a member for each section, named by its title in lower
/// case with underscores. If it would be longer than `max_bytes`, the configuration is `null`.
pub(super) fn render_json(sections: &[Section], max_bytes: usize) -> String {
    let key = |title: &str| title.to_lowercase().replace(' ', "_");
    let members = sections.iter().map(|section| (key(section.title), section.data.clone()));
    let mut document: Map<String, Value> = members.collect();
    let text = Value::Object(document.clone()).to_string();
    if text.len() <= max_bytes {
        return text;
    }
    document.insert(key("Configuration"), Value::Null);
    Value::Object(document).to_string()
}

/// The whole report, at most this many bytes and one line.
pub(super) fn render(sections: &[Section], max_bytes: usize) -> String {
    let ruler = "=".repeat(WIDTH);
    let bars = "|".repeat(WIDTH);
    let mut text = format!("{ruler}\n{}\n{ruler}\n{bars}\n\n\n", title("Guru Meditation"));
    for Section { title: name, body, .. } in sections {
        text += &format!("{ruler}\n{}\n{ruler}\n{body}\n", title(name));
    }
    if text.len() > max_bytes {
        let end = (0..=max_bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text += &format!("\n(cut at {max_bytes} bytes)\n");
    }
    text
}

/// A title between rulers: an odd blank goes to its right.
fn title(name: &str) -> String {
    format!("===={name:^width$}====", width = WIDTH - 8)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Section, render, render_json};

    #[test]
    fn a_json_report_that_is_too_long_leaves_the_configuration_out() {
        let section = |title, data| Section::new(title, String::new(), data);
        let sections = [
            section("Configuration", json!({ "default": { "debug": "x".repeat(200) } })),
            section("Recent Errors", json!(["one"])),
        ];
        assert!(render_json(&sections, 1000).starts_with("{\"configuration\":{\"default\""));
        let cut = "{\"configuration\":null,\"recent_errors\":[\"one\"]}";
        assert_eq!(render_json(&sections, 200), cut);
    }

    #[test]
    fn a_report_has_rulers_and_titles() {
        let report =
            render(&[Section::new("Package", "product = x\n".to_owned(), Value::Null)], 10_000);
        let lines: Vec<_> = report.lines().collect();
        assert_eq!(lines[0], "=".repeat(72));
        let expected = "====                        Guru Meditation                         ====";
        assert_eq!(lines[1], expected);
        assert_eq!(lines[3], "|".repeat(72));
        assert_eq!(lines[4..6], ["", ""]);
        assert_eq!(lines[6], "=".repeat(72));
        let package = "====                            Package                             ====";
        assert_eq!(lines[7], package);
        assert_eq!(lines[9], "product = x");
    }

    #[test]
    fn a_report_is_cut_between_characters() {
        let report = render(&[Section::new("A", "é".repeat(1000), Value::Null)], 501);
        assert!(report.len() < 560 && report.ends_with("(cut at 501 bytes)\n"), "{report}");
    }
}
