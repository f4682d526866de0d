//! Tells the program which build it is; and links what is released without shared libraries, where the C compiler has all of
//! them as archives: the program then runs on any Linux of its architecture, and starts sooner.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What the compiler hands to the linker as `-l…`, and the archive of it.
const LIBRARIES: [(&str, &str); 7] =
    [("gcc_s", "gcc_eh"), ("util", "util"), ("rt", "rt"), ("pthread", "pthread"), ("m", "m"), ("dl", "dl"), ("c", "c")];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    println!("cargo::rustc-check-cfg=cfg(static_libc)");
    let unknown = || "unknown".to_owned();
    println!("cargo::rustc-env=SINGLETRACK_BUILD_COMMIT={}", commit().unwrap_or_else(unknown));
    println!("cargo::rustc-env=SINGLETRACK_BUILD_DATE={}", date().unwrap_or_else(unknown));
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

/// The commit, if this is a repository of its own, and no copy of the source within another one.
fn commit() -> Option<String> {
    let here = env::var_os("CARGO_MANIFEST_DIR")?;
    let git = |arguments: &[&str]| {
        let answer = Command::new("git").current_dir(&here).args(arguments).output().ok()?;
        let text = String::from_utf8(answer.stdout).ok()?.trim().to_owned();
        (answer.status.success() && !text.is_empty()).then_some(text)
    };
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(&here).ok()? {
        return None;
    }
    // What changes with another commit, and nothing else: a build without one stays as it is. A file that is not there would
    // count as changed each time.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in [Some("HEAD"), branch.as_deref(), Some("packed-refs")].into_iter().flatten() {
        let path = git(&["rev-parse", "--git-path", name]).map(|path| Path::new(&here).join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "HEAD"])
}

/// When it is built, or what a reproducible build says that it is to tell.
fn date() -> Option<String> {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let told = env::var("SOURCE_DATE_EPOCH").ok().filter(|epoch| !epoch.is_empty());
    let at = match told {
        Some(epoch) => UNIX_EPOCH.checked_add(Duration::from_secs(epoch.parse().ok()?))?,
        None => SystemTime::now(),
    };
    let seconds = at.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (days, second) = (i64::try_from(seconds / 86_400).ok()?, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// The date of a day since 1970, by the algorithm `civil_from_days` of Howard Hinnant's "chrono-Compatible Low-Level Date
/// Algorithms".
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
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
