//! What people see at a real terminal of 80 and of 40 columns: every line fits, and colours tell outcomes.

use std::{
    fs::File,
    io::Read as _,
    process::{Child, Command},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use unicode_width::UnicodeWidthStr as _;

use crate::harness::{SINGLETRACK, TestServer, terminal::Terminal};

/// A command at a terminal.
struct Seated {
    child: Child,
    screen: File,
    seen: String,
}

impl Seated {
    fn start(server: &TestServer, columns: u16, variables: &[(&str, &str)], args: &[&str]) -> Self {
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().env("TERM", "xterm-256color").env("SINGLETRACK_PROJECT", "web").env("USER", "erin");
        command.env("SINGLETRACK_URL", &server.base).envs(variables.iter().copied()).args(args);
        let terminal = Terminal::open(columns);
        Seated { child: terminal.seat(command, None), screen: terminal.ours, seen: String::new() }
    }

    /// Reads on until this was shown.
    fn sees(&mut self, text: &str) {
        while !self.seen.contains(text) {
            assert!(self.read_on(), "it ended without {text:?}: {:?}", self.seen);
        }
    }

    fn read_on(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // When the last one has closed the terminal, reading it fails.
        let count = self.screen.read(&mut bytes).unwrap_or(0);
        self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        count > 0
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// All that was shown, and the exit code.
    fn end(mut self) -> (String, Option<i32>) {
        while self.read_on() {}
        let code = self.child.wait().unwrap().code();
        (self.seen, code)
    }
}

/// The text without what steers a terminal.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once(|c: char| c.is_ascii_alphabetic()).map_or("", |(_, rest)| rest);
    }
    plain + rest
}

/// The lines that have this text.
fn with(shown: &str, text: &str) -> String {
    let plain = plain(shown);
    plain.split(['\n', '\r']).filter(|line| line.contains(text)).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn assert_fits(shown: &str, columns: u16) {
    for line in plain(shown).split(['\n', '\r']) {
        // A URL or the like is of no use when it is cut.
        let is_one_word = line.split_whitespace().count() <= 1;
        assert!(is_one_word || line.width() <= usize::from(columns), "{} columns: {line:?}", line.width());
    }
}

/// A server at whose gate one waits, with a history of long and of wide names.
async fn busy() -> (TestServer, String) {
    let server = TestServer::gated();
    for (pipeline, name) in
        [("quick", "日本語の枝/とても長い名前の機能"), ("broken", "feature/a-rather-long-name-of-a-branch")]
    {
        let body = json!({ "pipeline": pipeline, "ref": name, "actor": "Александра Длиннофамильная",
            "commit": "3f2a1b2c4d5e6f708192a3b4c5d6e7f801234567", "url": "https://ci.example/a/b/17" });
        server.finished(&server.accepted(body).await).await;
    }
    let holder =
        json!({ "ref": "日本語の枝/とても長い名前の機能", "actor": "alice", "message": "one two three four five" });
    let id = server.accepted(holder).await;
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    server.accepted(json!({ "onConflict": "queue", "ref": "main", "actor": "bob" })).await;
    (server, id)
}

#[tokio::test]
async fn what_is_looked_at_fits_a_terminal_of_80_and_of_40_columns() {
    let (server, _) = busy().await;
    for columns in [80, 40] {
        for args in [&["list"][..], &["status"], &["why"], &["list", "--status", "FAILED"]] {
            let (shown, code) = Seated::start(&server, columns, &[], args).end();
            assert_eq!(code, Some(0), "{args:?}: {shown}");
            assert_fits(&shown, columns);
        }
    }
    let (shown, _) = Seated::start(&server, 80, &[], &["list"]).end();
    assert!(plain(&shown).lines().count() == 5, "one line each: {shown}");
    server.open_gate();
}

#[tokio::test]
async fn colours_tell_outcomes_unless_nobody_wants_colours() {
    let (server, _) = busy().await;
    let coloured = |word: &str| format!("m{word}\u{1b}[0m");
    let (shown, _) = Seated::start(&server, 80, &[], &["list"]).end();
    for word in ["SUCCEEDED", "RUNNING"] {
        assert!(shown.contains(&coloured(word)), "{word}: {shown:?}");
    }
    let (shown, _) = Seated::start(&server, 80, &[("NO_COLOR", "1")], &["list"]).end();
    assert!(!shown.contains("\u{1b}[3") && shown.contains("SUCCEEDED"), "{shown:?}");
    server.open_gate();
}

#[tokio::test]
async fn the_waiting_line_is_one_line_that_begins_with_the_place_and_an_interrupt_leaves_nothing_of_it() {
    let (server, _) = busy().await;
    for columns in [80, 40] {
        let mut waiting = Seated::start(&server, columns, &[], &["deploy"]);
        waiting.sees("number 2 in line");
        waiting.interrupt();
        let (shown, code) = waiting.end();
        assert_eq!(code, Some(130), "{shown}");
        assert_fits(&with(&shown, "number 2 in line"), columns);
        let (_, after) = shown.rsplit_once("number 2 in line").unwrap();
        assert!(after.contains("\u{1b}[2K") || after.contains("\u{1b}[K"), "the bar is still there: {after:?}");
        assert!(plain(after).contains("error: interrupted in line"), "{after:?}");
    }
    server.open_gate();
}

#[tokio::test]
async fn the_progress_bar_tells_the_phase_in_40_columns_too_and_lines_of_standard_error_are_marked() {
    let server = TestServer::gated();
    for columns in [80, 40] {
        let mut deploy = Seated::start(&server, columns, &[], &["deploy"]);
        deploy.sees(" % gate");
        server.open_gate();
        let (shown, code) = deploy.end();
        assert_eq!(code, Some(0), "{shown}");
        assert_fits(&with(&shown, " % gate"), columns);
        assert!(plain(&shown).contains("==> gate succeeded"), "{shown}");
        server.close_gate();
    }
    let (shown, code) = Seated::start(&server, 80, &[], &["deploy", "--pipeline", "broken"]).end();
    assert_eq!(code, Some(1), "{shown}");
    assert!(plain(&shown).contains("! it is broken"), "{shown}");
    assert!(shown.contains("\u{1b}[31m==> only failed"), "a failed phase is red: {shown:?}");
    let (shown, _) = Seated::start(&server, 80, &[], &["logs"]).end();
    assert!(plain(&shown).contains("! it is broken"), "{shown}");
}

#[tokio::test]
async fn a_status_that_is_watched_is_repainted_in_its_place() {
    let (server, _) = busy().await;
    let mut seated = Seated::start(&server, 80, &[], &["status", "--watch"]);
    seated.sees("RUNNING");
    server.open_gate();
    let (shown, code) = seated.end();
    assert_eq!(code, Some(0), "{shown}");
    let last = shown.rsplit("\u{1b}[J").next().unwrap();
    assert!(shown.contains("\u{1b}[J") && plain(last).contains("SUCCEEDED"), "{shown:?}");
    assert_fits(last, 80);
}
