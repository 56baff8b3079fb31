//! Errors of starting and running.

/// Why a driver could not start; the text says what is wrong and how to fix it.
pub type StartError = Box<dyn std::error::Error + Send + Sync>;

/// An error with all its causes, in one line.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        // Some errors include their cause in their own text.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
