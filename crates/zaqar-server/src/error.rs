//! Errors of starting and running.

/// Why a driver could not start; the text says what is wrong and how to fix it.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// An error with all its causes, in one line.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        // Some errors include their cause in their own text; SQLite's then has a code before it.
        let own = match cause.strip_prefix("Error code ").and_then(|rest| rest.split_once(": ")) {
            Some((_, own)) => own,
            None => cause.as_str(),
        };
        if !text.ends_with(own) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::with_causes;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Error {
        text: &'static str,
        #[source]
        source: Option<Box<Self>>,
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        for (texts, expected) in [
            (
                ["cannot open x", "no database", "Error code 26: no database"],
                "cannot open x: no database",
            ),
            (
                ["cannot open x", "locked", "Error code 5: busy"],
                "cannot open x: locked: Error code 5: busy",
            ),
            (["a: b", "b", "c"], "a: b: c"),
        ] {
            let chain = |source, text| Some(Box::new(Error { text, source }));
            let error = texts.into_iter().rev().fold(None, chain).unwrap();
            assert_eq!(with_causes(&*error), expected);
        }
    }
}
