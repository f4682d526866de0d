//! Cancels, lost leases, shutdowns and time limits: what they stop, and that nothing is left.

use std::time::Duration;

use singletrack::{
    clock::{Clock, SystemClock},
    exec::{FailureCause, PhaseState, Report, Stop, Verdict},
};
use tokio::sync::watch;

use super::{PATIENCE, Trial, assert_gone, failure, is_phase, pids_of};

/// Long enough to be measured, short enough to be waited for.
const SHORT: Duration = Duration::from_millis(150);

/// Ignores SIGTERM, has a child that does too, and a grandchild in a session of its own; prints their pids.
const STUBBORN: &str = "trap '' TERM
sh -c 'echo child $$; while :; do sleep 600; done' &
setsid sh -c 'echo own $$; while :; do sleep 600; done' &
echo main $$
while :; do sleep 600; done";

const UNDO: &str = "rollback = 'echo undone'";

fn stubborn(more: &str) -> String {
    format!("run = '''\n{STUBBORN}\n'''\n{more}")
}

#[tokio::test]
async fn a_cancel_kills_whatever_ignores_it_when_the_grace_ends_and_rolls_back() {
    let mut running = Trial::new().grace(SHORT).phase_with("serve", &stubborn(UNDO)).phase("next", "true").start();
    let pids = pids_of(&mut running, ["main ", "child ", "own "]).await;
    let cancelled_at = SystemClock.boot();
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
    assert!(SystemClock.boot().since(cancelled_at) >= SHORT, "it was killed before its grace was over");
    assert_gone(&pids);
    let wanted = ["serve:Started", "serve:Failed", "next:Skipped", "serve:RollingBack", "serve:RolledBack"];
    assert_eq!(ended.phases(), wanted);
    assert!(ended.lines().contains(&"undone".to_owned()));
}

#[tokio::test]
async fn a_command_may_clean_up_within_its_grace() {
    // The line comes from the child, so that both are ready for the signal; and what the trap starts must not be signalled again.
    let script = "trap 'sh -c \"echo cleaning; echo clean\"; exit 5' TERM; sh -c 'echo ready; exec sleep 600' & wait";
    let mut running = Trial::new().phase("one", script).start();
    running.line("ready").await;
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
    assert_eq!(ended.lines(), ["ready", "cleaning", "clean"]);
}

#[tokio::test]
async fn each_process_of_a_phase_hears_one_sigterm_whoever_passes_it_on() {
    let counter = r#"trap "echo heard; n=x" TERM; echo ready; while [ -z "$n" ]; do sleep 0.05; done; sleep 0.3; :"#;
    for passed_on_by in ["exec timeout 600", "timeout 600", "exec tini -s --", "dumb-init"] {
        let script = format!("{passed_on_by} sh -c '{counter}'; true");
        let mut running = Trial::new().phase("one", &script).start();
        running.line("ready").await;
        running.stop(Stop::Cancel);
        let ended = running.end().await;
        let heard_count = ended.lines().iter().filter(|line| *line == "heard").count();
        assert_eq!(heard_count, 1, "{passed_on_by}: {:?}", ended.lines());
    }
}

#[tokio::test]
async fn what_a_command_waits_for_without_telling_it_hears_of_a_cancel_within_half_of_the_grace() {
    let script = "trap 'echo after' TERM; sh -c 'trap \"echo heard; exit\" TERM; echo ready; while :; do sleep 0.05; done'; exit 5";
    let mut running = Trial::new().grace(Duration::from_secs(2)).phase("one", script).start();
    running.line("ready").await;
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert_eq!(ended.lines(), ["ready", "heard", "after"]);
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
}

#[tokio::test]
async fn a_command_that_is_just_starting_something_is_not_taken_for_one_that_passes_a_cancel_on() {
    // As a shell does for a moment: while it starts a process, it has blocked all signals.
    let script = r#"exec perl -MPOSIX -MTime::HiRes=time -e '
        my $term = POSIX::SigSet->new(SIGTERM);
        sigprocmask(SIG_BLOCK, $term);
        if (!fork) {
            sigprocmask(SIG_UNBLOCK, $term);
            exec "sh", "-c", "trap \"echo heard; exit\" TERM; echo ready; while :; do sleep 0.05; done";
        }
        my $until = time + 0.3;
        1 while time < $until;
        sigprocmask(SIG_UNBLOCK, $term);
        wait'"#;
    let mut running = Trial::new().phase("one", script).start();
    running.line("ready").await;
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert_eq!(ended.lines(), ["ready", "heard"], "it heard long before half of the grace was over");
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
}

#[tokio::test]
async fn a_stopped_command_hears_its_cancel_too() {
    let mut running = Trial::new().phase("one", "trap 'exit 5' TERM; echo pid $$; kill -STOP $$; :").start();
    let _ = running.line("pid ").await;
    running.stop(Stop::Cancel);
    assert_eq!(running.end().await.verdict, Some(Verdict::Stopped));
}

#[tokio::test]
async fn what_finishes_in_spite_of_a_cancel_is_what_it_became() {
    let finish = "trap 'exit 0' TERM; sh -c 'echo ready; exec sleep 600' & wait || :";
    let mut running = Trial::new().phase("last", finish).start();
    running.line("ready").await;
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { .. })), "{:?}", ended.verdict);

    // The same with a phase after it: that one is never started.
    let mut running = Trial::new().phase("first", finish).phase("next", "true").start();
    running.line("ready").await;
    running.stop(Stop::Cancel);
    let ended = running.end().await;
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
    assert_eq!(ended.phases(), ["first:Started", "first:Succeeded", "next:Skipped"]);
}

#[tokio::test]
async fn a_cancel_before_the_first_phase_starts_nothing() {
    let (directory, job) = Trial::new().phase("one", "true").into_job();
    let (_stop, stopped) = watch::channel(Some(Stop::Cancel));
    let (sender, mut reports) = tokio::sync::mpsc::channel(8);
    let verdict = singletrack::exec::run(job, stopped, sender).await;
    assert_eq!(verdict, Some(Verdict::Stopped));
    assert!(is_phase(&reports.recv().await.unwrap(), "one", PhaseState::Skipped));
    assert_eq!(reports.recv().await, None);
    drop(directory);
}

#[tokio::test]
async fn a_cancel_waits_for_the_end_of_a_protected_phase() {
    let mut running = Trial::new()
        .with_fifo("go")
        .phase_with(
            "migrate",
            &format!("run = 'echo ready; read x <$INPUT_DIR/go; echo done'\nprotected = true\n{UNDO}"),
        )
        .phase("next", "true")
        .start();
    running.line("ready").await;
    running.stop(Stop::Cancel);
    running.line("singletrack: a cancel waits for the end of phase \"migrate\"").await;
    running.go("go");
    let ended = running.end().await;
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
    assert!(ended.lines().contains(&"done".to_owned()), "the protected phase did not finish");
    let wanted = ["migrate:Started", "migrate:Succeeded", "next:Skipped", "migrate:RollingBack", "migrate:RolledBack"];
    assert_eq!(ended.phases(), wanted);
}

#[tokio::test]
async fn a_command_can_protect_a_part_of_itself() {
    let script = "echo ::singletrack protect::; echo ready; read x <$INPUT_DIR/go; echo over
echo ::singletrack unprotect::; sleep 600; echo not here";
    let mut running = Trial::new().with_fifo("go").phase("one", script).start();
    running.line("ready").await;
    running.stop(Stop::Cancel);
    running.line("singletrack: a cancel waits").await;
    running.go("go");
    let ended = running.end().await;
    assert_eq!(ended.verdict, Some(Verdict::Stopped));
    assert_eq!(ended.lines().last().unwrap(), "over");
}

#[tokio::test]
async fn a_lost_lease_ends_everything_by_its_deadline_and_rolls_nothing_back() {
    let mut running = Trial::new().phase_with("one", &stubborn(&format!("protected = true\n{UNDO}"))).start();
    let pids = pids_of(&mut running, ["main ", "child ", "own "]).await;
    let deadline = SystemClock.boot().after(SHORT);
    running.stop(Stop::LeaseLost { deadline });
    let ended = running.end().await;
    assert_eq!(ended.verdict, None);
    assert!(SystemClock.boot() >= deadline, "it was killed before the deadline");
    assert_gone(&pids);
    assert!(!ended.lines().contains(&"undone".to_owned()));
}

#[tokio::test]
async fn a_lost_lease_ends_a_rollback_too() {
    let mut running =
        Trial::new().phase_with("one", &format!("run = 'false'\n{}", stubborn("").replace("run", "rollback"))).start();
    let pids = pids_of(&mut running, ["main ", "child ", "own "]).await;
    running.stop(Stop::LeaseLost { deadline: SystemClock.boot() });
    assert_eq!(running.end().await.verdict, None);
    assert_gone(&pids);
}

#[tokio::test]
async fn a_cancel_does_not_interrupt_a_rollback() {
    let rollback = "run = 'false'\nrollback = 'echo ready; read x <$INPUT_DIR/go; echo undone'";
    let mut running = Trial::new().with_fifo("go").phase_with("one", rollback).start();
    running.line("ready").await;
    running.stop(Stop::Cancel);
    running.go("go");
    let ended = running.end().await;
    assert_eq!(failure(&ended.verdict).0, FailureCause::PhaseFailed);
    assert_eq!(ended.lines().last().unwrap(), "undone");
}

#[tokio::test]
async fn a_rollback_that_hangs_is_ended_by_its_phases_limit() {
    let keys = "run = 'false'\nrollback = 'sleep 600'\ntimeout = '150ms'";
    let ended = Trial::new().phase_with("one", keys).run().await;
    let (_, message) = failure(&ended.verdict);
    assert_eq!(message, "phase \"one\" exited with 1; the rollback of phase \"one\" took longer than its 150ms");
}

#[tokio::test]
async fn a_shutdown_stops_even_protected_phases_and_rolls_back() {
    let mut running =
        Trial::new().phase_with("one", &format!("run = 'echo ready; sleep 600'\nprotected = true\n{UNDO}")).start();
    running.line("ready").await;
    running.stop(Stop::Shutdown);
    let ended = running.end().await;
    assert_eq!(ended.verdict, None);
    assert!(ended.lines().contains(&"undone".to_owned()));
}

#[tokio::test]
async fn each_time_limit_ends_a_command_with_its_own_code() {
    let hang = "run = 'echo ready; sleep 600'";
    let slow = format!("{hang}\ntimeout = '150ms'\n{UNDO}");
    let ended = Trial::new().phase_with("slow", &slow).run().await;
    let wanted = (FailureCause::PhaseTimeout, "phase \"slow\" took longer than its 150ms");
    assert_eq!(failure(&ended.verdict), wanted);
    assert_eq!(ended.phases().last().unwrap(), "slow:RolledBack");

    let ended = Trial::new().pipeline("timeout = '150ms'").phase_with("slow", hang).run().await;
    let wanted = (FailureCause::TimedOut, "the pipeline took longer than its 150ms, in phase \"slow\"");
    assert_eq!(failure(&ended.verdict), wanted);

    let ended = Trial::new().pipeline("stall_timeout = '150ms'").phase_with("mute", hang).run().await;
    let wanted = (FailureCause::Stalled, "phase \"mute\" gave no sign of life for 150ms");
    assert_eq!(failure(&ended.verdict), wanted);
}

#[tokio::test]
async fn a_command_that_gives_signs_of_life_has_not_stalled() {
    // A second of dots without a newline, each long before the limit.
    let script = "i=0; while [ $i -lt 20 ]; do printf .; sleep 0.05; i=$((i+1)); done";
    let ended = Trial::new().pipeline("stall_timeout = '900ms'").phase("dots", script).run().await;
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { .. })), "{:?}", ended.verdict);
}

#[tokio::test]
async fn a_lease_that_nobody_renews_ends_the_command_by_the_shims_hand() {
    let (_lease, deadline) = watch::channel(SystemClock.boot().after(SHORT * 2));
    let mut running = Trial::new().lease(deadline, SHORT).phase_with("one", &stubborn(UNDO)).start();
    let pids = pids_of(&mut running, ["main ", "child ", "own "]).await;
    let ended = running.end().await;
    assert_eq!(ended.verdict, None);
    assert_gone(&pids);
    assert!(!ended.lines().contains(&"undone".to_owned()));
}

#[tokio::test]
async fn a_lease_that_is_renewed_lets_the_command_go_on() {
    let first = SystemClock.boot().after(SHORT * 2);
    let (lease, deadline) = watch::channel(first);
    let mut running = Trial::new()
        .lease(deadline, SHORT)
        .with_fifo("go")
        .phase("one", "echo ready; read x <$INPUT_DIR/go; echo alive")
        .start();
    running.line("ready").await;
    lease.send(SystemClock.boot().after(PATIENCE)).unwrap();
    // The boot clock has passed the first deadline when this timer ends: only then may the command go on.
    tokio::time::timeout(first.since(SystemClock.boot()), std::future::pending::<()>()).await.unwrap_err();
    running.go("go");
    let ended = running.end().await;
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { .. })), "{:?}", ended.verdict);
    assert_eq!(ended.lines(), ["ready", "alive"]);
}

#[tokio::test]
async fn dropping_a_run_ends_its_command() {
    let mut trial = Trial::new().phase_with("one", &stubborn(""));
    trial.job.kill_budget = SHORT;
    let lock = singletrack::exec::lock_path(&trial.job.workspace);
    let id = trial.job.deployment_id.clone();
    let mut running = trial.start();
    let pids = pids_of(&mut running, ["main ", "child ", "own "]).await;
    running.verdict.abort();
    assert!(singletrack::exec::process::leftovers::leftovers_gone(&lock, &id, PATIENCE).await);
    assert_gone(&pids);
    assert!(matches!(running.reports.recv().await, None | Some(Report::Log { .. })));
}
