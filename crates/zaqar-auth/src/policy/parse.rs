//! The parser of rules.
//!
//! White space separates the words `and`, `or`, `not` (in any case) and checks. Parentheses stand
//! at the beginning or the end of a word. `not` binds tightest, then `and`, then `or`. A rule that
//! cannot be parsed allows nobody.

use serde_json::Value;

use super::check::{Check, Text};

/// The deepest nesting of parentheses and `not` in one rule: evaluation recurses as deep.
const MAX_DEPTH: usize = 64;

/// A syntax error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError;

/// Parses a rule as a policy file has it: a text, a list of lists of checks, or null.
pub(super) fn parse(rule: &Value) -> Result<Check, SyntaxError> {
    match rule {
        Value::Null => Ok(Check::True),
        Value::String(text) => parse_text(text),
        Value::Array(lists) => parse_lists(lists),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Err(SyntaxError),
    }
}

/// Parses the text of a rule.
pub(super) fn parse_text(text: &str) -> Result<Check, SyntaxError> {
    if text.is_empty() {
        return Ok(Check::True);
    }
    let tokens = tokens(text);
    let mut parser = Parser { tokens: &tokens, depth: 0 };
    let check = parser.disjunction()?;
    if parser.tokens.is_empty() { Ok(check) } else { Err(SyntaxError) }
}

/// Parses the old form: an outer list joined by `or`, inner lists joined by `and`.
fn parse_lists(lists: &[Value]) -> Result<Check, SyntaxError> {
    if lists.is_empty() {
        return Ok(Check::True);
    }
    let mut either = Vec::new();
    for list in lists {
        let all = match list {
            Value::String(text) if text.is_empty() => continue,
            Value::String(text) => vec![parse_check(text)],
            Value::Array(texts) if texts.is_empty() => continue,
            Value::Array(texts) => {
                let check = |text: &Value| text.as_str().map(parse_check).ok_or(SyntaxError);
                texts.iter().map(check).collect::<Result<_, _>>()?
            }
            Value::Null => continue,
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => return Err(SyntaxError),
        };
        either.push(one_or(all, Check::And));
    }
    if either.is_empty() { Ok(Check::False) } else { Ok(one_or(either, Check::Or)) }
}

/// The check, if there is only one, else all of them joined.
fn one_or(mut checks: Vec<Check>, together: fn(Vec<Check>) -> Check) -> Check {
    match checks.len() {
        1 => checks.remove(0),
        _ => together(checks),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    Check(Check),
    /// A word in quotes, which is not a check.
    Quoted,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for word in text.split_whitespace() {
        let inner = word.trim_start_matches('(');
        tokens.extend((0..word.len() - inner.len()).map(|_| Token::Open));
        let bare = inner.trim_end_matches(')');
        match bare.to_lowercase().as_str() {
            "" => {}
            "and" => tokens.push(Token::And),
            "or" => tokens.push(Token::Or),
            "not" => tokens.push(Token::Not),
            _ if is_quoted(inner) => tokens.push(Token::Quoted),
            _ => tokens.push(Token::Check(parse_check(bare))),
        }
        tokens.extend((0..inner.len() - bare.len()).map(|_| Token::Close));
    }
    tokens
}

fn is_quoted(word: &str) -> bool {
    word.len() >= 2
        && ['"', '\''].into_iter().any(|quote| word.starts_with(quote) && word.ends_with(quote))
}

struct Parser<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<&Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn take(&mut self, token: &Token) -> bool {
        let is_next = self.tokens.first() == Some(token);
        if is_next {
            self.tokens = &self.tokens[1..];
        }
        is_next
    }

    fn disjunction(&mut self) -> Result<Check, SyntaxError> {
        let mut checks = vec![self.conjunction()?];
        while self.take(&Token::Or) {
            checks.push(self.conjunction()?);
        }
        Ok(one_or(checks, Check::Or))
    }

    fn conjunction(&mut self) -> Result<Check, SyntaxError> {
        let mut checks = vec![self.operand()?];
        while self.take(&Token::And) {
            checks.push(self.operand()?);
        }
        Ok(one_or(checks, Check::And))
    }

    fn operand(&mut self) -> Result<Check, SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(SyntaxError);
        }
        let check = match self.next() {
            Some(Token::Check(check)) => check.clone(),
            Some(Token::Not) => Check::Not(Box::new(self.operand()?)),
            Some(Token::Open) => {
                let inner = self.disjunction()?;
                if !self.take(&Token::Close) {
                    return Err(SyntaxError);
                }
                inner
            }
            Some(Token::Close | Token::And | Token::Or | Token::Quoted) | None => {
                return Err(SyntaxError);
            }
        };
        self.depth -= 1;
        Ok(check)
    }
}

/// Parses one check. One that is not valid allows nobody, and everybody below a `not`.
fn parse_check(text: &str) -> Check {
    match text {
        "@" => return Check::True,
        "!" => return Check::False,
        _ => {}
    }
    let Some((kind, value)) = text.split_once(':') else { return Check::False };
    if kind == "rule" {
        return Check::Rule(value.to_owned());
    }
    let unsupported = |value| Check::Unsupported { check: text.to_owned(), value };
    let value = match Text::parse(value) {
        Ok(value) => value,
        Err(beginning) => return unsupported(Some(beginning)),
    };
    match kind {
        "role" => Check::Role(value),
        "http" | "https" => unsupported(None),
        _ => match literal(kind) {
            Some(literal) => Check::Literal { literal, value },
            None if is_path(kind) => {
                let path = kind.split('.').map(str::to_owned).collect();
                Check::Attribute { path, value }
            }
            None => unsupported(Some(value)),
        },
    }
}

/// Whether oslo.policy reads it as a path of names: it has Python evaluate it as a literal first,
/// and fails if it is not an expression. Dashes between names are subtractions, which are not
/// literals.
fn is_path(kind: &str) -> bool {
    kind.split(['.', '-']).all(|name| {
        let mut chars = name.chars();
        let is_name = chars.next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && chars.all(|other| other.is_alphanumeric() || other == '_');
        is_name && !KEYWORDS.contains(&name)
    })
}

/// Python's keywords, which cannot be names.
const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
    "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import",
    "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while",
    "with", "yield",
];

/// The text of a Python literal: a string in quotes, a number, `True`, `False`, `None`.
fn literal(kind: &str) -> Option<String> {
    match kind {
        "True" | "False" | "None" => return Some(kind.to_owned()),
        _ => {}
    }
    if is_quoted(kind) {
        let inner = &kind[1..kind.len() - 1];
        let plain = !inner.contains(['\\', '\'', '"']);
        return plain.then(|| inner.to_owned());
    }
    let digits = kind.strip_prefix('-').unwrap_or(kind);
    let is_number = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" || !digits.starts_with('0'));
    if is_number {
        return (kind != "-0").then(|| kind.to_owned()).or_else(|| Some("0".to_owned()));
    }
    decimal(kind, digits)
}

/// A number with a fraction, as Python prints it; `None` where it would print an exponent.
fn decimal(kind: &str, digits: &str) -> Option<String> {
    let (whole, fraction) = digits.split_once('.')?;
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_digits(whole) && is_digits(fraction) && digits.len() <= 15;
    let number: f64 = kind.parse().ok().filter(|_| is_plain)?;
    (number == 0.0 || number.abs() >= 1e-4).then(|| format!("{number:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(text: &str) -> Text {
        Text::parse(text).unwrap()
    }

    fn unsupported(check: &str, value: Option<&str>) -> Check {
        Check::Unsupported { check: check.to_owned(), value: value.map(text) }
    }

    fn role(name: &str) -> Check {
        Check::Role(text(name))
    }

    #[test]
    fn not_binds_tighter_than_and_than_or() {
        let expected = Check::Or(vec![
            role("a"),
            Check::And(vec![role("b"), Check::Not(Box::new(role("c")))]),
            role("d"),
        ]);
        assert_eq!(parse_text("role:a or role:b AND not role:c or role:d"), Ok(expected));
        let expected = Check::And(vec![Check::Or(vec![role("a"), role("b")]), role("c")]);
        assert_eq!(parse_text("(role:a or role:b) and role:c"), Ok(expected));
    }

    #[test]
    fn checks_of_each_kind() {
        let attribute = |path: &[&str], value| Check::Attribute {
            path: path.iter().map(|name| (*name).to_owned()).collect(),
            value: text(value),
        };
        let literal = |literal: &str, value| Check::Literal {
            literal: literal.to_owned(),
            value: text(value),
        };
        for (rule, expected) in [
            ("", Check::True),
            ("@", Check::True),
            ("!", Check::False),
            ("rule:other:name", Check::Rule("other:name".into())),
            ("role:compute:admin", role("compute:admin")),
            ("user.domain.id:x", attribute(&["user", "domain", "id"], "x")),
            ("project_id:%(project_id)s", attribute(&["project_id"], "%(project_id)s")),
            ("'Member':%(role.name)s", literal("Member", "%(role.name)s")),
            ("True:%(enabled)s", literal("True", "%(enabled)s")),
            ("-7:x", literal("-7", "x")),
            ("0.50:x", literal("0.5", "x")),
            ("project-id:x", attribute(&["project-id"], "x")),
            (":x", unsupported(":x", Some("x"))),
            ("is:x", unsupported("is:x", Some("x"))),
            ("1a:x", unsupported("1a:x", Some("x"))),
            ("a..b:x", unsupported("a..b:x", Some("x"))),
            ("[1]:x", unsupported("[1]:x", Some("x"))),
            ("nothing", Check::False),
            ("role:x%(n)d", unsupported("role:x%(n)d", Some("x%(n)s"))),
            ("https://host/x", unsupported("https://host/x", None)),
        ] {
            assert_eq!(parse_text(rule), Ok(expected), "{rule}");
        }
    }

    #[test]
    fn what_is_no_rule_is_unreadable() {
        for text in [
            "   ",
            "role:a role:b",
            "role:a and",
            "or role:a",
            "not",
            "(role:a",
            "role:a)",
            "()",
            "'quoted'",
            "role:a and 'quoted'",
        ] {
            assert_eq!(parse_text(text), Err(SyntaxError), "{text}");
        }
        let deep = format!("{}@{}", "(".repeat(100_000), ")".repeat(100_000));
        assert_eq!(parse_text(&deep), Err(SyntaxError));
    }

    #[test]
    fn the_old_list_form() {
        let expected = Check::Or(vec![role("a"), Check::And(vec![role("b"), role("c")])]);
        let rule = json!([["role:a"], [], "", ["role:b", "role:c"]]);
        assert_eq!(parse(&rule), Ok(expected));
        assert_eq!(parse(&json!(["role:a"])), Ok(role("a")));
        assert_eq!(parse(&json!([])), Ok(Check::True));
        assert_eq!(parse(&json!([[]])), Ok(Check::False));
        assert_eq!(parse(&json!(null)), Ok(Check::True));
        for bad in [json!(true), json!(7), json!({}), json!([[7]]), json!([7])] {
            assert_eq!(parse(&bad), Err(SyntaxError), "{bad}");
        }
    }
}
