//! Tests that mount something. Each runs again in a mount namespace of its own, which leaves nothing behind at its end.

use std::{env, fs::File, io::Write as _, path::Path, process::Command};

/// Runs the ignored test `name` in a mount namespace of its own.
///
/// It fails if there is no such namespace, because a test that did not run must not look as if it had passed.
pub fn in_a_mount_namespace(name: &str) {
    // Root needs no user namespace, and must still know other users.
    let is_root = rustix::process::geteuid().is_root();
    let ran = Command::new("unshare")
        .arg("--mount")
        .args((!is_root).then_some("--map-root-user"))
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(MARK, "1")
        .output();
    let ran = ran.unwrap_or_else(|error| {
        panic!("cannot run unshare ({error}): install util-linux, as scripts/prerequisites does")
    });
    let [stdout, stderr] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        stdout.contains("running 1 test"),
        "no mount namespace is to be had, which needs root or user namespaces (in a container: --privileged): {stderr}"
    );
    assert!(ran.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}

/// Whether this process is the one in the namespace. A run of all ignored tests must not mount anything over its own
/// directories.
pub fn is_inside() -> bool {
    env::var_os(MARK).is_some()
}

const MARK: &str = "SINGLETRACK_IN_A_MOUNT_NAMESPACE";

/// `mount` with these arguments.
pub fn mount(args: &[&str]) {
    let done = Command::new("mount").args(args).output().unwrap();
    assert!(done.status.success(), "mount {args:?}: {done:?}");
}

/// `umount`, even if the mount is still in use.
pub fn unmount(path: &Path) {
    let done = Command::new("umount").arg("--lazy").arg(path).output().unwrap();
    assert!(done.status.success(), "umount {}: {done:?}", path.display());
}

/// Uses up all the room on the disk.
pub fn fill(disk: &Path) {
    let mut filler = File::create(disk.join("filler")).unwrap();
    for size in [64 << 10, 4096, 1] {
        while filler.write_all(&vec![1; size]).is_ok() {}
    }
    filler.sync_all().unwrap();
}
