//! `singletrack demo`: stopped in the middle, it leaves nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{SINGLETRACK, processes::all_gone};

#[test]
fn an_interrupt_in_the_middle_leaves_neither_processes_nor_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("UTF-8");
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("TMPDIR", path).env("PATH", "/usr/bin:/bin").arg("demo").stdin(Stdio::null());
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let mut stdout = BufReader::new(demo.stdout.take().expect("piped"));
    let mut heard = String::new();
    // One runs and another waits for it.
    while !heard.contains("waiting for") {
        assert!(stdout.read_line(&mut heard).expect("UTF-8") > 0, "it ended early:\n{heard}");
    }
    let pid = Pid::from_raw(i32::try_from(demo.id()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("it runs");
    // The racers hold the other ends of pipes to the demo, not of this one: it ends with the demo.
    stdout.read_to_string(&mut heard).expect("UTF-8");
    assert_eq!(demo.wait().expect("it ends").code(), Some(130), "{heard}");
    let left = fs::read_dir(path).expect("there").count();
    assert_eq!(left, 0, "a file is left");
    assert!(all_gone(&format!("TMPDIR={path}")), "a process is left:\n{heard}");
}
