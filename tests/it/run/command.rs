//! The command: its streams, its environment, its exit code, and what the server learns of it.

use std::{
    io::Write as _,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
};

use serde_json::{Value, json};

use super::{command, ended, run, text};
use crate::harness::TestServer;

/// The lines that the server has of the newest deployment.
async fn logged(server: &TestServer) -> (Value, Vec<String>) {
    let deployment = server.deployments().await[0].clone();
    let events = server.deployment(deployment["id"].as_str().unwrap(), "/events?after=0&maxWaitSeconds=0").await.body;
    let events = events["events"].as_array().unwrap().clone();
    let lines = events.iter().filter_map(|event| event["lines"].as_array());
    (deployment, lines.flatten().map(|line| line.as_str().unwrap().to_owned()).collect())
}

#[tokio::test]
async fn the_commands_exit_code_is_the_runs_and_the_server_knows_it() {
    let server = TestServer::start("");
    for (script, code, status) in
        [("true", 0, "SUCCEEDED"), ("exit 7", 7, "FAILED"), ("kill -9 $$", 137, "FAILED"), ("exit 122", 122, "FAILED")]
    {
        let output = ended(run(&server, &[], script));
        assert_eq!(output.status.code(), Some(code), "{script}: {}", text(&output.stderr));
        let newest = &server.deployments().await[0];
        assert_eq!(newest["status"], status, "{script}");
        assert_eq!(newest["pipeline"], "run");
    }
    assert_eq!(server.deployments().await[1]["error"]["message"], "the command was killed by signal 9");
}

#[tokio::test]
async fn a_command_that_is_not_there_takes_no_slot() {
    let server = TestServer::start("");
    for (name, code, says) in [
        ("no-such-command", 127, "there is no command no-such-command"),
        ("./no-such-file", 127, "there is no command ./no-such-file"),
        ("/etc/passwd", 126, "/etc/passwd is not executable"),
        ("/", 126, "/ is a folder"),
    ] {
        let output = ended(command(&server, &[], &[name]));
        assert_eq!(output.status.code(), Some(code), "{name}");
        assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
    }
    assert_eq!(server.get("/v1/projects/web").await.status, 404, "a deployment was made");
}

#[tokio::test]
async fn without_a_server_nothing_is_started() {
    let mut server = TestServer::start("");
    server.kill();
    let started = server.path("started");
    let output = ended(run(&server, &["--timeout", "2s"], "touch \"$TEST_DIR/started\""));
    assert!(matches!(output.status.code(), Some(121 | 124 | 125)), "{:?}", output.status);
    assert!(!started.exists());
}

#[tokio::test]
async fn streams_go_through_byte_for_byte() {
    let server = TestServer::start("");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for flags in [&[][..], &["--no-logs"]] {
        let mut child = run(&server, flags, "tee /dev/stderr").stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = bytes.clone();
        let writing = std::thread::spawn(move || stdin.write_all(&input).unwrap());
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == bytes, "standard output differs, {} bytes", output.stdout.len());
        assert!(output.stderr == bytes, "standard error differs, {} bytes", output.stderr.len());
    }
}

#[tokio::test]
async fn streams_go_through_to_whatever_they_are_connected() {
    let server = TestServer::start("");
    let script = "seq 1 300000; printf 'no end'";
    let wanted = (1..=300_000).map(|n| format!("{n}\n")).chain(["no end".to_owned()]).collect::<String>();

    let path = server.path("appended");
    std::fs::write(&path, "before\n").unwrap();
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    assert!(run(&server, &[], script).stdout(file).status().unwrap().success());
    assert!(std::fs::read_to_string(&path).unwrap() == format!("before\n{wanted}"), "a file that grows");

    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut command = run(&server, &[], script);
    let mut child = command.stdout(OwnedFd::from(theirs)).spawn().unwrap();
    // What still holds the far end open.
    drop(command);
    assert!(std::io::read_to_string(ours).unwrap() == wanted, "a socket that does not wait");
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn a_command_that_closes_its_output_goes_on_without() {
    let server = TestServer::start("");
    let script = "echo before; exec >&- 2>&-; : >\"$TEST_DIR/went-on\"; exit 5";
    let output = ended(run(&server, &[], script));
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(5), "before\n"));
    assert!(server.path("went-on").exists());
    assert_eq!(logged(&server).await.1, ["before"]);
}

#[tokio::test]
async fn what_is_no_text_is_shown_as_well_as_it_can_be() {
    let server = TestServer::start("");
    let output = ended(run(&server, &[], r"printf 'a\000b\n\377\376 c\n\033[31mred\033[0m\rover\n'"));
    assert_eq!(output.stdout, b"a\0b\n\xff\xfe c\n\x1b[31mred\x1b[0m\rover\n");
    let lines = logged(&server).await.1;
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[1], "\u{fffd}\u{fffd} c");
}

#[tokio::test]
async fn the_command_knows_its_deployment_and_never_the_token() {
    let server = TestServer::start("");
    let flags = ["--ref", "main", "--commit", "abc", "--pipeline", "apply"];
    let output = ended(run(&server, &flags, "env | grep ^SINGLETRACK_ | sort"));
    let seen = text(&output.stdout);
    let newest = &server.deployments().await[0];
    for wanted in [
        format!("SINGLETRACK_DEPLOYMENT_ID={}", newest["id"].as_str().unwrap()),
        "SINGLETRACK_PROJECT=web".to_owned(),
        "SINGLETRACK_PIPELINE=apply".to_owned(),
        "SINGLETRACK_REF=main".to_owned(),
        "SINGLETRACK_COMMIT=abc".to_owned(),
        format!("SINGLETRACK_URL={}/", server.base),
    ] {
        assert!(seen.lines().any(|line| line == wanted), "{wanted} is not in\n{seen}");
    }
    let token = |text: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix("SINGLETRACK_FENCING_TOKEN=")).unwrap();
        line.parse().unwrap()
    };
    let mut again = run(&server, &[], "env | grep ^SINGLETRACK_");
    again.env("SINGLETRACK_TOKEN", "singletrack_secret");
    let again = text(&ended(again).stdout);
    assert!(token(&again) > token(&seen));
    assert!(!again.contains("singletrack_secret"), "{again}");
}

#[tokio::test]
async fn a_copy_of_the_output_goes_to_the_server_and_lines_in_it_speak() {
    let server = TestServer::start("");
    let script = "echo out; echo err >&2
        echo '::singletrack progress=40 message=Uploading::'; echo '::singletrack output url=https://x.example::'";
    let output = ended(run(&server, &[], script));
    assert!(text(&output.stdout).contains("::singletrack progress=40"), "the own output is as it was");
    let (deployment, lines) = logged(&server).await;
    assert!(lines.contains(&"out".to_owned()) && lines.contains(&"err".to_owned()), "{lines:?}");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(deployment["result"]["outputs"], json!({ "url": "https://x.example" }));
}

#[tokio::test]
async fn with_no_logs_the_output_stays_here() {
    let server = TestServer::start("");
    let output = ended(run(&server, &["--no-logs"], "echo out; echo err >&2"));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n".to_owned(), "err\n".to_owned()));
    let (_, lines) = logged(&server).await;
    assert_eq!(lines, [""; 0]);
}

#[tokio::test]
async fn secrets_are_masked_at_the_server_and_nowhere_else() {
    let server = TestServer::start("");
    // The child's writes are as many pieces; the pause parts them.
    let script = "printf 'pass=hunt'; sleep 0.3; echo 'er2/x!'; printf '%s' 'user:hunter2/x!' | base64
        echo 'https://u:hunter2%2Fx%21@host/'; echo '::singletrack output key=hunter2/x!::'";
    let mut command = run(&server, &["--mask", "PASSWORD"], script);
    command.env("PASSWORD", "hunter2/x!");
    let output = ended(command);
    assert!(text(&output.stdout).starts_with("pass=hunter2/x!\n"), "{}", text(&output.stdout));
    let (deployment, lines) = logged(&server).await;
    let whole = format!("{lines:?}{deployment}");
    assert!(
        !whole.contains("hunter2") && !whole.contains("aHVudGVyMi94IQ") && !whole.contains("h1bnRlcjIve"),
        "{whole}"
    );
    // The beginning of a line that pauses is shown early, but never that of a secret.
    assert_eq!(lines[..2], ["pass=", "…***"]);
    assert_eq!(deployment["result"]["outputs"]["key"], "***");

    let mut short = run(&server, &["--mask", "PASSWORD"], "true");
    short.env("PASSWORD", "abc");
    assert_eq!(ended(short).status.code(), Some(2));
}

#[tokio::test]
async fn what_the_command_announces_as_a_secret_is_masked_at_the_server_and_the_runner_hears_of_it() {
    let server = TestServer::start("");
    let script = "echo '::add-mask::hunter2/x!'; echo '##vso[task.setvariable variable=k;issecret=true]top secret'
        echo 'pass=hunter2/x!'; printf '%s' 'a:hunter2/x! and quite a lot more that makes it long enough for two lines' | base64 -w 76
        printf 'hun\\033[1mter2/x!\\n'; echo 'TOP SECRET'; echo '::singletrack output key=hunter2/x!::'
        echo '::singletrack message=with top secret::'";
    let output = ended(run(&server, &[], script));
    assert!(text(&output.stdout).starts_with("::add-mask::hunter2/x!\n##vso[task."), "{}", text(&output.stdout));
    let (deployment, lines) = logged(&server).await;
    let whole = format!("{lines:?}{deployment}");
    let lower = whole.to_lowercase();
    assert!(!lower.contains("hunter2") && !lower.contains("top secret") && !whole.contains("odW50ZXIyL3gh"), "{whole}");
    assert!(!whole.contains("add-mask") && !whole.contains("##vso"), "{whole}");
    assert!(lines.contains(&"pass=***".to_owned()), "{lines:?}");
    assert_eq!(deployment["result"]["outputs"]["key"], "***");
}

#[tokio::test]
async fn the_last_lines_of_a_flood_say_why_the_command_failed() {
    let server = TestServer::start("");
    let script =
        "seq 1 200000 | sed 's/^/a line that is long enough to be a flood, number /'; echo 'FATAL: no more'; exit 1";
    let output = ended(run(&server, &[], script));
    assert_eq!(output.status.code(), Some(1));
    let lines = logged(&server).await.1;
    assert_eq!(lines.last().map(String::as_str), Some("FATAL: no more"));
    assert!(
        lines.iter().any(|line| line.contains("came too fast and were cut here")),
        "nothing says that lines are missing"
    );
}

#[tokio::test]
async fn a_command_whose_reader_goes_away_hears_of_it() {
    let server = TestServer::start("");
    let mut child =
        run(&server, &[], "while echo more; do :; done; echo stopped >\"$TEST_DIR/stopped\"").spawn().unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 13), "the shell dies of SIGPIPE, as without us");
}

#[tokio::test]
async fn who_does_not_want_to_wait_is_told_who_holds_the_slot() {
    let server = TestServer::start("");
    let mut holder = super::Running::start(&server, &["--actor", "alice"], "echo up; read line");
    holder.says("up");
    let refused = ended(run(&server, &["--on-conflict", "fail"], "touch \"$TEST_DIR/started\""));
    assert_eq!(refused.status.code(), Some(121));
    assert!(text(&refused.stderr).contains("alice"), "{}", text(&refused.stderr));
    assert!(!server.path("started").exists());
    holder.go_on();
    assert_eq!(holder.end().0, 0);
}

#[tokio::test]
async fn a_full_disk_under_the_output_does_not_kill_the_command_and_is_told_at_the_end() {
    let server = TestServer::start("");
    let mut command =
        run(&server, &[], "for n in 1 2 3 4 5; do echo $n; sleep 0.02; done; touch \"$TEST_DIR/finished\"");
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let output = ended(command);
    assert!(server.path("finished").exists(), "the command was killed halfway");
    assert_eq!(output.status.code(), Some(125));
    let told = text(&output.stderr);
    assert!(told.contains("could not be written: No space left on device"), "{told}");
    assert_eq!(server.deployments().await[0]["status"], "SUCCEEDED");
}

#[tokio::test]
async fn lines_of_both_streams_that_go_to_one_file_stay_in_order() {
    let server = TestServer::start("");
    let script = "for n in $(seq 200); do echo out $n; echo err $n >&2; done";
    let file = std::fs::File::create(server.path("log")).unwrap();
    let mut command = run(&server, &[], script);
    command.stdout(file.try_clone().unwrap()).stderr(file);
    assert_eq!(ended(command).status.code(), Some(0));
    let wanted: String = (1..=200).map(|n| format!("out {n}\nerr {n}\n")).collect();
    assert_eq!(std::fs::read_to_string(server.path("log")).unwrap(), wanted);
}
