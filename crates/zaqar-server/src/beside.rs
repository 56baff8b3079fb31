//! The programs beside the server are the server's own file, run by another name. So each of them
//! has all drivers, and none is another file of its size.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// The server's file, in the directory of this one.
const SERVER: &str = "zaqar-server";

/// Replaces this process by the server's file, which acts as the program `name`. Returns only if
/// that fails; standard error says why, and the exit code is 2.
pub(crate) fn run(name: &str) -> ExitCode {
    let failure = server().map(|server| {
        let failed = Command::new(&server).arg0(name).args(env::args_os().skip(1)).exec();
        format!("{}: {failed}", server.display())
    });
    let why = failure.unwrap_or_else(|error| format!("its own file cannot be found: {error}"));
    eprintln!("{name}: {why}; it runs the {SERVER} that was installed beside it");
    ExitCode::from(2)
}

fn server() -> io::Result<PathBuf> {
    env::current_exe().map(|own| own.with_file_name(SERVER))
}
