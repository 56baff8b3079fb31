//! The server with one store more. The README says how to run it.

use std::process::ExitCode;
use std::sync::Arc;

use zaqar_memory_store::{MemoryDriver, NAME};
use zaqar_server::Registry;

fn main() -> ExitCode {
    zaqar_server::main(&Registry::default().store(NAME, Arc::new(MemoryDriver)))
}
