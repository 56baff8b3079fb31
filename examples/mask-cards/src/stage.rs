//! The stage: all that has to be written.

use async_trait::async_trait;
use zaqar_api::{Asked, Context, PostMessages, Rejection, Stage};

/// Masks card numbers in posted bodies, all but their last four digits.
pub(crate) struct MaskCards {
    /// What stands for a digit.
    pub(crate) mask: u8,
}

#[async_trait]
impl Stage for MaskCards {
    async fn before(&self, _: &Context, asked: &mut Asked<'_>) -> Result<(), Rejection> {
        // Other operations on messages pass the pipeline too, and are left alone.
        if let Some(post) = asked.operation_mut::<PostMessages>() {
            for message in &mut post.messages {
                if let Some(masked) = masked(&message.body, self.mask) {
                    message.body = masked.into();
                }
            }
        }
        Ok(())
    }
}

/// The JSON text without card numbers; `None` where it has none.
pub(crate) fn masked(json: &[u8], mask: u8) -> Option<Vec<u8>> {
    let mut out = None;
    let (mut in_string, mut at) = (false, 0);
    while at < json.len() {
        match json[at] {
            b'"' => in_string = !in_string,
            // What is escaped ends no string.
            b'\\' => at += 1,
            b'0'..=b'9' => {
                let digits = digits(json, at, in_string);
                if is_card(json, &digits) {
                    // A number must stay one: nines, as it may not begin with zeros.
                    let mask = if in_string { mask } else { b'9' };
                    let out = out.get_or_insert_with(|| json.to_vec());
                    digits[..digits.len() - 4].iter().for_each(|digit| out[*digit] = mask);
                }
                at = digits.last().copied().unwrap_or(at);
            }
            _ => {}
        }
        at += 1;
    }
    out
}

/// The places of digits that belong together: in a string single spaces and dashes may separate
/// them.
fn digits(json: &[u8], from: usize, in_string: bool) -> Vec<usize> {
    let mut places = vec![from];
    let is_digit = |at: usize| json.get(at).is_some_and(u8::is_ascii_digit);
    let mut at = from + 1;
    loop {
        let separated = in_string && matches!(json.get(at), Some(b' ' | b'-'));
        if separated && is_digit(at + 1) {
            at += 1;
        }
        if !is_digit(at) {
            return places;
        }
        places.push(at);
        at += 1;
    }
}

/// Whether digits are a card number: 13 to 19 of them, with a check digit (ISO/IEC 7812).
fn is_card(json: &[u8], places: &[usize]) -> bool {
    let value = |(at, place): (usize, &usize)| {
        let digit = u32::from(json[*place] - b'0');
        let weighted = if at % 2 == 1 { digit * 2 } else { digit };
        if weighted > 9 { weighted - 9 } else { weighted }
    };
    (13..=19).contains(&places.len())
        && places.iter().rev().enumerate().map(value).sum::<u32>() % 10 == 0
}
