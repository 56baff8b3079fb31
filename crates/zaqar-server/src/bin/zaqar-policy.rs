//! The binary `zaqar-policy`.

use std::process::ExitCode;

fn main() -> ExitCode {
    zaqar_server::policy_main()
}
