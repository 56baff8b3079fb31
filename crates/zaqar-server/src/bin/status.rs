//! See [`zaqar_server::commands::status`].

use std::process::ExitCode;

fn main() -> ExitCode {
    zaqar_server::commands::status()
}
