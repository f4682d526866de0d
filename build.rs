//! Links what is released without shared libraries, where the C compiler has all of them as archives: the program then runs
//! on any Linux of its architecture, and starts sooner.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// What the compiler hands to the linker as `-l…`, and the archive of it.
const LIBRARIES: [(&str, &str); 7] =
    [("gcc_s", "gcc_eh"), ("util", "util"), ("rt", "rt"), ("pthread", "pthread"), ("m", "m"), ("dl", "dl"), ("c", "c")];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    println!("cargo::rustc-check-cfg=cfg(static_libc)");
    if !is_wanted() {
        return Ok(());
    }
    let Some(folder) = archives()? else { return Ok(()) };
    println!("cargo::rustc-cfg=static_libc");
    for argument in [
        // The last of several kinds counts, and the first folder of several that have a library.
        "-static-pie".to_owned(),
        format!("-L{}", folder.display()),
        // The archives need each other, and some linkers look into each but once.
        "-Wl,--start-group,-lc,-lgcc,-lgcc_s,--end-group".to_owned(),
    ] {
        println!("cargo::rustc-link-arg-bin=singletrack={argument}");
    }
    Ok(())
}

/// Only what is released: a test's program must load a library that fakes the clock. Another machine's compiler has another
/// machine's archives, and another linker than the usual one may know the arguments by other names.
fn is_wanted() -> bool {
    let get = |name: &str| env::var(name).unwrap_or_default();
    get("PROFILE") == "release"
        && get("CARGO_CFG_TARGET_OS") == "linux"
        && get("CARGO_CFG_TARGET_ENV") == "gnu"
        && get("TARGET") == get("HOST")
        && env::var_os("RUSTC_LINKER").is_none()
}

/// A folder with all archives, by the names of the shared libraries; `None` where one is missing.
fn archives() -> io::Result<Option<PathBuf>> {
    let folder = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("archives");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for (library, archive) in LIBRARIES {
        let Some(path) = find(archive) else { return Ok(None) };
        // Another version of the compiler has its own elsewhere, and without its archive a library would be shared after all.
        println!("cargo::rerun-if-changed={}", path.display());
        symlink(path, folder.join(format!("lib{library}.a")))?;
    }
    Ok(Some(folder))
}

fn find(archive: &str) -> Option<PathBuf> {
    let answer = Command::new("cc").arg(format!("-print-file-name=lib{archive}.a")).output().ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
    // It answers with the bare name where it knows of none.
    path.is_absolute().then_some(path)
}
