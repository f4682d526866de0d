//! The `singletrack` command.

fn main() {
    // The shim comes before everything else: it must stay small and single-threaded.
    if let Some(code) = singletrack::worker::shim::entry(std::env::args_os()) {
        std::process::exit(code);
    }
}
