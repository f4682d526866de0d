//! What phases get, in which order they run, and what is taken back.

use singletrack::exec::{FailureCause, PhaseState, Report, Verdict};

use super::{Trial, failure, runs};

#[tokio::test]
async fn phases_run_in_order_and_each_is_told_when_it_starts() {
    let mut running = Trial::new()
        .with_fifo("go")
        .phase("one", "echo a >made; echo first")
        .phase("two", "cat made; read x <$INPUT_DIR/go")
        .start();
    running.until("start of two", |report| super::is_phase(report, "two", PhaseState::Started)).await;
    running.until("progress", |report| matches!(report, Report::Progress { progress: Some(50), .. })).await;
    assert_eq!(running.line("a").await, "", "the phases share one workspace");
    running.go("go");
    let ended = running.end().await;
    assert_eq!(ended.phases(), ["one:Started", "one:Succeeded", "two:Started", "two:Succeeded"]);
    assert_eq!(ended.percents(), [0, 50, 100]);
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { outputs }) if outputs.is_empty()));
}

#[tokio::test]
async fn a_command_sees_its_deployment_and_inputs_that_shadow_nothing() {
    let trial = Trial::new();
    let id = trial.job.deployment_id.clone();
    let ended = trial
        .input("path", "/nowhere")
        .input("my-key.x", "two words")
        .phase("env", "env | grep -E '^(SINGLETRACK|INPUT)_' | grep -v INPUT_DIR | sort; ls / >/dev/null; pwd; cat")
        .run()
        .await;
    let lines = ended.lines();
    assert_eq!(
        lines[..10],
        [
            "INPUT_MY_KEY_X=two words",
            "INPUT_PATH=/nowhere",
            "SINGLETRACK_COMMIT=3f2a",
            &format!("SINGLETRACK_DEPLOYMENT_ID={id}"),
            "SINGLETRACK_DEPLOYMENT_NUMBER=17",
            "SINGLETRACK_FENCING_TOKEN=7",
            "SINGLETRACK_PHASE=env",
            "SINGLETRACK_PIPELINE=deploy",
            "SINGLETRACK_PROJECT=web",
            "SINGLETRACK_REF=main",
        ]
    );
    assert!(lines[10].ends_with(&format!("/work/{id}")), "{lines:?}");
    assert!(
        matches!(ended.verdict, Some(Verdict::Succeeded { .. })),
        "its standard input must be empty: {:?}",
        ended.verdict
    );
}

#[tokio::test]
async fn a_failure_rolls_back_in_reverse_and_skips_the_rest() {
    let undo = |name: &str, run: &str| format!("run = '{run}'\nrollback = 'echo undo {name} >>$INPUT_DIR/undone'");
    let ended = Trial::new()
        .phase_with("one", &undo("one", "true"))
        .phase_with("two", "run = 'true'")
        .phase_with("three", &undo("three", "exit 3"))
        .phase_with("four", &undo("four", "true"))
        .run()
        .await;
    assert_eq!(
        ended.phases(),
        [
            "one:Started",
            "one:Succeeded",
            "two:Started",
            "two:Succeeded",
            "three:Started",
            "three:Failed",
            "four:Skipped",
            "three:RollingBack",
            "three:RolledBack",
            "one:RollingBack",
            "one:RolledBack",
        ]
    );
    assert_eq!(ended.file("undone"), "undo three\nundo one\n");
    let wanted = Some(Verdict::Failed {
        cause: FailureCause::PhaseFailed,
        message: "phase \"three\" exited with 3".into(),
        phase: Some("three".into()),
    });
    assert_eq!(ended.verdict, wanted);
}

#[tokio::test]
async fn a_rollback_that_fails_is_told_and_the_others_go_on() {
    let ended = Trial::new()
        .phase_with("one", "run = 'true'\nrollback = 'echo undone >>$INPUT_DIR/undone'")
        .phase_with("two", "run = 'true'\nrollback = 'exit 9'")
        .phase("three", "false")
        .run()
        .await;
    assert_eq!(ended.phases()[6..], ["two:RollingBack", "two:RollbackFailed", "one:RollingBack", "one:RolledBack"]);
    assert_eq!(ended.file("undone"), "undone\n");
    let (_, message) = failure(&ended.verdict);
    assert_eq!(message, "phase \"three\" exited with 1; the rollback of phase \"two\" exited with 9");
}

#[tokio::test]
async fn the_signal_that_killed_a_command_is_named() {
    let ended = Trial::new().phase("crash", "kill -SEGV $$").run().await;
    assert_eq!(failure(&ended.verdict), (FailureCause::PhaseFailed, "phase \"crash\" was killed by SIGSEGV"));
}

#[tokio::test]
async fn a_script_stops_at_its_first_failing_command() {
    let ended = Trial::new().phase("two", "false\necho not here").run().await;
    assert_eq!(ended.lines(), [""; 0]);
    assert_eq!(failure(&ended.verdict).1, "phase \"two\" exited with 1");
}

#[tokio::test]
async fn what_a_phase_leaves_in_the_background_is_gone_when_it_is_over() {
    let ended = Trial::new()
        .phase("start", "sleep 600 & echo $! >$INPUT_DIR/same; setsid sh -c 'echo $$ >$INPUT_DIR/own; trap \"\" TERM; echo; while :; do sleep 600; done' >$INPUT_DIR/fifo & read x <$INPUT_DIR/fifo")
        .with_fifo("fifo")
        .run()
        .await;
    assert!(matches!(ended.verdict, Some(Verdict::Succeeded { .. })), "{:?}", ended.verdict);
    for name in ["same", "own"] {
        let pid = ended.file(name);
        assert!(!runs(pid.trim()), "{name} ({pid}) still runs");
    }
}

#[tokio::test]
async fn a_workspace_that_exists_is_not_used() {
    let trial = Trial::new().phase("one", "true");
    std::fs::create_dir_all(&trial.job.workspace).unwrap();
    let kept = trial.job.workspace.join("kept");
    std::fs::write(&kept, "").unwrap();
    let mut running = trial.start();
    let verdict = (&mut running.verdict).await.unwrap();
    assert!(failure(&verdict).1.contains("could not be made"), "{verdict:?}");
    assert!(kept.exists(), "another run's files were removed");
}

#[tokio::test]
async fn a_shell_that_cannot_be_started_is_a_failure_that_says_why() {
    // An environment that no program can be given: the kernel refuses it.
    let ended = Trial::new().input("huge", &"x".repeat(4 << 20)).phase("one", "true").run().await;
    let (code, message) = failure(&ended.verdict);
    assert_eq!(code, FailureCause::PhaseFailed);
    assert!(message.starts_with("phase \"one\" could not be started: "), "{message}");
}
