//! The `singletrack` command.

use std::process::ExitCode;

use singletrack::{cli::dispatch, exec::process::shim, log, static_libc};

fn main() -> ExitCode {
    // The shim comes before everything else: it must stay small and single-threaded.
    if let Some(code) = shim::entry(std::env::args_os()) {
        std::process::exit(code);
    }
    static_libc::look_inside();
    if let Some(code) = dispatch::execute_will(std::env::args_os()) {
        return code;
    }
    let code = dispatch::main();
    log::flush();
    code
}
