//! See [`zaqar_server::commands::gc`].

use std::process::ExitCode;

fn main() -> ExitCode {
    zaqar_server::commands::gc()
}
