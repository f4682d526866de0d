//! A command's process before it is the command. It is forked ahead of time, in its cgroup, and waits: so the moment the
//! word comes it has only to become the command. Without the word it ends by itself, whatever becomes of its shim.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions};

use super::cgroup::Cgroup;

/// What the word ends with: nothing that is cut off does.
const WORD_END: &[u8] = b"\0";

/// A process that waits. Dropping it ends it.
pub(super) struct Gate {
    child: Option<Pid>,
    word: Option<File>,
    /// Where the child says why it could not become the command; closed once it is.
    report: File,
}

impl Gate {
    /// Forks the process, in this cgroup if there is one and the system lets us: moving it there later would miss what it
    /// forked by then. To be called while this process has one thread.
    pub(super) fn prepare(command: Command, cgroup: Option<&Cgroup>) -> io::Result<Gate> {
        let (word, send_word) = pipe_with(PipeFlags::CLOEXEC)?;
        let (report, reporting) = pipe_with(PipeFlags::CLOEXEC)?;
        let shim = rustix::process::getpid();
        let pid = match cgroup.and_then(Cgroup::fork) {
            Some(pid) => pid,
            #[expect(unsafe_code, reason = "there is no safe way to fork")]
            // SAFETY: this process has one thread, so the child may go on as any program.
            None => unsafe { libc::fork() },
        };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop((send_word, report));
                let code = wait_and_become(command, word, reporting, shim);
                #[expect(unsafe_code, reason = "there is no other way")]
                // SAFETY: ends this child without running what the parent has registered for its own end.
                unsafe {
                    libc::_exit(code)
                }
            }
            pid => {
                let (word, report) = (Some(File::from(send_word)), File::from(report));
                Ok(Gate { child: Pid::from_raw(pid), word, report })
            }
        }
    }

    /// The process that waits.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.child
    }

    /// Gives the word: the process becomes the command, with these variables besides its own.
    pub(super) fn open(mut self, variables: &[(String, String)]) -> io::Result<Pid> {
        let mut text = Vec::new();
        for (name, value) in variables {
            text.extend_from_slice(name.as_bytes());
            text.push(b'=');
            text.extend_from_slice(value.as_bytes());
            text.push(0);
        }
        text.extend_from_slice(WORD_END);
        if let Some(mut word) = self.word.take() {
            word.write_all(&text)?;
        }
        let mut code = Vec::new();
        self.report.read_to_end(&mut code)?;
        if let Ok(code) = <[u8; 4]>::try_from(code) {
            return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code)));
        }
        self.child.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        drop(self.word.take());
        if let Some(child) = self.child.take() {
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
        }
    }
}

/// In the child; answers the code with which it ends, if it does not become the command.
fn wait_and_become(mut command: Command, word: OwnedFd, reporting: OwnedFd, shim: Pid) -> i32 {
    let dies_with_shim = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // Had the shim died before that call, the signal would never come.
    let error = if rustix::process::getppid() != Some(shim) {
        return 0;
    } else if let Err(error) = dies_with_shim {
        error.into()
    } else {
        let mut text = Vec::new();
        match File::from(word).read_to_end(&mut text) {
            Ok(_) => {}
            Err(_) => return 0,
        }
        let Some(variables) = variables(&text) else { return 0 };
        command.envs(variables).exec()
    };
    let code = error.raw_os_error().unwrap_or(libc::EINVAL);
    let _ = rustix::io::write(&reporting, &code.to_ne_bytes());
    127
}

/// What the word says; `None` if it is none.
fn variables(text: &[u8]) -> Option<Vec<(OsString, OsString)>> {
    let text = text.strip_suffix(WORD_END)?;
    if text.is_empty() {
        return Some(Vec::new());
    }
    let variables = text.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    let pair = |variable: &[u8]| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        Some((OsString::from_vec(variable[..at].to_vec()), OsString::from_vec(variable[at + 1..].to_vec())))
    };
    variables.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_cut_off_is_none() {
        let whole = b"A=1\0B=x=y\0\0";
        let (a, b) = (("A".into(), "1".into()), ("B".into(), "x=y".into()));
        assert_eq!(variables(whole), Some(vec![a, b]));
        for cut in 0..whole.len() {
            assert_eq!(variables(&whole[..cut]), None, "cut after {cut} bytes");
        }
        assert_eq!(variables(b"\0"), Some(Vec::new()));
    }
}
