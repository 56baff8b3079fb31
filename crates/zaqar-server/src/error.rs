//! Why the server could not start or go on.

/// Why a driver could not start; its text says what is wrong and what helps.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// An error with everything below it, in one line.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        // Some errors show their cause themselves.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
