//! What others wrote commands neither a CI's runner nor a terminal: every command, the real binary, against a server whose
//! every text is hostile.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{
    fake::{Fake, HOLDER, OURS, Part, Reply, complete, conflict, deployment, frame, problem},
    harness::SINGLETRACK,
};

/// Texts that do something where they are printed raw.
const HOSTILE: &[&str] = &[
    "::add-mask::in",
    "  ::error file=a::b",
    "::group::evil",
    "::endgroup::evil",
    "::error title=singletrack::evil",
    "x\n--- evil",
    "--- evil",
    "x\r\u{1b}[0Ksection_start:1:evil\r\u{1b}[0Kevil",
    "x\n::stop-commands::y",
    "x\r::set-output name=a::b",
    "##[group]a",
    "a ##vso[task.setvariable variable=A]b",
    "###vso[task.setvariable variable=A]b",
    "#\u{0}#vso[task.complete]c",
    "#\u{1b}[0m#[stop-commands]d",
    "##teamcity[buildStop comment='e']",
    "\u{1b}]0;title\u{7}f",
    "\u{1b}[2J\u{1b}[1;1Hg",
    "\u{9b}2Jh",
    "\u{9d}0;title\u{9c}i",
    "\u{1b}Pq#0\u{1b}\\j",
    "k\u{8}\u{8}\u{8}l",
    "m\u{202e}n",
    "\u{1b}[8mhidden",
];

/// The audiences: what their environment says, and whether they sit at a terminal.
const AUDIENCES: &[(&str, &[(&str, &str)])] = &[
    ("pipe", &[]),
    ("terminal", &[("TERM", "xterm-256color")]),
    ("github", &[("CI", "true"), ("GITHUB_ACTIONS", "true")]),
    ("azure", &[("TF_BUILD", "True")]),
    ("teamcity", &[("TEAMCITY_VERSION", "2025.07")]),
    // A step that says `2>&1`.
    ("teamcity in one stream", &[("TEAMCITY_VERSION", "2025.07")]),
    ("gitlab", &[("CI", "true"), ("GITLAB_CI", "true")]),
    ("buildkite", &[("CI", "true"), ("BUILDKITE", "true")]),
];

/// A value whose texts are all hostile, but for those on whose form something depends.
///
/// Each text gets another one; `next` counts them.
fn poisoned(value: Value, next: &mut usize) -> Value {
    const KEPT: &[&str] = &[
        "id",
        "project",
        "logicalId",
        "status",
        "deploymentId",
        "ticket",
        "relation",
        "liveness",
        "errorCode",
        "type",
        "state",
        "stream",
        "createdAt",
        "startedAt",
        "endedAt",
        "at",
        "supersededBy",
        "retryOf",
        "lastHeartbeatAt",
        "cancelRequestedAt",
        "cursor",
        "nextCursor",
        "line",
        "preempt",
        "kind",
        "lastCalledAt",
    ];
    match value {
        Value::String(_) => {
            *next += 1;
            json!(HOSTILE[*next % HOSTILE.len()])
        }
        Value::Array(items) => items.into_iter().map(|item| poisoned(item, next)).collect(),
        Value::Object(members) => {
            let poisoned = members.into_iter().map(|(name, value)| {
                let is_kept = KEPT.contains(&name.as_str()) && !value.is_array();
                let value = if is_kept { value } else { poisoned(value, next) };
                (name, value)
            });
            Value::Object(poisoned.collect())
        }
        other => other,
    }
}

/// A deployment that tells everything that one can tell.
fn told(id: &str, status: &str) -> Value {
    let mut told = deployment(id, status);
    for text in ["phase", "message", "ref", "commit", "actor", "url"] {
        told[text] = json!("text");
    }
    if status == "FAILED" {
        let failed = json!([{ "phase": "text", "message": "text" }, { "phase": "text", "message": "text" }]);
        let rollback = json!({ "status": "rollbackFailed", "failed": failed });
        told["error"] = json!({ "code": "PHASE_FAILED", "message": "text", "phase": "text", "rollback": rollback });
    }
    told
}

/// A server that answers every route, with every text poisoned, from this one of the hostile texts on.
fn server(first: usize) -> Fake {
    Fake::start(move |request, _| {
        let mut next = first;
        let json = |status: u16, value: Value| Reply::Json(status, poisoned(value, &mut first.clone()));
        let is_dry_run = request.query.contains("dryRun");
        match request.route().as_str() {
            "POST deployments" if is_dry_run => json(
                200,
                json!({
                    "dryRun": true, "project": "web", "pipeline": "text",
                    "phases": [{ "name": "text", "kind": "run", "protected": true, "rollback": true }],
                    "changes": [{ "field": "text", "from": "text", "to": "text" }],
                    "holder": told(HOLDER, "RUNNING"), "queuePosition": 1, "expectedWait": null,
                }),
            ),
            "POST deployments" if request.json()["onConflict"] == "refuse" => json(409, conflict()),
            "POST deployments" => json(202, told(OURS, "PENDING")),
            "GET events" => {
                let events = [
                    json!({ "type": "queue", "position": 1, "blocker": HOLDER }),
                    json!({ "type": "phase", "name": "text", "state": "started", "message": "text" }),
                    json!({ "type": "progress", "status": "RUNNING", "progress": 40, "message": "text" }),
                    json!({ "type": "log", "stream": "stdout", "phase": "text", "lines": ["text", "text"] }),
                    json!({ "type": "cancel", "reason": "text", "supersededBy": null }),
                    json!({ "type": "phase", "name": "text", "state": "failed", "message": "text" }),
                    complete(&told(OURS, "FAILED")),
                ];
                let events = events.into_iter().zip(1..).map(|(event, seq)| (seq, poisoned(event, &mut next)));
                if request.header("accept").is_some_and(|accept| accept.contains("event-stream")) {
                    return Reply::Stream(events.map(|(seq, event)| Part::Text(frame(seq, &event))).collect());
                }
                let events: Vec<_> = events
                    .map(|(seq, mut event)| {
                        event["seq"] = json!(seq);
                        event["at"] = json!("2026-03-01T12:00:00.000Z");
                        event
                    })
                    .collect();
                Reply::Json(200, json!({ "last": events.len(), "events": events, "final": true }))
            }
            "POST cancel" => json(202, told(OURS, "RUNNING")),
            "POST release" => json(200, json!({ "released": told(HOLDER, "FAILED") })),
            "GET deployments" => {
                json(200, json!({ "deployments": [told(OURS, "FAILED"), told(HOLDER, "RUNNING")], "nextCursor": null }))
            }
            "GET audit" => {
                let line = json!({
                    "number": 7, "at": "2026-03-01T12:00:00.000Z", "action": "text", "caller": "text", "address": "text",
                    "requestId": "text", "project": "web", "deploymentId": OURS, "deploymentNumber": 3, "detail": "text",
                    "count": 1,
                });
                json(200, json!({ "entries": [line], "nextCursor": null }))
            }
            _ if request.path.ends_with("/v1/projects") => json(
                200,
                json!({
                    "projects": [{
                        "project": "web", "holder": told(HOLDER, "RUNNING"), "lineLength": 1,
                        "lastOutcome": told(OURS, "FAILED"),
                    }],
                    "nextCursor": null,
                }),
            ),
            _ if request.path.ends_with("/v1/projects/web") => {
                let mut waiting = told(OURS, "PENDING");
                waiting["queuePosition"] = json!(1);
                json(
                    200,
                    json!({
                        "project": "web", "holder": told(HOLDER, "RUNNING"), "liveness": "alive", "eta": null,
                        "line": [waiting], "lineLength": 1, "lastOutcome": told(OURS, "FAILED"),
                        "policy": { "line": "all", "lineLimit": 10, "preempt": "allow", "paused": false },
                        "pipelines": ["text"], "agents": [], "revision": 3,
                    }),
                )
            }
            _ if request.method == "GET" => json(200, told(OURS, "FAILED")),
            _ => json(404, problem(404, "NOT_FOUND")),
        }
    })
}

/// What a command prints, both streams as one.
fn printed(fake: &Fake, audience: &str, variables: &[(&str, &str)], args: &[&str]) -> String {
    let mut command = if audience == "terminal" {
        // util-linux's `script` gives it a terminal.
        let line: Vec<_> = std::iter::once(SINGLETRACK).chain(args.iter().copied()).map(quoted).collect();
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
        command
    } else if audience == "teamcity in one stream" {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>&1", "sh", SINGLETRACK]).args(args);
        command
    } else {
        let mut command = Command::new(SINGLETRACK);
        command.args(args);
        command
    };
    command.env_clear().env("PATH", "/usr/bin:/bin").env("SINGLETRACK_URL", &fake.url).envs(variables.iter().copied());
    let output = command.stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What is wrong with what was printed for this audience.
fn wrong(audience: &str, text: &str) -> Option<String> {
    // Colours, and what a bar needs: going to the begin of a line, up, and erasing.
    let plain = strip_own_sequences(text);
    let control = plain.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r'));
    if let Some(control) = control {
        return Some(format!("a control character {control:?}"));
    }
    if plain.chars().any(|c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')) {
        return Some("a mark that turns text around".to_owned());
    }
    let is_ci = !matches!(audience, "pipe" | "terminal");
    let plain = match without_own_words(audience, &plain) {
        Ok(plain) => plain,
        Err(fault) => return Some(fault),
    };
    if is_ci && plain.contains("##") {
        return Some("a runner's `##` command".to_owned());
    }
    if is_ci && plain.lines().any(|line| line.trim_start().starts_with("::")) {
        return Some("a runner's `::` command".to_owned());
    }
    (audience != "terminal" && plain.contains('\r')).then(|| "a carriage return".to_owned())
}

/// The text without the words by which we speak to a runner ourselves, each once, at the begin of a line. What follows such a
/// word is somebody's text, and must not be such a word itself.
fn without_own_words(audience: &str, text: &str) -> Result<String, String> {
    let own: &[&str] = match audience {
        "github" => &["::group::", "::endgroup::", "::error title="],
        "azure" => &["##[group]", "##[endgroup]", "##vso[task.logissue type=error]"],
        "gitlab" => &["section_start:", "section_end:"],
        "buildkite" => &["--- ", "^^^ +++"],
        _ => &[],
    };
    let mut plain = String::new();
    for line in text.split_inclusive('\n') {
        if audience == "teamcity in one stream" && line.starts_with("##teamcity[") {
            plain.push_str(value_of_service_message(line)?);
            plain.push('\n');
            continue;
        }
        let rest = own.iter().find_map(|word| line.strip_prefix(word)).unwrap_or(line);
        let is_own = rest.len() < line.len();
        if is_own && rest.starts_with("evil") {
            return Err(format!("a runner's command that others wrote: {line:?}"));
        }
        // The title of an error is ours but for a code, and cannot end early.
        let rest = match (is_own, rest.split_once("::")) {
            (true, Some((title, message))) if line.starts_with("::error title=") => {
                if title.contains(',') || title.contains(':') {
                    return Err(format!("a property that others wrote: {line:?}"));
                }
                message
            }
            _ => rest,
        };
        // After a section's name, GitLab wants a carriage return.
        let rest = match (is_own && audience == "gitlab").then(|| rest.split_once('\r')) {
            Some(Some((name, title))) if !name.contains("evil") || name.contains(":singletrack_") => title,
            Some(_) => return Err(format!("a section that others wrote: {line:?}")),
            None => rest,
        };
        plain.push_str(rest);
    }
    Ok(plain)
}

/// The value of one of TeamCity's messages that we write ourselves: it has no character that would end it, or begin another.
fn value_of_service_message(line: &str) -> Result<&str, String> {
    const OWN: &[(&str, &str)] = &[
        ("##teamcity[blockOpened name='", "']\n"),
        ("##teamcity[blockClosed name='", "']\n"),
        ("##teamcity[message text='", "' status='ERROR']\n"),
    ];
    let value = OWN.iter().find_map(|(head, tail)| line.strip_prefix(head)?.strip_suffix(tail));
    let value = value.ok_or_else(|| format!("a service message that others wrote: {line:?}"))?;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if matches!(c, '\'' | '[' | ']') || !matches!(c, ' '..='~') {
            return Err(format!("a value that ends early: {line:?}"));
        }
        if c == '|' && !chars.next().is_some_and(|escaped| "'|[]nr0".contains(escaped)) {
            return Err(format!("a value that is not escaped: {line:?}"));
        }
    }
    Ok(value)
}

fn strip_own_sequences(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = after.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == '?')).unwrap_or(after.len());
        let (parameters, tail) = after.split_at(end);
        let is_own = match tail.chars().next() {
            // Colours and weights, but not `conceal`.
            Some('m') => !parameters.split(';').any(|parameter| parameter == "8"),
            Some('A' | 'B' | 'G' | 'K') => true,
            // The cursor, shown and hidden.
            Some('h' | 'l') => parameters == "?25",
            _ => false,
        };
        if is_own {
            rest = &tail[1..];
        } else {
            plain.push('\u{1b}');
            rest = after;
        }
    }
    plain.push_str(rest);
    plain
}

#[test]
fn nothing_that_others_wrote_commands_a_runner_or_a_terminal() {
    const COMMANDS: &[&[&str]] = &[
        &["deploy", "--project", "web"],
        &["deploy", "--project", "web", "--on-conflict", "fail"],
        &["deploy", "--project", "web", "--follow", "poll"],
        &["deploy", "--project", "web", "--dry-run"],
        &["why", "--project", "web"],
        &["status", "--project", "web", OURS],
        &["logs", "--project", "web", OURS],
        &["wait", "--project", "web", OURS, "--progress"],
        &["logs", "--project", "web", OURS, "--follow", "--exit-code"],
        &["cancel", "--project", "web", OURS, "--wait"],
        &["list", "--project", "web"],
        &["list"],
        &["audit"],
        &["audit", "--project", "web", "--json"],
        &["cancel", "--project", "web", OURS],
        &["release", "--project", "web", "--reason", "x"],
        &["run", "--project", "web", "--on-conflict", "fail", "--", "true"],
    ];
    let mut faults = Vec::new();
    // So that each text of an answer is each of a third of the hostile ones once.
    for first in (0..HOSTILE.len()).step_by(3) {
        let fake = server(first);
        for (audience, variables) in AUDIENCES {
            for command in COMMANDS {
                for json in [false, true] {
                    if json && command[0] == "run" {
                        continue;
                    }
                    let args: Vec<&str> = match json {
                        false => command.to_vec(),
                        true => [&command[..1], &["--json"], &command[1..]].concat(),
                    };
                    let text = printed(&fake, audience, variables, &args);
                    assert!(!text.trim().is_empty(), "{args:?} printed nothing");
                    if let Some(what) = wrong(audience, &text) {
                        faults.push(format!("{audience}: {args:?} from {first}: {what}:\n{text:?}"));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults, such as:\n{}", faults.len(), faults[..faults.len().min(3)].join("\n"));
}

#[test]
fn a_wrong_argument_that_others_wrote_commands_nobody_either() {
    let fake = server(0);
    for poison in HOSTILE.iter().filter(|poison| !poison.contains('\0')) {
        for (audience, variables) in AUDIENCES {
            for args in
                [["deploy", "--project", poison], ["deploy", "--order", poison], ["status", "--nothing", poison]]
            {
                let text = printed(&fake, audience, variables, &args);
                assert_eq!(wrong(audience, &text), None, "{audience}: {args:?}: {text:?}");
            }
        }
    }
}

#[test]
fn what_is_wrong_is_seen() {
    for text in ["\u{1b}]0;t\u{7}", "\u{9b}2J", "a\u{8}", "\u{1b}[2J", "\u{1b}[8m", "a\u{202e}"] {
        assert!(wrong("terminal", text).is_some(), "{text:?}");
    }
    for text in ["a ##vso[b]c", "  ::error::a", "a\r"] {
        assert!(wrong("github", text).is_some(), "{text:?}");
    }
    assert_eq!(wrong("terminal", "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m a\r\n\u{1b}[2K\u{1b}[1A"), None);
}

#[test]
fn nothing_that_others_wrote_is_more_than_text_in_a_summary_or_names_an_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for first in 0..HOSTILE.len() {
        let fake = server(first);
        let variables = [
            ("GITHUB_ACTIONS", "true".to_owned()),
            ("GITHUB_STEP_SUMMARY", path("summary").display().to_string()),
            ("GITHUB_OUTPUT", path("output").display().to_string()),
        ];
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().env("SINGLETRACK_URL", &fake.url).envs(variables).stdin(Stdio::null());
        let output = command.args(["deploy", "--project", "web"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let summary = std::fs::read_to_string(path("summary")).unwrap();
        for line in summary.lines() {
            // A table's row has as many cells as its head, and everything else is our own.
            let is_own = line.is_empty() || line.starts_with("### web&#58; ") || line.starts_with("### web: ");
            let cells = line.split('|').count();
            let is_row = line.starts_with("| ") && line.ends_with(" |") && (4..=5).contains(&cells);
            assert!(is_own || is_row, "{line:?} in\n{summary}");
            let plain = line.replace(['|', ' '], "");
            assert!(
                !plain.contains(['<', '>', '`', '[', ']', '*', '_', '~', '\\', '\u{1b}']),
                "{line:?} in\n{summary}"
            );
        }
        let outputs = std::fs::read_to_string(path("output")).unwrap();
        let mut lines = outputs.lines();
        while let Some(line) = lines.next() {
            let (name, delimiter) = line.split_once("<<").unwrap_or_else(|| panic!("{line:?} in\n{outputs}"));
            assert!(
                ["id", "status", "number", "url", "superseded-by", "rollback", "exit-code", "reason"].contains(&name)
                    || name.starts_with("_"),
                "{outputs}"
            );
            assert!(lines.any(|line| line == delimiter), "{outputs}");
        }
        std::fs::remove_file(path("summary")).unwrap();
        std::fs::remove_file(path("output")).unwrap();
    }
}
