#![doc = include_str!("../README.md")]

mod advice;
mod arguments;
mod commands;
mod connect;
mod drain;
mod output;
mod redrive;
mod top;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use zaqar_client::Error;

use crate::arguments::{Arguments, Command};
use crate::output::Output;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server or the way to it.
    Client(Error),
    /// What was given on the command line or in a file.
    Usage(String),
    /// Standard input or output.
    Io(io::Error),
    /// Another failure, and how far the command got before.
    Partly(Box<Self>, String),
}

impl Failure {
    /// Adds how far the command got.
    pub(crate) fn with(self, progress: String) -> Self {
        Self::Partly(Box::new(self), progress)
    }

    /// 2 for a wrong command line or input, 1 for anything else.
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Client(_) | Self::Io(_) => 1,
            Self::Partly(failure, _) => failure.code(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough: `zaqar … | head`.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nothing can be written nothing can be said.
            let _ = writeln!(io::stderr(), "zaqar: {}", advice::text(&failure));
            ExitCode::from(failure.code())
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    if let Command::Completion { shell } = arguments.command {
        // The generator panics where it cannot write, such as into a pipe that is closed.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "zaqar", &mut script);
        return Ok(io::stdout().write_all(&script)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let client = connect::client(&arguments.connection)?;
        let output = Output::new(arguments.format);
        arguments.command.run(&client, &output).await
    });
    // A thread that reads an open standard input is not waited for.
    runtime.shutdown_background();
    ended
}
