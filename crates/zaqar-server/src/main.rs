//! The binary, with everything that comes with this crate.

use std::process::ExitCode;

#[cfg(all(feature = "jemalloc", target_os = "linux"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    zaqar_server::main(&zaqar_server::Registry::default())
}
