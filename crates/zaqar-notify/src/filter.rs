//! Filters of subscriptions: which messages a subscriber wants, by the message's body.
//!
//! `options.filter` is an object from paths to lists of conditions. A message passes if for every
//! path at least one condition holds:
//!
//! ```json
//! {"body.type": ["created", {"prefix": "del"}], "body.size": [{"numeric": [">", 10, "<=", 20]}]}
//! ```
//!
//! | condition | holds for |
//! |---|---|
//! | a string, number, boolean or null | a value equal to it |
//! | `{"prefix": "x"}` | strings that begin with it |
//! | `{"numeric": ["<", 5]}`, `[">", 1, "<=", 5]`, `["=", 3]` | numbers in that range |
//! | `{"exists": true}`, `{"exists": false}` | whether there is a value at the path |
//! | `{"anything-but": …}` | any value except this one, those in the list, or those with the prefix |
//!
//! A path is `body`, optionally followed by names of members, separated by dots. If the value at a
//! path is an array, a condition holds if it holds for one of its elements.

use serde_json::{Map, Number, Value};

/// Paths of a filter, at most.
pub const MAX_PATHS: usize = 16;
/// Conditions of a filter, all paths together, at most.
pub const MAX_CONDITIONS: usize = 128;

/// A filter, parsed and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    rules: Vec<(Vec<String>, Vec<Condition>)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Equals(Value),
    Prefix(String),
    Numeric(Vec<(Comparison, f64)>),
    Exists(bool),
    AnythingBut(Vec<Condition>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// Why a filter is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is not an object.
    #[error("filter must be an object of paths and lists of conditions")]
    NoObject,
    /// A path that does not begin with `body`.
    #[error("filter: the path {path:?} must be body, or body, a dot and names of members")]
    Path {
        /// The path.
        path: String,
    },
    /// A condition that is not valid.
    #[error(
        "filter: {path} must have a list of values, prefix, numeric, exists and anything-but \
         conditions"
    )]
    Condition {
        /// Its path.
        path: String,
    },
    /// More than [`MAX_PATHS`] or [`MAX_CONDITIONS`].
    #[error("filter: at most {MAX_PATHS} paths and {MAX_CONDITIONS} conditions are allowed")]
    TooLarge,
}

impl Filter {
    /// Parses the option `filter`.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn parse(filter: &Value) -> Result<Self, FilterError> {
        let paths = filter.as_object().ok_or(FilterError::NoObject)?;
        let mut rules = Vec::with_capacity(paths.len().min(MAX_PATHS));
        let mut left = MAX_CONDITIONS;
        if paths.len() > MAX_PATHS {
            return Err(FilterError::TooLarge);
        }
        for (path, conditions) in paths {
            let refused = || FilterError::Condition { path: path.clone() };
            let mut names = path.split('.').map(str::to_owned);
            if names.next().as_deref() != Some("body") {
                return Err(FilterError::Path { path: path.clone() });
            }
            let names: Vec<_> = names.collect();
            if names.iter().any(String::is_empty) {
                return Err(FilterError::Path { path: path.clone() });
            }
            let conditions = conditions.as_array().filter(|list| !list.is_empty());
            let conditions = conditions.ok_or_else(refused)?;
            left = left.checked_sub(conditions.len()).ok_or(FilterError::TooLarge)?;
            let read = conditions.iter().map(|one| Condition::parse(one, &mut left));
            let read = read.collect::<Option<Vec<_>>>().ok_or_else(refused)?;
            rules.push((names, read));
        }
        Ok(Self { rules })
    }

    /// Whether a message with this body passes. Cost: one parse of the body, then its conditions
    /// times the elements of arrays at the paths. A body that is not JSON passes only an empty
    /// filter.
    pub fn passes(&self, body: &[u8]) -> bool {
        if self.rules.is_empty() {
            return true;
        }
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return false };
        self.rules.iter().all(|(path, conditions)| {
            let value = path.iter().try_fold(&body, |value, name| value.get(name));
            conditions.iter().any(|condition| condition.holds(value))
        })
    }
}

impl Condition {
    fn parse(condition: &Value, left: &mut usize) -> Option<Self> {
        match condition {
            Value::Object(object) => Self::parse_named(object, left),
            Value::Array(_) => None,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                Some(Self::Equals(condition.clone()))
            }
        }
    }

    fn parse_named(object: &Map<String, Value>, left: &mut usize) -> Option<Self> {
        let (name, value) = object.iter().next().filter(|_| object.len() == 1)?;
        match (name.as_str(), value) {
            ("prefix", Value::String(prefix)) => Some(Self::Prefix(prefix.clone())),
            ("exists", Value::Bool(exists)) => Some(Self::Exists(*exists)),
            ("numeric", Value::Array(terms)) => numeric(terms).map(Self::Numeric),
            ("anything-but", Value::Array(list)) if !list.is_empty() => {
                *left = left.checked_sub(list.len())?;
                let scalars = list.iter().filter(|one| !one.is_object());
                let read: Vec<_> =
                    scalars.map(|one| Self::parse(one, left)).collect::<Option<_>>()?;
                (read.len() == list.len()).then_some(Self::AnythingBut(read))
            }
            ("anything-but", Value::Object(object)) if object.contains_key("prefix") => {
                Self::parse_named(object, left).map(|one| Self::AnythingBut(vec![one]))
            }
            ("anything-but", scalar) if !scalar.is_object() && !scalar.is_array() => {
                Some(Self::AnythingBut(vec![Self::Equals(scalar.clone())]))
            }
            _ => None,
        }
    }

    fn holds(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Exists(exists), value) => *exists == value.is_some(),
            (_, None) => false,
            // No element may be an excluded value.
            (Self::AnythingBut(excluded), Some(Value::Array(elements))) => {
                elements.iter().all(|one| !excluded.iter().any(|not| not.holds_for(one)))
            }
            (Self::AnythingBut(excluded), Some(value)) => {
                !excluded.iter().any(|not| not.holds_for(value))
            }
            (condition, Some(Value::Array(elements))) => {
                elements.iter().any(|one| condition.holds_for(one))
            }
            (condition, Some(value)) => condition.holds_for(value),
        }
    }

    fn holds_for(&self, value: &Value) -> bool {
        match self {
            Self::Equals(Value::Number(wanted)) => {
                value.as_number().is_some_and(|number| is_equal(wanted, number))
            }
            Self::Equals(wanted) => wanted == value,
            Self::Prefix(prefix) => value.as_str().is_some_and(|text| text.starts_with(prefix)),
            Self::Numeric(terms) => value.as_f64().is_some_and(|number| {
                terms.iter().all(|(comparison, bound)| comparison.holds(number, *bound))
            }),
            Self::Exists(exists) => *exists,
            Self::AnythingBut(excluded) => !excluded.iter().any(|not| not.holds_for(value)),
        }
    }
}

/// Compares integers exactly, so that 64-bit ids are not confused; other numbers by value: 1 equals
/// 1.0.
fn is_equal(one: &Number, other: &Number) -> bool {
    match (one.as_i64(), other.as_i64()) {
        (Some(one), Some(other)) => one == other,
        _ => one.as_f64() == other.as_f64(),
    }
}

/// One comparison, or a lower and an upper one.
fn numeric(terms: &[Value]) -> Option<Vec<(Comparison, f64)>> {
    if !matches!(terms.len(), 2 | 4) {
        return None;
    }
    let pairs = terms.chunks(2).map(|pair| {
        let comparison = match pair[0].as_str()? {
            "=" => Comparison::Equal,
            "<" => Comparison::Less,
            "<=" => Comparison::AtMost,
            ">" => Comparison::Greater,
            ">=" => Comparison::AtLeast,
            _ => return None,
        };
        Some((comparison, pair[1].as_f64()?))
    });
    pairs.collect()
}

impl Comparison {
    fn holds(self, number: f64, bound: f64) -> bool {
        match self {
            Self::Equal => number == bound,
            Self::Less => number < bound,
            Self::AtMost => number <= bound,
            Self::Greater => number > bound,
            Self::AtLeast => number >= bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn passes(filter: Value, body: Value) -> bool {
        let filter = Filter::parse(&filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
        filter.passes(body.to_string().as_bytes())
    }

    #[test]
    fn each_condition_lets_through_what_it_says() {
        let big = json!(9_007_199_254_740_993_i64);
        let table = [
            (json!(["a", "b"]), vec![json!("b"), json!(["x", "a"])], vec![json!("c"), json!(1)]),
            (json!([1]), vec![json!(1), json!(1.0)], vec![json!("1"), json!(true), json!(2)]),
            (json!([big]), vec![big.clone()], vec![json!(9_007_199_254_740_992_i64)]),
            (json!([null, true]), vec![json!(null), json!(true)], vec![json!(false), json!(0)]),
            (json!([{"prefix": "ab"}]), vec![json!("abc"), json!("ab")], vec![json!("a")]),
            (
                json!([{"numeric": [">", 1, "<=", 5]}]),
                vec![json!(1.5), json!(5)],
                vec![json!(1), json!(6), json!("3"), json!(null)],
            ),
            (json!([{"numeric": ["=", 3]}]), vec![json!(3.0)], vec![json!(3.1)]),
            (json!([{"numeric": [">=", -1]}]), vec![json!(-1), json!([-5, 7])], vec![json!(-2)]),
            (json!([{"exists": true}]), vec![json!(null), json!([])], vec![]),
            (
                json!([{"anything-but": ["a", 1]}]),
                vec![json!("b"), json!(2), json!([])],
                vec![json!("a"), json!(1.0), json!(["b", "a"])],
            ),
            (json!([{"anything-but": "a"}]), vec![json!("b")], vec![json!("a")]),
            (
                json!([{"anything-but": {"prefix": "a"}}]),
                vec![json!("ba"), json!(1)],
                vec![json!("ab")],
            ),
        ];
        for (conditions, passing, others) in table {
            for (values, expected) in [(passing, true), (others, false)] {
                for value in values {
                    let found = passes(json!({"body.x": conditions}), json!({"x": value}));
                    assert_eq!(found, expected, "{conditions} {value}");
                }
            }
            // Only `exists: false` holds where there is no value.
            assert!(!passes(json!({"body.x": conditions}), json!({"y": 1})), "{conditions}");
        }
        assert!(passes(json!({"body.x": [{"exists": false}]}), json!({"y": 1})));
        assert!(!passes(json!({"body.x": [{"exists": false}]}), json!({"x": null})));
    }

    #[test]
    fn all_paths_must_pass_and_one_condition_each() {
        let filter = json!({"body.a.b": [1, 2], "body.c": ["x"]});
        assert!(passes(filter.clone(), json!({"a": {"b": 2}, "c": "x"})));
        assert!(!passes(filter.clone(), json!({"a": {"b": 3}, "c": "x"})));
        assert!(!passes(filter.clone(), json!({"a": {"b": 2}})));
        assert!(!passes(filter, json!("text")));
        assert!(passes(json!({"body": ["text"]}), json!("text")));
        assert!(passes(json!({}), json!(7)));
        assert!(!Filter::parse(&json!({"body": [1]})).unwrap().passes(b"no JSON"));
    }

    #[test]
    fn what_is_no_filter_says_why() {
        let path = |path: &str| FilterError::Path { path: path.into() };
        let condition = || FilterError::Condition { path: "body.x".into() };
        let many: Map<_, _> = (0..17).map(|at| (format!("body.{at}"), json!([1]))).collect();
        for (filter, expected) in [
            (json!([]), FilterError::NoObject),
            (json!({"x": [1]}), path("x")),
            (json!({"": [1]}), path("")),
            (json!({"body..x": [1]}), path("body..x")),
            (json!({"body.": [1]}), path("body.")),
            (json!({"body.x": 1}), condition()),
            (json!({"body.x": []}), condition()),
            (json!({"body.x": [[1]]}), condition()),
            (json!({"body.x": [{}]}), condition()),
            (json!({"body.x": [{"prefix": 1}]}), condition()),
            (json!({"body.x": [{"prefix": "a", "exists": true}]}), condition()),
            (json!({"body.x": [{"suffix": "a"}]}), condition()),
            (json!({"body.x": [{"numeric": ["<"]}]}), condition()),
            (json!({"body.x": [{"numeric": ["!", 1]}]}), condition()),
            (json!({"body.x": [{"numeric": ["<", "1"]}]}), condition()),
            (json!({"body.x": [{"anything-but": []}]}), condition()),
            (json!({"body.x": [{"anything-but": [{"prefix": "a"}]}]}), condition()),
            (json!({"body.x": [{"anything-but": {"exists": true}}]}), condition()),
            (json!({"body.x": vec![1; MAX_CONDITIONS + 1]}), FilterError::TooLarge),
            (Value::Object(many), FilterError::TooLarge),
        ] {
            assert_eq!(Filter::parse(&filter), Err(expected), "{filter}");
        }
    }
}
