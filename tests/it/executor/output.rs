//! What becomes of what commands print.

use std::collections::BTreeMap;

use singletrack::exec::{PhaseState, Report, Stream, Verdict};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::{Trial, is_phase};

#[tokio::test]
async fn a_line_is_told_when_it_is_printed_and_a_prompt_without_its_end() {
    let mut running = Trial::new()
        .with_fifo("go")
        .phase(
            "ask",
            "echo line; read x <$INPUT_DIR/go; printf 'Password: '; read x <$INPUT_DIR/go; echo; echo err >&2",
        )
        .start();
    running.line("line").await;
    running.go("go");
    running.line("Password: ").await;
    running.go("go");
    let ended = running.end().await;
    assert_eq!(ended.lines(), ["line", "Password: ", "err"]);
    let of_err = |report: &Report| matches!(report, Report::Log { stream: Stream::Stderr, phase, lines } if phase.as_deref() == Some("ask") && lines == &["err"]);
    assert!(ended.reports.iter().any(of_err), "{:?}", ended.reports);
}

#[tokio::test]
async fn output_that_would_harm_a_terminal_arrives_safe() {
    let script = r"printf '\033[31mred\033[0m\n\033]0;title\007a\000b\n\377\376\n10%%\r20%%\r100%%\r\n\ttab\r\n'";
    let ended = Trial::new().phase("print", script).run().await;
    assert_eq!(ended.lines(), ["red", "ab", "\u{fffd}\u{fffd}", "100%", "\ttab"]);
}

#[tokio::test]
async fn a_line_longer_than_the_limit_is_split_and_complete() {
    let ended = Trial::new().phase("long", "head -c 200000 /dev/zero | tr '\\0' x; echo; echo after").run().await;
    let mut lines = ended.lines();
    assert_eq!(lines.pop().unwrap(), "after");
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line.len() <= 64 * 1024));
    assert!(lines[0].ends_with('…') && lines[3].starts_with('…'));
    assert_eq!(lines.concat().matches('x').count(), 200_000);
}

#[tokio::test]
async fn progress_and_outputs_are_told_at_once_and_progress_never_falls() {
    let mut running = Trial::new()
        .with_fifo("go")
        .phase(
            "one",
            "echo '::singletrack progress=40 message=Uploading it::'; echo '::singletrack output url=https://x/::'
            read x <$INPUT_DIR/go
            echo '::singletrack progress=30::'; echo '::singletrack progress=400::'; echo '::singletrack output url=https://y/::'
            echo '::singletrack output n=1::'",
        )
        .phase("two", "true")
        .start();
    let mut told = (false, false);
    running
        .until("progress and the output", |report| {
            match report {
                Report::Progress { progress: Some(40), message: Some(message) } => told.0 = message == "Uploading it",
                Report::Output { name, value } => told.1 = name == "url" && value == "https://x/",
                _ => {}
            }
            told == (true, true)
        })
        .await;
    running.go("go");
    let ended = running.end().await;
    assert_eq!(ended.percents(), [0, 40, 40, 50, 100]);
    assert_eq!(ended.lines(), ["::singletrack progress=400::"], "only what is no command stays in the log");
    let outputs = BTreeMap::from([("url".to_owned(), "https://y/".to_owned()), ("n".to_owned(), "1".to_owned())]);
    assert_eq!(ended.verdict, Some(Verdict::Succeeded { outputs }));
}

#[tokio::test]
async fn too_many_outputs_stay_lines() {
    let script = "i=0; while [ $i -lt 262 ]; do echo \"::singletrack output o$i=x::\"; i=$((i+1)); done";
    let ended = Trial::new().phase("many", script).run().await;
    assert!(
        matches!(&ended.verdict, Some(Verdict::Succeeded { outputs }) if outputs.len() == 256),
        "{:?}",
        ended.verdict
    );
    assert_eq!(ended.lines().len(), 6);
}

#[tokio::test]
async fn outputs_that_are_too_large_together_stay_lines() {
    // What was large once counts as large: the server may not have the smaller value yet.
    let script = "big=$(printf %08000d 0); for n in 1 2 3 4 5 6 7 8; do echo \"::singletrack output o$n=$big::\"; done
        echo '::singletrack output o1=small::'; echo \"::singletrack output more=$big::\"; echo '::singletrack output url=x::'";
    let ended = Trial::new().phase("large", script).run().await;
    let Some(Verdict::Succeeded { outputs }) = &ended.verdict else { panic!("{:?}", ended.verdict) };
    assert_eq!((outputs.len(), outputs["o1"].as_str(), outputs["url"].as_str()), (9, "small", "x"));
    assert!(matches!(&ended.lines()[..], [line] if line.starts_with("::singletrack output more=0")));
}

#[tokio::test]
async fn a_flood_never_blocks_the_command_and_what_is_cut_is_counted() {
    const COUNT: u64 = 1_000_000;
    let mut running = Trial::new()
        .with_fifo("done")
        .phase(
            "flood",
            &format!("seq {COUNT}; echo FATAL; echo ::singletrack progress=77::; echo over >$INPUT_DIR/done"),
        )
        .phase("after", "echo heard")
        .start_with_room_for(1);
    // Nobody takes a report until the command has printed everything.
    let mut done =
        pipe::OpenOptions::new().read_write(true).open_receiver(running.directory.path().join("done")).unwrap();
    let word = tokio::time::timeout(super::PATIENCE, done.read_u8()).await.expect("the command was blocked").unwrap();
    assert_eq!(word, b'o');
    running.until("end of the flood", |report| is_phase(report, "flood", PhaseState::Succeeded)).await;
    let ended = running.end().await;
    let (cuts, kept): (Vec<_>, Vec<_>) = ended.lines().into_iter().partition(|line| cut_count(line).is_some());
    let cut: u64 = cuts.iter().filter_map(|line| cut_count(line)).sum();
    assert!(cut > 0, "a million lines fit into the outbox?");
    assert_eq!(kept.len() as u64 + cut, COUNT + 2, "each line is either told or counted");
    let told_before_the_end = kept.iter().rev().skip(1).map(String::as_str).take(2).collect::<Vec<_>>();
    assert_eq!(told_before_the_end, ["FATAL", "1000000"], "the end of the flood, where it says why it fails");
    assert_eq!((kept[0].as_str(), kept[kept.len() - 1].as_str()), ("1", "heard"));
    assert!(ended.percents().contains(&77), "progress got lost in the flood");
    assert!(ended.reports.len() < 200, "a flood made {} reports", ended.reports.len());
}

#[tokio::test]
async fn two_streams_at_once_make_few_batches() {
    let script = "i=0; while [ $i -lt 20000 ]; do echo $i; echo $i >&2; i=$((i+1)); done";
    let ended = Trial::new().phase("both", script).run().await;
    assert_eq!(ended.lines().len(), 40_000);
    let of = |wanted: Stream| -> Vec<usize> {
        let lines = ended.reports.iter().filter_map(|report| match report {
            Report::Log { stream, lines, .. } if *stream == wanted => Some(lines),
            _ => None,
        });
        lines.flatten().map(|line| line.parse().unwrap()).collect()
    };
    assert!(of(Stream::Stdout).iter().copied().eq(0..20_000) && of(Stream::Stderr).iter().copied().eq(0..20_000));
    assert!(ended.reports.len() < 1500, "{} reports", ended.reports.len());
}

#[tokio::test]
async fn nobody_listening_stops_nothing() {
    let (directory, job) = Trial::new().phase("one", "echo x; echo y >$INPUT_DIR/made").into_job();
    let (_stop, stopped) = tokio::sync::watch::channel(None);
    let (sender, reports) = tokio::sync::mpsc::channel(1);
    drop(reports);
    let verdict = singletrack::exec::run(job, stopped, sender).await;
    assert!(matches!(verdict, Some(Verdict::Succeeded { .. })), "{verdict:?}");
    assert!(directory.path().join("made").exists());
}

/// How many lines this one says were cut.
fn cut_count(line: &str) -> Option<u64> {
    line.strip_prefix("[singletrack: ")?.strip_suffix(" lines came too fast and were cut here]")?.parse().ok()
}
