//! `zaqar-status`: see `beside`.

use std::process::ExitCode;

#[path = "../beside.rs"]
mod beside;

fn main() -> ExitCode {
    beside::run("zaqar-status")
}
