//! Shims that cannot do their work: stopped, hung, killed. The worker, which is alive, does it in their stead.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use singletrack::{
    clock::{Clock, SystemClock},
    exec::{FailureCause, ShimProgram, Stop, Verdict, lock_path, process::leftovers::leftovers_gone},
};

use super::{PATIENCE, Trial, assert_gone, failure, pids_of, shim_of};
use crate::harness::processes;

/// Long enough to be measured, short enough to be waited for.
const SHORT: Duration = Duration::from_millis(150);

/// Ignores SIGTERM and has a grandchild in a session of its own, which ignores it as well; prints both pids.
const STUBBORN: &str = "trap '' TERM
setsid sh -c 'echo own $$; while :; do sleep 600; done' &
echo main $$
while :; do sleep 600; done";

#[tokio::test]
async fn a_stopped_shim_is_woken_when_there_is_something_to_end() {
    let mut running = Trial::new().grace(SHORT).phase("one", STUBBORN).start();
    let pids = pids_of(&mut running, ["main ", "own "]).await;
    kill_process(shim_of(&pids[0]), Signal::STOP).unwrap();
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
    assert_gone(&pids);
}

#[tokio::test]
async fn what_a_stopped_shim_should_kill_at_the_deadline_is_killed() {
    let mut running = Trial::new().phase("one", STUBBORN).start();
    let pids = pids_of(&mut running, ["main ", "own "]).await;
    kill_process(shim_of(&pids[0]), Signal::STOP).unwrap();
    let deadline = SystemClock.boot().after(SHORT);
    running.stop(Stop::LeaseLost { deadline });
    let ended = running.end().await;
    assert_eq!(ended.verdict, None);
    assert!(SystemClock.boot() >= deadline, "it was killed before the deadline");
    assert_gone(&pids);
}

#[tokio::test]
async fn a_shim_that_hangs_for_good_is_killed_after_all_that_is_below_it() {
    let mut trial = Trial::new().grace(SHORT).phase("one", STUBBORN);
    // Speaks as a shim does until the command runs, and then stops itself as often as it is woken.
    let hanging = trial.directory.path().join("hanging");
    let script = "#!/bin/sh
shift 3
echo ready >&0
read -r start
\"$@\" <&- &
echo started $! >&0
while :; do kill -STOP $$; done
";
    fs::write(&hanging, script).unwrap();
    fs::set_permissions(&hanging, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    trial.job.shim = ShimProgram(hanging);
    let mut running = trial.start();
    let pids = pids_of(&mut running, ["main ", "own "]).await;
    let shim = shim_of(&pids[0]);
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
    assert_gone(&pids);
    assert!(!processes::runs(shim));
}

#[tokio::test]
async fn a_killed_shim_takes_with_it_even_what_has_left_its_session() {
    let mut running = Trial::new().phase("one", STUBBORN).start();
    let pids = pids_of(&mut running, ["main ", "own "]).await;
    kill_process(shim_of(&pids[0]), Signal::KILL).unwrap();
    let ended = running.end().await;
    let (code, message) = failure(&ended.verdict);
    assert_eq!(code, FailureCause::PhaseFailed);
    assert!(message.contains("its shim was killed"), "{message}");
    assert_gone(&pids);
}

#[tokio::test]
async fn what_a_killed_shim_and_its_worker_left_is_ended_before_anything_is_said_of_it() {
    let trial = Trial::new().phase("one", STUBBORN);
    let (lock, id) = (lock_path(&trial.job.workspace), trial.job.deployment_id.clone());
    let mut running = trial.start();
    let pids = pids_of(&mut running, ["main ", "own "]).await;
    let shim = shim_of(&pids[0]);
    kill_process(shim, Signal::STOP).unwrap();
    // The worker's future goes, and with it everything that could tell the shim anything.
    running.verdict.abort();
    kill_process(shim, Signal::KILL).unwrap();
    assert!(leftovers_gone(&lock, &id, PATIENCE).await);
    assert_gone(&pids);
}

/// The folder of the cgroup that the process is in, if it is one of ours.
fn own_cgroup(pid: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group =
        groups.lines().find_map(|line| line.strip_prefix("0::")).filter(|group| group.contains("singletrack-"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let fields: Vec<&str> = mount.split(' ').collect();
    let below = group.strip_prefix(fields[3].trim_end_matches('/'))?;
    Some(PathBuf::from(format!("{}{below}", fields[4])))
}

#[tokio::test]
async fn where_cgroups_are_writable_not_even_what_hides_its_environment_gets_away() {
    let script =
        "setsid env -i sh -c 'while :; do sleep 600; done' & echo own $!; echo main $$; while :; do sleep 600; done";
    let trial = Trial::new().phase("one", script);
    let (lock, id) = (lock_path(&trial.job.workspace), trial.job.deployment_id.clone());
    let mut running = trial.start();
    let pids = pids_of(&mut running, ["main ", "own "]).await;
    let Some(cgroup) = own_cgroup(&pids[1]) else {
        eprintln!("skipped: there is no writable cgroup v2 on this machine");
        running.stop(Stop::Cancel);
        running.end().await;
        return;
    };
    assert!(cgroup.join("cgroup.kill").exists(), "{cgroup:?}");
    kill_process(shim_of(&pids[0]), Signal::KILL).unwrap();
    let ended = running.end().await;
    assert!(matches!(ended.verdict, Some(Verdict::Failed { .. })), "{:?}", ended.verdict);
    let hidden = Pid::from_raw(pids[1].parse().unwrap()).unwrap();
    assert!(processes::gone(hidden));
    // Its group goes with the next that is looked for.
    assert!(leftovers_gone(&lock, &id, PATIENCE).await);
}

#[tokio::test]
async fn a_command_that_ends_by_itself_leaves_no_cgroup() {
    let trial = Trial::new().with_fifo("go").phase("one", "echo main $$; read x <$INPUT_DIR/go");
    let mut running = trial.start();
    let pid = running.line("main ").await;
    let cgroup = own_cgroup(&pid);
    let shim = shim_of(&pid);
    running.go("go");
    let ended = running.end().await;
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { .. })), "{:?}", ended.verdict);
    // It removes the group last of all.
    assert!(processes::gone(shim));
    assert!(cgroup.is_none_or(|cgroup| !cgroup.exists()));
}
