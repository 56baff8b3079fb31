//! A Redis server as the store of what is measured: its memory.

use std::process::Command;

use crate::error::Error;

/// A server on this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Redis {
    pub(crate) port: u16,
    pub(crate) pid: u32,
}

impl Redis {
    /// Throws everything away.
    pub(crate) fn flush(self) -> Result<(), Error> {
        self.cli(&["FLUSHALL", "SYNC"]).map(drop)
    }

    /// Bytes that it has allocated.
    pub(crate) fn used_memory(self) -> Result<u64, Error> {
        let info = self.cli(&["INFO", "memory"])?;
        let field = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
        field.and_then(|value| value.trim().parse().ok()).ok_or(Error::Program {
            program: "redis-cli",
            reason: "INFO does not say how much memory is used".to_owned(),
        })
    }

    fn cli(self, command: &[&str]) -> Result<String, Error> {
        let port = self.port.to_string();
        run("redis-cli", Command::new("redis-cli").args(["-p", &port]).args(command))
    }
}

fn run(program: &'static str, command: &mut Command) -> Result<String, Error> {
    let failed = |reason: String| Error::Program { program, reason };
    let ran = command.output().map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    if !ran.status.success() {
        return Err(failed(format!("{said}{}", String::from_utf8_lossy(&ran.stderr))));
    }
    Ok(said)
}
