//! Links the unwinder into the program where a C compiler has it as an archive, so that no `libgcc_s.so.1` need be there, be
//! found and be loaded at each start.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |part| env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    // Another machine's compiler has another machine's archive.
    let is_ours = env::var("TARGET").is_ok_and(|target| env::var("HOST").is_ok_and(|host| target == host));
    if is_ours && target("OS") == "linux" && target("ENV") == "gnu" && has_archive() {
        println!("cargo::rustc-link-lib=dylib:+verbatim=libgcc_eh.a");
    }
}

fn has_archive() -> bool {
    let answer = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    // It answers with the bare name where it knows of none.
    answer.is_ok_and(|answer| Path::new(String::from_utf8_lossy(&answer.stdout).trim()).is_absolute())
}
