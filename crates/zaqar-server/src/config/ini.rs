//! Parses oslo.config's INI format: bytes to sections and options, with line numbers.
//!
//! It does not know the options; references (`$name`) are resolved in `reference`.

use std::sync::Arc;

use super::error::Error;
use super::origin::Origin;

/// Errors per file, at most: a file of another kind would have one on each line.
const MAX_PROBLEMS: usize = 20;

/// A parsed file.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Each section header: name and line, in order, repeats included.
    pub(super) sections: Vec<(String, usize)>,
    /// Each option, in order, repeats included.
    pub(super) entries: Vec<Entry>,
}

/// One assignment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The section as written.
    pub(super) section: String,
    /// The option as written.
    pub(super) option: String,
    /// The value: continuation lines joined by newlines, without one pair of quotes around its
    /// first line.
    pub(super) value: String,
    /// The line where it begins, from 1.
    pub(super) line: usize,
}

/// Parses the bytes of the file `path`; collects syntax errors, at most twenty.
pub(super) fn parse(path: &Arc<str>, bytes: &[u8]) -> Result<Document, Vec<Error>> {
    let text = decode(path, bytes).map_err(|error| vec![error])?;
    let mut parser = Parser::new(path);
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        parser.line(line);
        if parser.problems.len() == MAX_PROBLEMS {
            break;
        }
    }
    parser.end_value();
    if parser.problems.is_empty() { Ok(parser.document) } else { Err(parser.problems) }
}

/// Decodes UTF-8, without a byte order mark, which some editors add.
fn decode<'a>(path: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, Error> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).replace("\r\n", "\n");
        let line = before.split(['\n', '\r']).count();
        Error::Syntax { origin: Origin::file(path, line), what: "not UTF-8" }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

struct Parser<'a> {
    path: &'a Arc<str>,
    line: usize,
    section: Section,
    pending: Option<Entry>,
    document: Document,
    problems: Vec<Error>,
}

enum Section {
    /// Before the first header.
    None,
    Named(String),
    /// After an invalid header: its options are checked but dropped.
    Broken,
}

impl<'a> Parser<'a> {
    fn new(path: &'a Arc<str>) -> Self {
        Self {
            path,
            line: 0,
            section: Section::None,
            pending: None,
            document: Document::default(),
            problems: Vec::new(),
        }
    }

    fn line(&mut self, raw: &str) {
        self.line += 1;
        let line = raw.trim_end_matches(is_space);
        if line.starts_with([' ', '\t']) {
            return self.continuation(line.trim_start_matches(is_space));
        }
        self.end_value();
        if line.is_empty() || line.starts_with(['#', ';']) {
            return;
        }
        if line.starts_with('[') {
            self.header(line);
        } else {
            self.assignment(line);
        }
    }

    fn continuation(&mut self, text: &str) {
        match &mut self.pending {
            Some(entry) => {
                entry.value.push('\n');
                entry.value.push_str(text);
            }
            None => self.problem("an indented line continues a value, and there is none above it"),
        }
    }

    fn header(&mut self, line: &str) {
        self.section = Section::Broken;
        match line[1..].strip_suffix(']') {
            None => self.problem("a section header must end with ]"),
            Some("") => self.problem("a section header without a name"),
            Some(name) => {
                self.document.sections.push((name.to_owned(), self.line));
                self.section = Section::Named(name.to_owned());
            }
        }
    }

    fn assignment(&mut self, line: &str) {
        let Some((option, value)) = line.split_once(['=', ':']) else {
            return self.problem("neither a section, nor option = value, nor a comment");
        };
        let option = option.trim_matches(is_space);
        if option.is_empty() {
            return self.problem("a value without the name of an option");
        }
        let section = match &self.section {
            Section::None => {
                self.section = Section::Broken;
                self.problem("an option before the first section");
                String::new()
            }
            Section::Named(name) => name.clone(),
            Section::Broken => String::new(),
        };
        let value = unquote(value.trim_matches(is_space)).to_owned();
        self.pending = Some(Entry { section, option: option.to_owned(), value, line: self.line });
    }

    fn end_value(&mut self) {
        self.document.entries.extend(self.pending.take());
    }

    fn problem(&mut self, what: &'static str) {
        self.problems.push(Error::Syntax { origin: Origin::file(self.path, self.line), what });
    }
}

/// Removes one pair of equal quotes; a lone quote counts as a pair, as in oslo.
fn unquote(value: &str) -> &str {
    let quoted = |quote| value.strip_prefix(quote).filter(|_| value.ends_with(quote));
    match quoted('"').or_else(|| quoted('\'')) {
        Some(rest) => rest.strip_suffix(['"', '\'']).unwrap_or(""),
        None => value,
    }
}

/// White space as Python's `str.strip` sees it: Unicode's, and four old separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{MAX_PROBLEMS, parse};

    /// `[section] option = value` of each entry, with newlines shown.
    fn entries(text: &str) -> Vec<String> {
        parse(&Arc::from("z.conf"), text.as_bytes())
            .unwrap()
            .entries
            .iter()
            .map(|entry| {
                format!("{} {}={}", entry.section, entry.option, entry.value.replace('\n', "|"))
            })
            .collect()
    }

    fn problems(bytes: &[u8]) -> Vec<String> {
        parse(&Arc::from("z.conf"), bytes).unwrap_err().iter().map(ToString::to_string).collect()
    }

    /// Each row was compared with oslo.config 10.7.0, as were 20 000 random files: the only
    /// difference is the byte order mark.
    #[test]
    fn values_are_read_as_oslo_reads_them() {
        let table: &[(&str, &[&str])] = &[
            ("a = 1", &["g a=1"]),
            ("a: 1=2", &["g a=1=2"]),
            ("a=1:2", &["g a=1:2"]),
            ("a =", &["g a="]),
            ("a = 1 # c ; d", &["g a=1 # c ; d"]),
            ("a = \\d#e", &["g a=\\d#e"]),
            ("a = \"q\"", &["g a=q"]),
            ("a = 'it''s'", &["g a=it''s"]),
            ("a = \"q\" x", &["g a=\"q\" x"]),
            ("a = \"", &["g a="]),
            ("a = ''", &["g a="]),
            ("a = \"q'", &["g a=\"q'"]),
            ("a = one\n  two\n\tthree\nb = 1", &["g a=one|two|three", "g b=1"]),
            ("a = one\n  [h]\n[h]\nb = 1", &["g a=one|[h]", "h b=1"]),
            ("a = one\n  # two", &["g a=one|# two"]),
            ("a =\n  three", &["g a=|three"]),
            ("a = 1\na = 2", &["g a=1", "g a=2"]),
            ("a = 1\n# c\n; d\nb = 2", &["g a=1", "g b=2"]),
            ("a = 1\x1f", &["g a=1"]),
            ("a = 1\r\nb = 2\rc = 3", &["g a=1", "g b=2", "g c=3"]),
            ("[drivers:message_store:redis]\nuri = x", &["drivers:message_store:redis uri=x"]),
            ("[ h ]\nb = 1", &[" h  b=1"]),
        ];
        for (text, expected) in table {
            assert_eq!(entries(&format!("[g]\n{text}")), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        assert_eq!(entries("\u{feff}[g]\na = 1"), ["g a=1"]);
    }

    #[test]
    fn syntax_errors_name_file_and_line() {
        let table: &[(&[u8], &[&str])] = &[
            (b"a = 1\nb = 2\n[g]", &["z.conf:1: an option before the first section"]),
            (b"[g] # x\na = 1", &["z.conf:1: a section header must end with ]"]),
            (b"[", &["z.conf:1: a section header must end with ]"]),
            (b"[]", &["z.conf:1: a section header without a name"]),
            (
                b"[g]\n\nnovalue",
                &["z.conf:3: neither a section, nor option = value, nor a comment"],
            ),
            (b"[g]\n= 1", &["z.conf:2: a value without the name of an option"]),
            (
                b"[g]\na = 1\n# c\n  x",
                &["z.conf:4: an indented line continues a value, and there is none above it"],
            ),
            (
                b"[g]\na = 1\n\n  x",
                &["z.conf:4: an indented line continues a value, and there is none above it"],
            ),
            (b"[g]\r\na = 1\rb = \xff", &["z.conf:3: not UTF-8"]),
            (
                b"[g\n=\n[]",
                &[
                    "z.conf:1: a section header must end with ]",
                    "z.conf:2: a value without the name of an option",
                    "z.conf:3: a section header without a name",
                ],
            ),
        ];
        for (bytes, expected) in table {
            assert_eq!(problems(bytes), *expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_file_of_another_kind_is_reported_in_brief() {
        assert_eq!(problems("noise\n".repeat(1000).as_bytes()).len(), MAX_PROBLEMS);
    }
}
