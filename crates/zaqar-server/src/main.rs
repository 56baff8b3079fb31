//! The binary, with everything that comes with this crate.

use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    zaqar_server::main(&zaqar_server::Registry::default())
}
