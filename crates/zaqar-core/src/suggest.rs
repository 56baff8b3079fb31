//! Finds the known name that is most similar to a mistyped one.

/// The candidate most similar to `name`, if it is similar enough: about one typo in three letters.
///
/// Case and the kind of dash are ignored. Cost: for each candidate the product of the lengths, at
/// most 64 characters each.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = letters(name);
    let limit = name.len().div_ceil(3);
    candidates
        .into_iter()
        .map(|candidate| (distance(&name, &letters(candidate)), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn letters(name: &str) -> Vec<char> {
    let fold = |c: char| if c == '-' { '_' } else { c.to_ascii_lowercase() };
    name.chars().take(64).map(fold).collect()
}

/// Insertions, deletions, changes and swaps of neighbours between the two.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_find_their_name_and_other_words_do_not() {
        let names = ["max_message_ttl", "max_message_delay", "debug", "external_port", "uri"];
        let table = [
            ("max_mesage_ttl", Some("max_message_ttl")),
            ("max_messgae_ttl", Some("max_message_ttl")),
            ("external-port", Some("external_port")),
            ("DEBUG", Some("debug")),
            ("url", Some("uri")),
            ("rui", Some("uri")),
            ("", None),
            ("colour", None),
            ("unrelated_option", None),
        ];
        for (name, expected) in table {
            assert_eq!(nearest(name, names), expected, "{name}");
        }
    }
}
