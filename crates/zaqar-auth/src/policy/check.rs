//! Checks: what a rule requires, and the decision.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};
use zaqar_core::ProjectId;

use super::template::{Template, text_of};

/// The attributes of a target that are its project.
pub(super) const PROJECT_NAMES: [&str; 3] = ["project_id", "project", "tenant"];

/// The scope of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole deployment.
    System,
    /// A domain.
    Domain,
    /// A project.
    Project,
}

/// What is known about a caller.
///
/// Attributes have oslo.policy's names: `roles`, `user_id`, `project_id`, `is_admin`,
/// `system_scope`, …
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Credentials {
    attributes: Arc<Map<String, Value>>,
}

impl Credentials {
    /// The scope of the caller's token.
    pub fn scope(&self) -> Scope {
        if self.has("system") {
            Scope::System
        } else if self.has("domain_id") {
            Scope::Domain
        } else {
            Scope::Project
        }
    }

    /// From an object of attributes; anything but an object gives none.
    ///
    /// `system_scope`, when it is set, is also the attribute `system`, which older rules use.
    pub fn new(attributes: Value) -> Self {
        let Value::Object(mut attributes) = attributes else { return Self::default() };
        let scope = attributes.get("system_scope").filter(|scope| is_true(scope)).cloned();
        if let Some(scope) = scope {
            attributes.insert("system".to_owned(), scope);
        }
        Self { attributes: Arc::new(attributes) }
    }

    /// From attributes that [`Credentials::attributes`] returned, or that have no `system_scope`.
    pub const fn of(attributes: Arc<Map<String, Value>>) -> Self {
        Self { attributes }
    }

    /// All attributes.
    pub const fn attributes(&self) -> &Arc<Map<String, Value>> {
        &self.attributes
    }

    /// One attribute.
    pub fn get(&self, name: &str) -> Option<&Value> {
        attribute(&self.attributes, name)
    }

    /// Whether an attribute is present and not empty, zero, false or null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }
}

/// What is known about the object of an operation, for `%(name)s` in rules.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Target<'a>(Attributes<'a>);

#[derive(Debug, Clone, PartialEq)]
enum Attributes<'a> {
    Any(Map<String, Value>),
    /// A project's queue or topic, by the attribute that has its name.
    Owned {
        project: &'a str,
        queue: Option<(&'static str, &'a str)>,
    },
}

impl Default for Attributes<'_> {
    fn default() -> Self {
        Self::Any(Map::new())
    }
}

impl<'a> Target<'a> {
    /// From an object of attributes; anything but an object has none.
    pub fn new(attributes: Value) -> Self {
        match attributes {
            Value::Object(attributes) => Self(Attributes::Any(attributes)),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Self::default(),
        }
    }

    /// A project (`project_id`, `project`, `tenant`), and what is of it: the name of the attribute,
    /// and its value. Allocates nothing.
    pub const fn of(project: &'a str, queue: Option<(&'static str, &'a str)>) -> Self {
        Self(Attributes::Owned { project, queue })
    }

    /// Whether it is of this project.
    pub(super) fn is_of(&self, project: &ProjectId) -> bool {
        match &self.0 {
            Attributes::Owned { project: of, .. } => *of == project.as_str(),
            Attributes::Any(_) => false,
        }
    }

    /// The text of an attribute.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        match &self.0 {
            Attributes::Any(attributes) => attributes.get(name).map(text_of),
            Attributes::Owned { project, queue } => match name {
                _ if PROJECT_NAMES.contains(&name) => Some(Cow::Borrowed(project)),
                _ => queue.filter(|(named, _)| *named == name).map(|(_, text)| text.into()),
            },
        }
    }
}

/// Python's truth value.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// What a rule requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// `@`, and the empty rule: everybody.
    True,
    /// `!`, and what cannot be parsed: nobody.
    False,
    /// `not …`.
    Not(Box<Check>),
    /// `… and …`; everybody if it is empty.
    And(Vec<Check>),
    /// `… or …`; nobody if it is empty.
    Or(Vec<Check>),
    /// `rule:name`: the check of another rule.
    Rule(String),
    /// `role:name`.
    Role(Text),
    /// `'literal':value`: whether the two are equal.
    Literal {
        /// The literal.
        literal: String,
        /// What it must equal.
        value: Text,
    },
    /// `path.of.names:value`: whether that attribute of the caller is the value, or a list with it.
    Attribute {
        /// The names, outermost first.
        path: Vec<String>,
        /// What the attribute must equal.
        value: Text,
    },
    /// What cannot be decided here, such as `http:` and `https:`, which ask another server, what is
    /// neither a literal nor a path, or a template that is none: nobody, even below a `not`.
    Unsupported {
        /// The check.
        check: String,
        /// Where the target lacks an attribute of this, the check is false instead: oslo.policy
        /// looks there first.
        value: Option<Text>,
    },
}

/// A text in a check, with `%(name)s` filled in from the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Template);

impl Text {
    /// # Errors
    /// What is in front of a `%` that is neither `%%` nor `%(name)s`.
    pub(super) fn parse(text: &str) -> Result<Self, Self> {
        Template::parse(text).map(Self).map_err(Self)
    }
}

/// There is no decision, so the caller is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undecided;

/// The input of a decision.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) target: &'a Target<'a>,
    pub(super) caller: &'a Credentials,
    /// Finds the check of another rule.
    pub(super) rules: &'a dyn Fn(&str) -> Option<&'a Check>,
}

impl Check {
    /// Decides. References between rules do not form a cycle: [`super::Rules`] rejects those.
    pub(super) fn decide<'a>(&'a self, input: Input<'a>) -> Result<bool, Undecided> {
        match self {
            Self::True => Ok(true),
            Self::False => Ok(false),
            Self::Unsupported { value: Some(value), .. } if value.fill(input).is_none() => {
                Ok(false)
            }
            Self::Unsupported { .. } => Err(Undecided),
            Self::Not(check) => check.decide(input).map(|is| !is),
            Self::And(checks) => {
                for check in checks {
                    if !check.decide(input)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Or(checks) => {
                for check in checks {
                    if check.decide(input)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Rule(name) => match (input.rules)(name) {
                Some(check) => check.decide(input),
                None => Ok(false),
            },
            Self::Role(text) => {
                let Some(role) = text.fill(input) else { return Ok(false) };
                Ok(input.caller.has_role(&role))
            }
            Self::Literal { literal, value } => {
                Ok(value.fill(input).is_some_and(|value| value == *literal))
            }
            Self::Attribute { path, value } => {
                let Some(value) = value.fill(input) else { return Ok(false) };
                find(&input.caller.attributes, path, &value)
            }
        }
    }

    /// The attributes of the target that this check itself looks at.
    pub(super) fn target_attributes(&self) -> impl Iterator<Item = &str> {
        let text = match self {
            Self::Role(text)
            | Self::Literal { value: text, .. }
            | Self::Attribute { value: text, .. } => Some(text),
            Self::Unsupported { value, .. } => value.as_ref(),
            Self::True
            | Self::False
            | Self::Not(_)
            | Self::And(_)
            | Self::Or(_)
            | Self::Rule(_) => None,
        };
        text.into_iter().flat_map(|text| text.0.attributes())
    }

    /// The rules that it refers to, each as often as it does.
    pub(super) fn references(&self) -> Vec<&str> {
        let mut found = Vec::new();
        self.walk(&mut |part| {
            if let Self::Rule(name) = part {
                found.push(name.as_str());
            }
        });
        found
    }

    /// Calls `visit` for this check and everything in it.
    pub(super) fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        match self {
            Self::Not(check) => check.walk(visit),
            Self::And(checks) | Self::Or(checks) => {
                for check in checks {
                    check.walk(visit);
                }
            }
            Self::True
            | Self::False
            | Self::Rule(_)
            | Self::Role(_)
            | Self::Literal { .. }
            | Self::Attribute { .. }
            | Self::Unsupported { .. } => {}
        }
    }
}

impl Text {
    /// `None` where the target lacks an attribute.
    fn fill<'a>(&'a self, input: Input<'a>) -> Option<Cow<'a, str>> {
        self.0.fill(|name| input.target.text(name))
    }
}

impl Credentials {
    fn has_role(&self, role: &str) -> bool {
        let Some(Value::Array(own)) = self.get("roles") else { return false };
        own.iter().any(|own| matches!(own, Value::String(own) if is_same_role(own, role)))
    }
}

/// Roles are compared without regard to case.
fn is_same_role(own: &str, role: &str) -> bool {
    if own.is_ascii() && role.is_ascii() {
        return own.eq_ignore_ascii_case(role);
    }
    // A letter outside of ASCII may have a lower case in ASCII (the Kelvin sign).
    own.to_lowercase() == role.to_lowercase()
}

/// One attribute. The caller of a token has about fifteen, and those that rules look at come first:
/// a walk costs less than a hash.
fn attribute<'a>(attributes: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if attributes.len() > 32 {
        return attributes.get(name);
    }
    attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Whether the attribute at a path has a value. A list on the path has it if one of its elements
/// does.
fn find(attributes: &Map<String, Value>, path: &[String], value: &str) -> Result<bool, Undecided> {
    let Some((name, rest)) = path.split_first() else { return Ok(false) };
    match attribute(attributes, name) {
        None => Ok(false),
        Some(Value::Array(list)) => {
            for element in list {
                if find_in(element, rest, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Some(found) => find_in(found, rest, value),
    }
}

fn find_in(found: &Value, path: &[String], value: &str) -> Result<bool, Undecided> {
    if path.is_empty() {
        return Ok(text_of(found) == value);
    }
    // A path into a value without members gives no decision.
    found.as_object().map_or(Err(Undecided), |attributes| find(attributes, path, value))
}
