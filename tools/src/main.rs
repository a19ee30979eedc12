//! The `larder` binary: the global allocator, and a call into the library where everything else is.
//!
//! mimalloc stands here and not in the library, so that tests and benches choose their own allocator.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    larder::main()
}
