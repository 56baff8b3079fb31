//! A server whose posts pass a stage of its own, which masks card numbers. The README is the
//! tutorial.

mod stage;

use std::process::ExitCode;
use std::sync::Arc;

use zaqar_server::Registry;

use stage::MaskCards;

fn main() -> ExitCode {
    zaqar_server::main(&registry())
}

/// Everything that comes with the server, and the stage.
fn registry() -> Registry {
    Registry::default().stage("example.mask_cards", |settings| {
        let options = settings.driver_section("storage:stage:example.mask_cards");
        let mask = options.text("mask")?.unwrap_or_else(|| "*".to_owned());
        match mask.as_bytes() {
            [mask] if mask.is_ascii_graphic() && !b"\"\\".contains(mask) => {
                Ok(Arc::new(MaskCards { mask: *mask }))
            }
            _ => Err(options
                .invalid("mask", "one ASCII character, no quote and no backslash")
                .into()),
        }
    })
}

#[cfg(test)]
mod tests;
