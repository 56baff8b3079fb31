//! Access rules: which requests an application credential may make.

use std::sync::Arc;

use zaqar_api::RequestLimit;

use super::Options;
use super::token::{AccessRule, Token};

/// Whether a token may be used for a request.
///
/// `is_chained`: the request came with a valid service token, so another service made it on the
/// user's behalf; access rules apply only to requests that users make themselves. `request`: its
/// method and path. The requests of a connection are checked one by one, against [`limit_of`] its
/// token.
pub(super) fn allow(
    token: &Token,
    service_type: Option<&str>,
    is_chained: bool,
    request: Option<(&str, &str)>,
) -> Result<(), &'static str> {
    let Some(rules) = &token.access_rules else { return Ok(()) };
    let Some(service) = service_type else {
        return Err(
            "[keystone_authtoken] service_type is not set, so access rules cannot be checked",
        );
    };
    let is_in_catalog = token.catalog.iter().flatten().any(|one| one == service);
    if !is_in_catalog {
        return Err("[keystone_authtoken] service_type is not in the token's catalog");
    }
    let allows =
        |(method, path)| rules.iter().any(|rule| rule_matches(rule, service, method, path));
    if is_chained || request.is_none_or(allows) {
        Ok(())
    } else {
        Err("no access rule of the application credential allows the request")
    }
}

fn rule_matches(rule: &AccessRule, service: &str, method: &str, path: &str) -> bool {
    rule.service == service && rule.method == method && matches(&rule.path, path)
}

/// The access rules of a token, for requests that are checked later.
#[derive(Debug)]
pub(crate) struct Limit {
    token: Arc<Token>,
    service: String,
}

/// The limit of a token that [`allow`] accepted without a request; `None` for a token without
/// rules.
pub(crate) fn limit_of(token: &Arc<Token>, options: &Options) -> Option<Limit> {
    let is_limited = token.access_rules.is_some();
    let service = options.service_type.clone().unwrap_or_default();
    is_limited.then(|| Limit { token: Arc::clone(token), service })
}

impl RequestLimit for Limit {
    fn allows(&self, method: &str, path: &str) -> bool {
        let mut rules = self.token.access_rules.iter().flatten();
        rules.any(|rule| rule_matches(rule, &self.service, method, path))
    }
}

/// Whether a path matches a pattern. `*` and `{name}` match one or more characters other than `/`,
/// `**` matches any number of any characters.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut parts, mut rest) = (Vec::new(), pattern);
    while let Some(first) = rest.chars().next() {
        let (part, length) = if rest.starts_with("**") {
            (Part::Anything, 2)
        } else if first == '*' {
            (Part::Segment, 1)
        } else if let Some(end) = rest.find('}').filter(|_| first == '{') {
            (Part::Segment, end + 1)
        } else {
            (Part::Char(first), first.len_utf8())
        };
        parts.push(part);
        rest = &rest[length..];
    }
    // The parts of the pattern that can be reached with the characters so far. Cost: linear in both
    // the pattern and the path.
    let mut reached = vec![false; parts.len() + 1];
    reached[0] = true;
    skip(&parts, &mut reached);
    for c in path.chars() {
        let mut next = vec![false; parts.len() + 1];
        for (i, part) in parts.iter().enumerate() {
            match part {
                Part::Anything if reached[i] => next[i] = true,
                // The wildcard takes one more character, or its first.
                Part::Segment if c != '/' && (reached[i] || reached[i + 1]) => next[i + 1] = true,
                Part::Char(expected) if reached[i] && *expected == c => next[i + 1] = true,
                Part::Anything | Part::Segment | Part::Char(_) => {}
            }
        }
        skip(&parts, &mut next);
        reached = next;
    }
    reached[parts.len()]
}

/// A `**` can match nothing, so what follows it is reached too.
fn skip(parts: &[Part], reached: &mut [bool]) {
    for (i, part) in parts.iter().enumerate() {
        if reached[i] && matches!(part, Part::Anything) {
            reached[i + 1] = true;
        }
    }
}

enum Part {
    Char(char),
    Segment,
    Anything,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_stand_for_paths() {
        for (pattern, path, expected) in [
            ("/v2/queues", "/v2/queues", true),
            ("/v2/queues", "/v2/queues/q", false),
            ("/v2/queues/*", "/v2/queues/q", true),
            ("/v2/queues/*", "/v2/queues/", false),
            ("/v2/queues/*", "/v2/queues/q/messages", false),
            ("/v2/queues/{queue}/messages", "/v2/queues/q/messages", true),
            ("/v2/queues/{queue}/messages", "/v2/queues/a/b/messages", false),
            ("/v2/**", "/v2/", true),
            ("/v2/**", "/v2/queues/q/messages", true),
            ("/v2/**/messages", "/v2/queues/q/messages", true),
            ("/v2/**/messages", "/v2/queues/q/claims", false),
            ("**", "", true),
            ("*a*", "xay", true),
            ("*a*", "xa", false),
            ("/v2/.*", "/v2/.x", true),
            ("/v2/.*", "/v2/xx", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_of_stars_takes_no_time() {
        assert!(!matches(&"*a".repeat(1000), &"a".repeat(1999)));
        assert!(!matches(&format!("{}x", "**".repeat(1000)), &"/a".repeat(1000)));
    }

    #[test]
    fn a_limited_credential_needs_a_rule() {
        let token = |rules| {
            Token::read(&json!({"token": {
                "user": {"id": "u"},
                "expires_at": "2026-11-29T06:00:00Z",
                "catalog": [{"type": "messaging"}],
                "application_credential": {"access_rules": rules},
            }}))
            .unwrap()
        };
        let get = json!([{"service": "messaging", "method": "GET", "path": "/v2/queues/*"}]);
        let asks = |token: &Token, service, chained, method| {
            allow(token, service, chained, Some((method, "/v2/queues/q"))).is_ok()
        };
        assert!(asks(&token(json!(null)), None, false, "PUT"), "not limited");
        let limited = token(get);
        assert!(asks(&limited, Some("messaging"), false, "GET"));
        assert!(!asks(&limited, Some("messaging"), false, "PUT"));
        assert!(!asks(&limited, Some("other"), false, "GET"));
        assert!(!asks(&limited, None, false, "GET"));
        assert!(asks(&limited, Some("messaging"), true, "PUT"), "a service asks");
        assert!(!asks(&token(json!([])), Some("messaging"), false, "GET"));
    }
}
