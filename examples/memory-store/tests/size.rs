//! The guide says how long a driver is: this one, counted.

const GUIDE: &str = include_str!("../../../docs/tutorials/storage-driver.md");

const FILES: [(&str, &str); 5] = [
    ("messages.rs", include_str!("../src/messages.rs")),
    ("queue.rs", include_str!("../src/queue.rs")),
    ("subscribers.rs", include_str!("../src/subscribers.rs")),
    ("store.rs", include_str!("../src/store.rs")),
    ("driver.rs", include_str!("../src/driver.rs")),
];

/// Lines that are neither blank nor a comment.
fn code_lines(text: &str) -> usize {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

#[test]
fn the_guide_has_the_right_figures() {
    for (name, text) in FILES {
        let row = format!("| `{name}` | {} |", code_lines(text));
        assert!(GUIDE.contains(&row), "the guide has no row {row:?}");
    }
    let total: usize = FILES.iter().map(|(_, text)| code_lines(text)).sum();
    let sentence = format!("the example has {total} lines of code");
    assert!(GUIDE.contains(&sentence), "the guide does not say {sentence:?}");
}
