//! A server that also delivers to files. The tutorial is `docs/tutorials/notification-target.md`.

mod channel;

use std::process::ExitCode;
use std::sync::Arc;

use zaqar_server::Registry;

use channel::{Files, SCHEME};

fn main() -> ExitCode {
    zaqar_server::main(&registry())
}

/// Everything that comes with the server, and the channel.
fn registry() -> Registry {
    Registry::default().channel(SCHEME, |settings| {
        let options = settings.driver_section(format!("notification:channel:{SCHEME}"));
        let directory = options.text("directory")?.ok_or_else(|| options.missing("directory"))?;
        Ok(Arc::new(Files { directory: directory.into() }))
    })
}

#[cfg(test)]
mod tests;
