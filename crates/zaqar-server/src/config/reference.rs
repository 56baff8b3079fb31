//! References in values: `$name`, `${name}`, `${section.name}`, with `$$` and `\$` for a dollar
//! sign.
//!
//! The rules are those of Python's `string.Template`, as oslo.config uses it. A reference stands
//! for the text of the other option, with its references resolved.

use super::error::Error;
use super::origin::Origin;
use super::raw::Raw;

/// References that are resolved for one value, at most, including nested ones.
const MAX_REFERENCES: usize = 1000;
/// Nesting of references, at most.
const MAX_DEPTH: usize = 32;
/// The longest value with resolved references, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// The text of a value of `[section] option`, with its references resolved.
pub(super) fn follow(
    raw: &Raw,
    section: &str,
    option: &str,
    text: &str,
    origin: &Origin,
) -> Result<String, Error> {
    let mut walk = Walk { raw, path: vec![(section.to_owned(), option.to_owned())], followed: 0 };
    walk.expand(section, text).map_err(|(reference, what)| Error::Reference {
        origin: origin.clone(),
        section: section.into(),
        option: option.into(),
        reference: if raw.known().is_secret(section, option) {
            "***".into()
        } else {
            reference.into()
        },
        what,
    })
}

struct Walk<'a> {
    raw: &'a Raw,
    /// The options that are being expanded: one that occurs again is a cycle.
    path: Vec<(String, String)>,
    followed: usize,
}

type Failure = (String, &'static str);

impl Walk<'_> {
    fn expand(&mut self, section: &str, text: &str) -> Result<String, Failure> {
        let text = text.replace("\\$", "$$");
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find('$') {
            expanded.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                expanded.push('$');
                rest = after;
            } else if let Some((name, after)) = reference(rest) {
                expanded.push_str(&self.look_up(section, name)?);
                if expanded.len() > MAX_BYTES {
                    return Err((name.to_owned(), "makes the value too long"));
                }
                rest = after;
            } else {
                expanded.push('$');
            }
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn look_up(&mut self, section: &str, name: &str) -> Result<String, Failure> {
        let fail = |what| Err((name.to_owned(), what));
        let Some((section, option)) = self.target(section, name) else {
            return fail("names no option; write $$ for a dollar sign");
        };
        let key = (section, option);
        if self.path.contains(&key) {
            return fail("refers to itself");
        }
        self.followed += 1;
        if self.followed > MAX_REFERENCES || self.path.len() > MAX_DEPTH {
            return fail("refers to too many other options");
        }
        let set = self.raw.values(&key.0, &key.1).last().map(|value| value.text.as_str());
        let default = || self.raw.known().find(&key.0, &key.1).and_then(|known| known.default);
        let text = set.or_else(default).unwrap_or_default().to_owned();
        self.path.push(key.clone());
        let expanded = self.expand(&key.0, &text).map_err(|(_, what)| (name.to_owned(), what))?;
        self.path.pop();
        Ok(expanded)
    }

    /// The option that a name means: in the section that it names, in the same section, or in
    /// `[DEFAULT]`.
    fn target(&self, section: &str, name: &str) -> Option<(String, String)> {
        let (section, option) = name.split_once('.').unwrap_or((section, name));
        [(section, option), ("DEFAULT", name)]
            .into_iter()
            .find(|(section, option)| {
                self.raw.known().find(section, option).is_some()
                    || !self.raw.values(section, option).is_empty()
            })
            .map(|(section, option)| (section.to_owned(), option.to_owned()))
    }
}

/// The name after a dollar sign and the text after it; `None` if the dollar sign is not a
/// reference.
fn reference(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('{') {
        Some(inner) => {
            let (name, rest) = name(inner)?;
            Some((name, rest.strip_prefix('}')?))
        }
        None => name(text),
    }
}

fn name(text: &str) -> Option<(&str, &str)> {
    let first = |c: char| c == '_' || c.is_ascii_alphabetic();
    let more = |c: char| c == '.' || first(c) || c.is_ascii_digit();
    text.starts_with(first).then(|| text.split_at(text.find(|c| !more(c)).unwrap_or(text.len())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::config::ini;
    use crate::config::origin::Origin;
    use crate::config::raw::Raw;

    fn follow(file: &str, section: &str, text: &str) -> Result<String, String> {
        let path = Arc::from("z.conf");
        let mut raw = Raw::default();
        raw.add(&path, ini::parse(&path, file.as_bytes()).unwrap());
        super::follow(&raw, section, "x", text, &Origin::file(&path, 9)).map_err(|e| e.to_string())
    }

    /// The rows without `max_message_ttl` were compared with oslo.config 10.7.0.
    #[test]
    fn references_are_followed_as_oslo_follows_them() {
        let file = "[DEFAULT]\nb = bee\nempty =\nnested = <$b>\n[g]\nc = sea\nb = gee\n";
        let table = [
            ("DEFAULT", "x$b y", "xbee y"),
            ("DEFAULT", "${b}b$empty|", "beeb|"),
            ("DEFAULT", "${g.c}|$g.c", "sea|sea"),
            ("DEFAULT", "$nested", "<bee>"),
            ("g", "$c $b $nested", "sea gee <bee>"),
            ("DEFAULT", r"\$b $$b \\$b $ $1 a$", r"$b $b \$b $ $1 a$"),
            ("DEFAULT", "${drivers:message_store:redis.uri}", "${drivers:message_store:redis.uri}"),
            ("DEFAULT", "{curly} %(x)s ${} ${b", "{curly} %(x)s ${} ${b"),
            ("transport", "$max_message_ttl", "1209600"),
            ("DEFAULT", "${transport.max_message_ttl}", "1209600"),
            ("DEFAULT", "[$log_file]", "[]"),
        ];
        for (section, text, expected) in table {
            assert_eq!(follow(file, section, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_reference_to_nothing_says_so() {
        for (text, name) in
            [("a $nope!", "nope"), ("$b.", "b."), ("${g.nope}", "g.nope"), ("$B", "B")]
        {
            let what = format!(
                "z.conf:9: [DEFAULT] x: ${{{name}}} names no option; write $$ for a dollar sign"
            );
            assert_eq!(follow("[DEFAULT]\nb = 1\n", "DEFAULT", text), Err(what));
        }
    }

    /// A text that looks like a reference may be part of a password.
    #[test]
    fn a_reference_in_a_secret_is_not_shown() {
        let path = Arc::from("z.conf");
        let origin = Origin::file(&path, 2);
        let error = super::follow(&Raw::default(), "signed_url", "secret_key", "pa$word", &origin);
        assert_eq!(
            error.unwrap_err().to_string(),
            "z.conf:2: [signed_url] secret_key: ${***} names no option; write $$ for a dollar sign"
        );
    }

    #[test]
    fn circles_and_explosions_end() {
        let circle = follow("[DEFAULT]\nb = $c\nc = $b\n", "DEFAULT", "$b");
        assert_eq!(circle.unwrap_err(), "z.conf:9: [DEFAULT] x: ${b} refers to itself");

        let mut file = String::from("[DEFAULT]\na0 =\n");
        for n in 1..30 {
            file.push_str(&format!("a{n} = $a{0}$a{0}\n", n - 1));
        }
        let doubling = follow(&file, "DEFAULT", "$a29").unwrap_err();
        assert_eq!(doubling, "z.conf:9: [DEFAULT] x: ${a29} refers to too many other options");

        let deep: String = (1..100).map(|n| format!("a{n} = $a{}\n", n + 1)).collect();
        let deep = follow(&format!("[DEFAULT]\n{deep}a100 ="), "DEFAULT", "$a1").unwrap_err();
        assert_eq!(deep, "z.conf:9: [DEFAULT] x: ${a1} refers to too many other options");

        let long = format!("[DEFAULT]\na = {}\n", "x".repeat(4096));
        let long = follow(&long, "DEFAULT", &"$a ".repeat(300)).unwrap_err();
        assert_eq!(long, "z.conf:9: [DEFAULT] x: ${a} makes the value too long");
    }
}
