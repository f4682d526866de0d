//! The shim alone, as a worker that dies or stops would leave it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use singletrack::{
    clock::{BootInstant, Clock, SystemClock},
    exec::process::leftovers::leftovers_gone,
};
use tempfile::TempDir;

use super::{PATIENCE, runs};

const BUDGET: Duration = Duration::from_millis(200);

/// Two processes that ignore SIGTERM, the second in a session of its own; prints both pids.
const STUBBORN: &str = "trap '' TERM; setsid sh -c 'echo $$; while :; do sleep 600; done' &
echo $$; while :; do sleep 600; done";

/// No deployment has this id: what the shim itself ends must not depend on it.
const NOBODY: &str = "none";

/// A shim, seen from where its worker would be.
struct Shim {
    child: Child,
    control: BufReader<UnixStream>,
    output: BufReader<std::process::ChildStdout>,
    lock: PathBuf,
    _directory: TempDir,
}

impl Shim {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lock = directory.path().join("lock");
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_singletrack"))
            .arg(singletrack::exec::process::contract::ARGUMENT)
            .arg(&lock)
            .arg(BUDGET.as_millis().to_string())
            .args(["sh", "-ec", script])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut shim = Shim { child, control: BufReader::new(ours), output, lock, _directory: directory };
        assert_eq!(shim.answer(), "ready");
        shim
    }

    /// Starts the script and reads the lines that it prints first.
    fn started(script: &str, line_count: usize) -> (Self, Vec<String>) {
        let mut shim = Shim::new(script);
        shim.say("start");
        assert!(shim.answer().starts_with("started "));
        let lines = (0..line_count).map(|_| {
            let mut line = String::new();
            shim.output.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        });
        let lines = lines.collect();
        (shim, lines)
    }

    fn say(&mut self, line: &str) {
        self.control.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

fn in_ms(at: BootInstant) -> u128 {
    at.since(BootInstant::from_start(Duration::ZERO)).as_millis()
}

fn assert_gone(pids: &[String]) {
    assert!(pids.iter().all(|pid| !runs(pid)), "of {pids:?} some still run");
}

#[tokio::test]
async fn when_the_worker_dies_its_commands_are_gone_after_the_kill_budget() {
    let (shim, pids) = Shim::started(STUBBORN, 2);
    assert!(pids.iter().all(|pid| runs(pid)));
    let died_at = SystemClock.boot();
    let Shim { mut child, control, lock, mut output, .. } = shim;
    // What the kernel does to a worker's socket on kill -9.
    drop(control);
    assert!(leftovers_gone(&lock, NOBODY, PATIENCE).await, "the lock was never free");
    assert_gone(&pids);
    assert!(SystemClock.boot().since(died_at) >= BUDGET, "no time to stop was given");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 9));
    output.read_to_end(&mut Vec::new()).unwrap();
}

#[tokio::test]
async fn a_worker_that_dies_before_it_said_start_starts_nothing() {
    let Shim { mut child, control, mut output, .. } = Shim::new("echo started");
    drop(control);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut printed = String::new();
    output.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "");
}

#[tokio::test]
async fn a_worker_that_died_before_its_shim_had_the_lock_starts_nothing_by_the_start_that_it_said() {
    let directory = tempfile::tempdir().unwrap();
    let (lock, started) = (directory.path().join("lock"), directory.path().join("started"));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"start\n").unwrap();
    // What the kernel does to a worker's socket on kill -9. A restarted server may have found the lock free since.
    drop(ours);
    let ended = Command::new(env!("CARGO_BIN_EXE_singletrack"))
        .arg(singletrack::exec::process::contract::ARGUMENT)
        .arg(&lock)
        .arg(BUDGET.as_millis().to_string())
        .arg("touch")
        .arg(&started)
        .stdin(OwnedFd::from(theirs))
        .status()
        .unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(!started.exists());
}

#[tokio::test]
async fn the_lock_is_held_as_long_as_the_command_runs() {
    let (mut shim, _) = Shim::started("echo; sleep 600", 1);
    assert!(!leftovers_gone(&shim.lock, NOBODY, Duration::from_millis(50)).await);
    shim.say("kill");
    assert_eq!(shim.answer(), "ended signal:9 worker 0");
    assert!(leftovers_gone(&shim.lock, NOBODY, PATIENCE).await);
    assert!(leftovers_gone(&shim.lock.with_extension("none"), NOBODY, PATIENCE).await, "no file, no lock");
    shim.child.wait().unwrap();
}

#[tokio::test]
async fn a_deadline_that_passes_ends_the_command_while_the_worker_is_stopped() {
    let (mut shim, pids) = Shim::started(STUBBORN, 2);
    let deadline = SystemClock.boot().after(BUDGET * 2);
    shim.say(&format!("deadline {}", in_ms(deadline)));
    // The socket stays open and silent, as a stopped worker's does.
    assert_eq!(shim.answer(), "ended signal:9 deadline 0");
    assert!(in_ms(SystemClock.boot()) >= in_ms(deadline), "killed before its deadline");
    assert_gone(&pids);
    shim.child.wait().unwrap();
}

#[test]
fn a_deadline_that_comes_before_the_start_holds_for_a_worker_that_is_stopped_right_after_it() {
    let mut shim = Shim::new(STUBBORN);
    shim.say(&format!("deadline {}", in_ms(SystemClock.boot().after(BUDGET * 5))));
    shim.say("start");
    assert!(shim.answer().starts_with("started "));
    assert_eq!(shim.answer(), "ended signal:9 deadline 0");
    shim.child.wait().unwrap();
}

#[test]
fn past_its_deadline_nothing_is_started() {
    let mut shim = Shim::new("echo started");
    shim.say(&format!("deadline {}", in_ms(SystemClock.boot())));
    shim.say("start");
    assert_eq!(shim.answer(), "failed its lease was over before it was started");
    let mut printed = String::new();
    shim.output.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "");
    shim.child.wait().unwrap();
}

#[tokio::test]
async fn the_command_hears_of_a_deadline_one_kill_budget_before_it() {
    let script = "trap 'echo heard; exit 6' TERM; sh -c 'echo ready; exec sleep 600' & wait";
    let (mut shim, _) = Shim::started(script, 1);
    let deadline = SystemClock.boot().after(PATIENCE);
    shim.say(&format!("deadline {}", in_ms(deadline)));
    shim.say(&format!("deadline {}", in_ms(SystemClock.boot().after(BUDGET))));
    assert_eq!(shim.answer(), "ended code:6 deadline 0");
    let mut printed = String::new();
    shim.output.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "heard\n");
    shim.child.wait().unwrap();
}

#[tokio::test]
async fn signals_to_the_shim_neither_end_it_nor_reach_its_command_as_ignored() {
    // The command itself must die of SIGTERM as usual, although the shim does not.
    let (mut shim, _) = Shim::started("echo; sleep 600", 1);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        rustix::process::kill_process(shim.pid(), signal).unwrap();
    }
    shim.say(&format!("term {}", in_ms(SystemClock.boot().after(PATIENCE))));
    assert_eq!(shim.answer(), "ended signal:15 worker 0");
    shim.child.wait().unwrap();
}
