//! Simulates kernels, file systems and profiles that lack, or forbid, optional features.

use std::{io, os::unix::process::CommandExt as _, process::Command};

/// Makes these system calls fail with this error in the command, and in everything that it starts.
pub fn forbid(command: &mut Command, calls: &[libc::c_long], error: i32) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![step(LOAD, 0, 0, 0)];
    for call in calls {
        filter.push(step(EQUALS, 0, 1, u32::try_from(*call).unwrap()));
        filter.push(step(ANSWER, 0, 0, libc::SECCOMP_RET_ERRNO | u32::try_from(error).unwrap()));
    }
    filter.push(step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        #[expect(unsafe_code, reason = "there is no safe way to install a filter")]
        // SAFETY: the kernel copies the filter, which lives as long as this closure.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
        };
        if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    #[expect(unsafe_code, reason = "the closure makes two system calls and allocates nothing, as pre_exec demands")]
    // SAFETY: prctl(2) is async-signal-safe.
    unsafe {
        command.pre_exec(install);
    }
}
