//! A control group for one command, if cgroup v2 is there and writable. Then the kernel ends everything in it with one
//! write, even processes that fork faster than anybody can read the process table. See decision 0014.
//!
//! It works in addition to the process group and the subreaper, and never replaces them: most CI containers mount the
//! tree read-only, and then every function here answers `None`. The shim of a group holds a lock on the group's folder.
//! So a process that gets the lock knows that the shim is gone, in any PID namespace, and may end the processes that
//! the shim left.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::time::Timespec;

use super::contract::{LOOK_AGAIN, VANISH_LIMIT};
use crate::clock::{BootInstant, Clock, SystemClock};

/// How the names of our groups begin.
const PREFIX: &str = "singletrack-";

/// From `linux/sched.h`. libc's own constant has too narrow a type to hold it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The group of one command.
pub(super) struct Cgroup {
    path: PathBuf,
    /// Its folder, locked.
    folder: File,
}

impl Cgroup {
    /// Makes a group below our own, after removing the groups of dead shims there; `None` if that is impossible.
    pub(super) fn make() -> Option<Cgroup> {
        let parent = own_group()?;
        sweep_below(&parent);
        let started_ms = SystemClock.boot().since(BootInstant::from_start(Duration::ZERO));
        let path = parent.join(format!("{PREFIX}{}-{}", std::process::id(), started_ms.as_millis()));
        fs::create_dir(&path).ok()?;
        let group = File::open(&path).map(|folder| Cgroup { path, folder }).ok()?;
        // A kernel that cannot kill a group (before 5.14) makes the group useless.
        let is_ours = flock(&group.folder, FlockOperation::NonBlockingLockExclusive).is_ok();
        (is_ours && group.path.join("cgroup.kill").exists()).then_some(group)
    }

    /// Forks this process; the child is in the group from its first instruction on. `None` if the system refuses;
    /// otherwise the result of fork(2). Moving the child there afterwards would miss the processes that it forked
    /// before, and can take milliseconds.
    #[expect(unsafe_code, reason = "the standard library cannot start a process in a cgroup")]
    pub(super) fn fork(&self) -> Option<libc::pid_t> {
        // SAFETY: the kernel requires zero in the fields that are not used.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.cgroup = u64::try_from(self.folder.as_raw_fd()).ok()?;
        // SAFETY: without CLONE_VM this is a fork(2). This process has one thread, so the child may run any code.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
        libc::pid_t::try_from(pid).ok().filter(|pid| *pid != -1)
    }

    /// Kills everything in the group, and everything that forks meanwhile.
    pub(super) fn kill(&self) {
        kill(&self.path);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Removing fails while a process runs in the group. Then the next `sweep` removes it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Ends the processes that dead shims left in their groups below ours, and removes the groups.
pub(super) fn sweep() {
    if let Some(own) = own_group() {
        sweep_below(&own);
    }
}

fn sweep_below(own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(folder) = File::open(&path) else { continue };
        if flock(folder.as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok() {
            end(&path);
            let _ = fs::remove_dir(&path);
        }
    }
}

/// Kills everything in a group and waits until it is empty. That takes long only if a process is stuck in the kernel.
fn end(path: &Path) {
    let is_empty = || fs::read_to_string(path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"));
    if is_empty() {
        return;
    }
    let Ok(events) = File::open(path.join("cgroup.events")) else { return };
    kill(path);
    let give_up_at = Instant::now() + VANISH_LIMIT;
    while !is_empty() && Instant::now() < give_up_at {
        let limit = Timespec::try_from(LOOK_AGAIN).ok();
        let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], limit.as_ref());
    }
}

fn kill(path: &Path) {
    let _ = fs::write(path.join("cgroup.kill"), "1");
}

/// The folder of the group that this process is in.
fn own_group() -> Option<PathBuf> {
    group_folder(&fs::read_to_string("/proc/self/mountinfo").ok()?, &fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The folder of the group of `/proc/PID/cgroup`, found through the mounts of `/proc/PID/mountinfo`, in the formats of
/// cgroups(7) and proc(5); `None` if no visible mount contains it.
fn group_folder(mounts: &str, groups: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let below = Path::new(group).strip_prefix(root).ok()?;
        // A group outside our namespace is shown with `..`, and a mount point with blanks is escaped.
        let is_plain = !below.starts_with("..") && !mount_point.contains('\\');
        is_plain.then(|| Path::new(mount_point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_group_is_found_below_whatever_is_mounted() {
        let found = |mounts: &str, group: &str| group_folder(mounts, &format!("1:cpu:/x\n0::{group}\n"));
        let whole = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        assert_eq!(found(whole, "/user.slice/a"), Some("/sys/fs/cgroup/unified/user.slice/a".into()));
        assert_eq!(found(whole, "/"), Some("/sys/fs/cgroup/unified".into()));
        let part = "30 23 0:26 /docker/abc /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw\n";
        assert_eq!(found(part, "/docker/abc/job"), Some("/sys/fs/cgroup/job".into()));
        assert_eq!(found(part, "/docker/other"), None);
        assert_eq!(found(whole, "/../outside"), None);
        assert_eq!(found("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", "/"), None);
        assert_eq!(group_folder(whole, "1:cpu:/x\n"), None, "cgroup v1 only");
    }
}
