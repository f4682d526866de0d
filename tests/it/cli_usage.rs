//! The other commands and bad input: one look at each, with the exit code and a word about what to do.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{
    fake::{Fake, HOLDER, OURS, Reply, complete, conflict, deployment, ended, log, problem},
    harness::SINGLETRACK,
};

/// Runs the binary; answers its code, standard output and standard error.
fn run(env: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(SINGLETRACK);
    let output =
        command.env_clear().envs(env.iter().copied()).args(args).stdin(Stdio::null()).output().expect("it runs");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
    (output.status.code().expect("an exit code"), stdout, stderr)
}

fn ask(fake: &Fake, args: &[&str]) -> (i32, String, String) {
    run(&[("SINGLETRACK_URL", &fake.url), ("SINGLETRACK_PROJECT", "web")], args)
}

fn project_view() -> Value {
    let mut holder = deployment(HOLDER, "RUNNING");
    holder["actor"] = json!("alice");
    let mut waiting = deployment(OURS, "PENDING");
    waiting["queuePosition"] = json!(1);
    json!({
        "project": "web", "holder": holder, "liveness": "silent", "eta": null, "hold": null, "line": [waiting],
        "lineLength": 1, "mark": null,
        "lastOutcome": deployment(OURS, "FAILED"), "current": null, "pipelines": ["deploy"], "agents": [], "revision": 9,
        "policy": {"line": "all", "lineLimit": 100, "preempt": {"times": 2}, "paused": false, "freezes": []},
    })
}

#[test]
fn bad_input_is_a_usage_error_that_says_what_to_write() {
    for (args, says) in [
        (&["deploy"][..], "--project"),
        (&["deploy", "--project", "a/b"], "letters, digits"),
        (&["deploy", "--project", "web", "--server", "localhost:7878"], "write http://localhost:7878"),
        (&["deploy", "--project", "web", "--server", "ftp://x"], "http://HOST:PORT"),
        (&["deploy", "--project", "web", "--timeout", "30"], "30s for seconds"),
        (&["deploy", "--project", "web", "--timeout", "0s"], "from 1s to 24h"),
        (&["deploy", "--project", "web", "--timeout", "25h"], "from 1s to 24h"),
        (&["deploy", "--project", "web", "--input", "novalue"], "NAME=VALUE"),
        (&["deploy", "--project", "web", "--input", "a=1", "--input", "a=2"], "is given twice"),
        (&["deploy", "--project", "web", "--on-conflict", "shout"], "wait, queue, fail"),
        (&["deploy", "--project", "web", "--order", "-1"], "--order"),
        (&["deploy", "--project", "web", "--order", "1", "--no-order"], "cannot be used with"),
        (&["deploy", "--project", "web", "--idempotency-key", ""], "visible ASCII"),
        (&["deploy", "--project", "web", "--on-conflict", "fail", "--cancel-in-progress-deployment"], "--on-conflict"),
        (&["deploy", "--project", "web", "--token", "secret"], "unexpected argument"),
        (&["deploy", "--project", "web", "--token-file", "/nonexistent/token"], "/nonexistent/token"),
        (&["deploy", "--project", "web", "--server", "https://x", "--ca-cert", "/nonexistent/ca"], "/nonexistent/ca"),
        (&["status", "--project", "web", "017"], "web#17, or by its id"),
        (&["cancel", "--project", "web"], "<DEPLOYMENT>"),
        (&["release", "--project", "web"], "--reason"),
        (&["list", "--project", "web", "--status", "DONE"], "PENDING, RUNNING"),
        (&["list", "--status", "FAILED"], "--project"),
        (&["depoly"], "deploy"),
        (&[], "Usage"),
    ] {
        let (code, stdout, stderr) = run(&[], args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?} does not say {says:?}:\n{stderr}");
        assert_eq!(stdout, "", "{args:?}");
    }
}

#[test]
fn a_password_in_the_address_is_refused_and_not_repeated() {
    let (code, _, stderr) =
        run(&[("SINGLETRACK_URL", "http://alice:hunter2@127.0.0.1:1")], &["why", "--project", "web"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("SINGLETRACK_TOKEN") && !stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn no_help_shows_a_token() {
    let (code, stdout, _) = run(&[("SINGLETRACK_TOKEN", "st_secret")], &["deploy", "--help"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("121  still blocked at the deadline"), "{stdout}");
    assert!(!stdout.contains("st_secret"));
}

#[test]
fn a_token_file_is_read_and_never_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    let path = path.to_str().expect("UTF-8");
    let fake = Fake::start(|_, _| Reply::Json(401, problem(401, "UNAUTHORIZED")));
    for (content, code) in [("st_filed\n", 125), ("", 2), ("two words", 2)] {
        std::fs::write(path, content).expect("a file");
        let (found, stdout, stderr) = ask(&fake, &["why", "--token-file", path]);
        assert_eq!(found, code, "{content:?}: {stderr}");
        assert!(content.is_empty() || !format!("{stdout}{stderr}").contains(content.trim()), "{stderr}");
    }
    let headers: Vec<_> =
        fake.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert_eq!(headers, [Some("Bearer st_filed".to_owned())]);
}

#[test]
fn no_token_and_an_unknown_one_are_two_things() {
    let fake = Fake::start(|_, _| Reply::Json(401, problem(401, "UNAUTHORIZED")));
    let (code, _, stderr) = ask(&fake, &["list"]);
    assert!(
        code == 125 && stderr.contains("no token was sent: set SINGLETRACK_TOKEN, or pass --token-file"),
        "{stderr}"
    );
    let environment = [("SINGLETRACK_URL", fake.url.as_str()), ("SINGLETRACK_TOKEN", "st_wrong")];
    let (code, _, stderr) = run(&environment, &["list"]);
    assert!(code == 125 && stderr.contains("does not know this token") && !stderr.contains("st_wrong"), "{stderr}");
}

#[test]
fn why_tells_who_holds_the_slot_who_waits_and_what_to_do() {
    let fake = Fake::start(|_, _| Reply::Json(200, project_view()));
    let (code, stdout, stderr) = ask(&fake, &["why"]);
    assert_eq!(code, 0, "{stderr}");
    for text in [
        "web: the slot is held by alice's deploy",
        "its worker is silent",
        "1 in line:",
        "last: a deploy FAILED",
        "newcomers may cancel what runs 2 times in a row",
        &format!("singletrack cancel --project web {HOLDER}"),
        &format!("singletrack release --project web --deployment {HOLDER}"),
    ] {
        assert!(stdout.contains(text), "{text:?} is not in:\n{stdout}");
    }
    let (_, stdout, _) = ask(&fake, &["why", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&stdout).expect("JSON"), project_view());
}

#[test]
fn status_and_logs_without_an_id_take_the_holder_else_the_latest() {
    let events = |id: &str, status: &str| {
        let mut event = log(&format!("output of {id}"));
        let mut end = complete(&deployment(id, status));
        (event["seq"], event["at"]) = (json!(1), json!("2026-03-01T12:00:00.000Z"));
        (end["seq"], end["at"]) = (json!(2), json!("2026-03-01T12:00:00.000Z"));
        Reply::Json(200, json!({"events": [event, end], "last": 2, "final": true}))
    };
    let held = Fake::start(move |request, _| match request.route().as_str() {
        "GET web" => Reply::Json(200, project_view()),
        "GET events" => events(HOLDER, "SUCCEEDED"),
        _ => Reply::Json(200, deployment(HOLDER, "RUNNING")),
    });
    let (code, stdout, _) = ask(&held, &["status"]);
    assert!(code == 0 && stdout.contains(HOLDER), "{stdout}");
    let (code, stdout, stderr) = ask(&held, &["logs"]);
    assert_eq!((code, stdout), (0, format!("output of {HOLDER}\n")), "{stderr}");

    let free = Fake::start(move |request, _| match request.route().as_str() {
        "GET web" => {
            let mut view = project_view();
            view["holder"] = Value::Null;
            view["liveness"] = Value::Null;
            Reply::Json(200, view)
        }
        "GET deployments" => Reply::Json(200, json!({"deployments": [deployment(OURS, "FAILED")], "nextCursor": null})),
        "GET events" => events(OURS, "FAILED"),
        other => panic!("unexpected: {other}"),
    });
    let (code, stdout, _) = ask(&free, &["status"]);
    assert!(code == 0 && stdout.contains(OURS) && stdout.contains("PHASE_FAILED"), "{stdout}");
    let (code, stdout, _) = ask(&free, &["logs", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(stdout.lines().next().expect("an event")).expect("JSON")["seq"], 1);
}

#[test]
fn a_project_that_is_not_there_is_said_so() {
    let fake = Fake::start(|_, _| Reply::Json(404, problem(404, "NOT_FOUND")));
    for args in [&["why"][..], &["status"], &["logs"], &["list"], &["list", "--status", "failed"]] {
        let (code, _, stderr) = ask(&fake, args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: no such project web on this server"), "{args:?}: {stderr}");
    }
    let (code, _, stderr) = ask(&fake, &["cancel", OURS]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
}

#[test]
fn list_goes_on_over_pages_and_ends_at_its_limit() {
    let fake = Fake::start(|request, nth| {
        assert_eq!(request.route(), "GET deployments");
        let next = if nth == 0 { json!("more") } else { Value::Null };
        Reply::Json(200, json!({"deployments": [deployment(OURS, "SUCCEEDED")], "nextCursor": next}))
    });
    let (code, stdout, _) = ask(&fake, &["list", "--status", "succeeded", "--limit", "150"]);
    assert_eq!(code, 0);
    assert_eq!(stdout.lines().count(), 3, "a head and two rows:\n{stdout}");
    let queries: Vec<_> = fake.requests().into_iter().map(|request| request.query).collect();
    assert_eq!(queries, ["limit=100&status=SUCCEEDED", "limit=100&status=SUCCEEDED&cursor=more"]);
}

#[test]
fn list_shows_the_error_code_where_it_says_more_than_the_status() {
    let list: Vec<_> = [("CANCELLED", "SUPERSEDED"), ("FAILED", "WORKER_LOST"), ("CANCELLED", "CANCELLED")]
        .map(|(status, code)| ended(status, code, None))
        .to_vec();
    let fake = Fake::start(move |_, _| Reply::Json(200, json!({"deployments": list, "nextCursor": null})));
    let (code, stdout, stderr) = ask(&fake, &["list"]);
    assert_eq!(code, 0, "{stderr}");
    for text in ["  CANCELLED (SUPERSEDED)  ", "  FAILED (WORKER_LOST)  ", "  CANCELLED  "] {
        assert!(stdout.contains(text), "{text:?} is not in:\n{stdout}");
    }
}

#[test]
fn without_a_project_list_shows_the_projects() {
    let fake = Fake::start(|_, _| {
        let free = json!({"project": "web", "holder": null, "lineLength": 0, "lastOutcome": null});
        Reply::Json(200, json!({"projects": [free], "nextCursor": null}))
    });
    let (code, stdout, _) = run(&[("SINGLETRACK_URL", &fake.url)], &["list"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("web") && stdout.contains("free"), "{stdout}");
}

#[test]
fn cancel_says_what_became_of_it() {
    for (status, body, says) in [
        (202, deployment(OURS, "RUNNING"), "is asked to stop"),
        (202, deployment(OURS, "CANCELLED"), "is cancelled"),
        (200, deployment(OURS, "RUNNING"), "was asked to stop already"),
        (200, deployment(OURS, "SUCCEEDED"), "had ended already: SUCCEEDED"),
    ] {
        let fake = Fake::start(move |_, _| Reply::Json(status, body.clone()));
        let (code, stdout, _) = ask(&fake, &["cancel", OURS, "--reason", "wrong branch"]);
        assert!(code == 0 && stdout.contains(says), "{says}: {stdout}");
        assert_eq!(fake.requests()[0].json(), json!({"reason": "wrong branch"}));
    }
}

#[test]
fn release_names_the_deployment_that_it_is_about_so_that_a_repeated_request_releases_no_other() {
    let fake = Fake::start(|request, nth| match (request.route().as_str(), nth) {
        ("GET web", _) => Reply::Json(200, project_view()),
        ("POST release", 0) => Reply::Drop,
        ("POST release", _) => Reply::Json(200, json!({"released": deployment(HOLDER, "FAILED")})),
        other => panic!("unexpected: {other:?}"),
    });
    let (code, stdout, stderr) = ask(&fake, &["release", "--reason", "runner burned down"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("the slot is taken from"), "{stdout}");
    let bodies: Vec<_> = fake.of("POST release").iter().map(|request| request.json()).collect();
    let body = json!({"reason": "runner burned down", "deploymentId": HOLDER});
    assert_eq!(bodies, [body.clone(), body]);
}

#[test]
fn a_dry_run_prints_the_plan_and_sends_nothing_else() {
    let plan = json!({
        "dryRun": true, "project": "web", "pipeline": "deploy",
        "phases": [{"name": "migrate", "kind": "run", "protected": true, "rollback": true}],
        "changes": [{"field": "ref", "from": "main", "to": null}],
        "holder": deployment(HOLDER, "RUNNING"), "queuePosition": 2, "expectedWait": null,
    });
    let fake = Fake::start(move |_, _| Reply::Json(200, plan.clone()));
    let (code, stdout, stderr) = ask(&fake, &["deploy", "--dry-run"]);
    assert_eq!(code, 0, "{stderr}");
    for text in ["run migrate (protected, can be rolled back)", "ref: main -> nothing", "number 2 in line"] {
        assert!(stdout.contains(text), "{text:?} is not in:\n{stdout}");
    }
    assert_eq!(fake.requests().len(), 1);
    assert_eq!(fake.requests()[0].query, "dryRun=true");
    assert_eq!(fake.requests()[0].header("idempotency-key"), None);
}

#[test]
fn a_plan_tells_what_differs_in_words() {
    let digest = |from: Value| json!({"field": "pipelineDigest", "from": from, "to": "c0ffee"});
    let first = json!({"field": "pipeline", "from": null, "to": "deploy"});
    for (changes, says) in [
        (json!([first, digest(Value::Null)]), "\nnever deployed before"),
        (json!([digest(json!("decaf"))]), "since the last success:\n  the pipeline's definition changed\n"),
        (json!([]), "nothing differs from the last success"),
    ] {
        let plan = json!({
            "dryRun": true, "project": "web", "pipeline": "deploy", "phases": [], "changes": changes,
            "holder": null, "queuePosition": 0, "expectedWait": null,
        });
        let fake = Fake::start(move |_, _| Reply::Json(200, plan.clone()));
        let (code, stdout, stderr) = ask(&fake, &["deploy", "--dry-run"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(says) && !stdout.contains("c0ffee"), "{says:?} is not in:\n{stdout}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_nothing_badly() {
    let fake = Fake::start(|_, _| {
        let many: Vec<_> = (0..500).map(|_| deployment(OURS, "SUCCEEDED")).collect();
        Reply::Json(200, json!({"deployments": many, "nextCursor": null}))
    });
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().args(["list", "--project", "web", "--server", &fake.url, "--limit", "500"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn completions_and_manual_are_made_from_the_definition() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, _) = run(&[], &["completions", shell]);
        assert!(code == 0 && stdout.contains("cancel-in-progress-deployment"), "{shell}");
    }
    let (code, stdout, _) = run(&[], &["man"]);
    assert!(code == 0 && stdout.contains(".TH singletrack"), "{stdout}");
    let dir = tempfile::tempdir().expect("a directory");
    let (code, ..) = run(&[], &["man", "--out-dir", dir.path().to_str().expect("UTF-8")]);
    assert_eq!(code, 0);
    assert!(dir.path().join("singletrack-deploy.1").exists());
}

#[test]
fn a_conflict_is_shown_whole_to_who_asked_for_json() {
    let fake = Fake::start(|_, _| Reply::Json(409, conflict()));
    let (code, stdout, _) = ask(&fake, &["cancel", OURS, "--json"]);
    assert_eq!(code, 121);
    let mut whole = conflict();
    // What the server said, and how the client ends for that.
    whole["exitCode"] = json!(121);
    whole["reason"] = json!("DEPLOYMENT_IN_PROGRESS");
    assert_eq!(serde_json::from_str::<Value>(&stdout).expect("JSON"), whole);
}
