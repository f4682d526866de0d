//! What happens where the system reports a full disk not by an error, but by a signal.
//!
//! SQLite maps the log's index (`-shm`) into memory. A file system that writes each page to a new place, such as btrfs,
//! needs room even for a page that has been there for long, and can report the lack of it only by SIGBUS. So the
//! handler gives up the ballast, and the page is written again. Where that does not help, the process says why it ends.
//!
//! A limit of file sizes (`ulimit -f`) ends a process by SIGXFSZ, unless the process handles the signal: then writing
//! fails with EFBIG.

use std::{
    ffi::{CString, c_char, c_int},
    mem::MaybeUninit,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    ptr,
    sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, Ordering},
};

/// The path of the ballast, while it is there. A path that was put here is never freed, because a handler may be
/// reading it.
static BALLAST: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());
/// Whether the handler gave it up, and the owner of the ballast does not know yet.
static WAS_GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// When it was given up last, in seconds of the monotonic clock; 0 for never.
static GIVEN_UP_AT: AtomicI64 = AtomicI64::new(0);
/// For how long after that other threads may still find the disk full.
const IN_EFFECT_AFTER_SECONDS: i64 = 2;

/// `SIGBUS`: the address is right, but there is no page for it.
const BUS_ADRERR: c_int = 2;

const GIVEN_UP: &[u8] = b"error: the disk is full (SIGBUS): the room that was kept back is given up\n";
const HOPELESS: &[u8] =
    b"error: SIGBUS: the disk is full, or a file of the store was made shorter while it was in use: the server ends at once\n";

/// Notes where the ballast is.
pub(super) fn remember(path: &Path) {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return };
    BALLAST.store(path.into_raw(), Ordering::Release);
}

/// Notes that there is none.
pub(super) fn forget() {
    BALLAST.store(ptr::null_mut(), Ordering::Release);
}

/// Whether the ballast was given up since this was last asked.
pub(super) fn was_given_up() -> bool {
    WAS_GIVEN_UP.swap(false, Ordering::AcqRel)
}

/// Gives the ballast up, if there is one. It does only what a signal handler may do.
pub(super) fn give_up() -> bool {
    let path = BALLAST.swap(ptr::null_mut(), Ordering::AcqRel);
    if path.is_null() {
        return false;
    }
    #[expect(unsafe_code, reason = "a signal handler cannot allocate, as the safe calls may")]
    // SAFETY: it is a C string that is never freed.
    let removed = unsafe { libc::unlink(path) } == 0;
    if removed {
        WAS_GIVEN_UP.store(true, Ordering::Release);
        GIVEN_UP_AT.store(seconds(), Ordering::Release);
    }
    removed
}

/// Whether the ballast was given up a moment ago. It does only what a signal handler may do.
fn was_given_up_just_now() -> bool {
    let at = GIVEN_UP_AT.load(Ordering::Acquire);
    at > 0 && seconds() - at <= IN_EFFECT_AFTER_SECONDS
}

/// The monotonic clock, in seconds.
fn seconds() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "a signal handler has nothing but the system's own calls")]
    // SAFETY: `now` is there to be written to.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now)
    };
    now.tv_sec
}

/// Keeps a full disk and a limit of file sizes from ending the process by a signal, where that is possible. For the
/// server's process.
pub fn survive_full_disks() {
    handle(libc::SIGBUS, on_bus_error);
    // A handler, and not `SIG_IGN`, because the children of a process ignore every signal that it ignores.
    handle(libc::SIGXFSZ, on_file_limit);
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handle(signal: c_int, handler: Handler) {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    #[expect(unsafe_code, reason = "the signal comes in the midst of an instruction, of which no safe interface tells")]
    // SAFETY: all of the action is set, and the handlers do only what a signal handler may do.
    let done = unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal, action, ptr::null_mut())
    };
    if done != 0 {
        tracing::warn!(signal, "a signal of a full disk cannot be handled");
    }
}

extern "C" fn on_file_limit(_: c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    #[expect(unsafe_code, reason = "a signal handler has nothing but the system's own calls")]
    // SAFETY: the kernel gives a valid `info`; everything that is called is async-signal-safe.
    unsafe {
        let errno = *libc::__errno_location();
        let is_of_a_page = (*info).si_code == BUS_ADRERR;
        if is_of_a_page && give_up() {
            libc::write(libc::STDERR_FILENO, GIVEN_UP.as_ptr().cast(), GIVEN_UP.len());
        } else if is_of_a_page && was_given_up_just_now() {
            let pause = libc::timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            libc::nanosleep(&raw const pause, ptr::null_mut());
        } else {
            libc::write(libc::STDERR_FILENO, HOPELESS.as_ptr().cast(), HOPELESS.len());
            // The instruction fails again, and ends the process as it would have without us.
            libc::signal(signal, libc::SIG_DFL);
        }
        *libc::__errno_location() = errno;
    }
}
