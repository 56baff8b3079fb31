//! `zaqar-sql-db-manage`: see `beside`.

use std::process::ExitCode;

#[path = "../beside.rs"]
mod beside;

fn main() -> ExitCode {
    beside::run("zaqar-sql-db-manage")
}
