//! See [`zaqar_server::commands::manage`].

use std::process::ExitCode;

fn main() -> ExitCode {
    zaqar_server::commands::manage()
}
