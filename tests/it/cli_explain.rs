//! `singletrack explain`: a page for each code that there is, and none for any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde::de::DeserializeOwned;
use serde_json::json;
use singletrack::{
    cli::{
        exit::{Exit, exit_of, exit_of_end},
        reason::{ROLLBACK_FAILED, Reason},
    },
    explain::{PAGES, find},
    model::{CancelCause, DeploymentId, FailureCause, Status},
    wire::ErrorCode,
};

use crate::{
    fake::{Fake, OURS, Reply, conflict, deployment, ended, problem, stream_to},
    harness::SINGLETRACK,
};

/// The names of an enum's variants, from the enum itself: what refuses an unknown variant names those that it knows.
fn variants<T: DeserializeOwned>() -> BTreeSet<String> {
    let refusal = serde_json::from_value::<T>(json!("no such variant")).err().unwrap().to_string();
    let (_, known) = refusal.split_once("expected one of ").unwrap();
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every cause of a cancel. A new one does not compile until it stands here.
fn cancel_causes() -> Vec<CancelCause> {
    let by = DeploymentId::from_bytes([0; 16]);
    let next = |cause: &CancelCause| match cause {
        CancelCause::Requested => Some(CancelCause::Superseded { by }),
        CancelCause::Superseded { .. } => Some(CancelCause::Abandoned),
        CancelCause::Abandoned => Some(CancelCause::Expired),
        CancelCause::Expired => Some(CancelCause::Released),
        CancelCause::Released => None,
    };
    std::iter::successors(Some(CancelCause::Requested), next).collect()
}

/// Every code that has a page, with the exit codes of the client that go with it.
fn codes() -> BTreeMap<String, BTreeSet<u8>> {
    let mut codes: BTreeMap<String, BTreeSet<u8>> = BTreeMap::new();
    let mut add = |code: &str, exit: Exit| _ = codes.entry(code.to_owned()).or_default().insert(exit.code());
    for code in variants::<ErrorCode>() {
        add(&code, exit_of(serde_json::from_value(json!(code)).ok()));
    }
    for code in variants::<FailureCause>() {
        add(&code, exit_of_end(Status::Failed, &code));
    }
    for cause in cancel_causes() {
        add(cause.code(), exit_of_end(Status::Cancelled, cause.code()));
    }
    // Told beside the reason of a deployment that failed or was cancelled.
    add(ROLLBACK_FAILED, Exit::Failed);
    add(ROLLBACK_FAILED, Exit::Cancelled);
    for (reason, exit) in reasons_of_the_client() {
        codes.entry(reason).or_default().insert(exit);
    }
    codes
}

/// The client's own reasons with their exit codes, as docs/exit-codes.md has them.
fn reasons_of_the_client() -> Vec<(String, u8)> {
    let table = fs::read_to_string(folder().join("../exit-codes.md")).unwrap();
    let rows = table.lines().filter_map(|line| {
        let [_, exit, _, reasons, _] = line.split('|').collect::<Vec<_>>().try_into().ok()?;
        Some((exit.trim().parse::<u8>().ok()?, reasons.split('`').skip(1).step_by(2).map(str::to_owned).collect()))
    });
    let rows: Vec<(u8, Vec<String>)> = rows.collect();
    let exit_of = |reason: &str| rows.iter().find(|(_, reasons)| reasons.iter().any(|known| known == reason));
    let found = Reason::ALL.iter().map(|reason| {
        let (exit, _) = exit_of(reason.as_str()).unwrap_or_else(|| panic!("{reason:?} is not in docs/exit-codes.md"));
        (reason.as_str().to_owned(), *exit)
    });
    found.collect()
}

/// The exit codes that have a page: those of the program's own, of `run`, and of `serve`.
fn exits() -> BTreeSet<String> {
    let next = |exit: &Exit| match exit {
        Exit::Done => Some(Exit::Failed),
        Exit::Failed => Some(Exit::Usage),
        Exit::Usage => Some(Exit::Blocked),
        Exit::Blocked => Some(Exit::Cancelled),
        Exit::Cancelled => Some(Exit::LeaseLost),
        Exit::LeaseLost => Some(Exit::TimedOut),
        Exit::TimedOut => Some(Exit::Fault),
        Exit::Fault => Some(Exit::Interrupted),
        // Of commands: `run` names 126, 127 and 128+N as a shell does, `serve` 69 and 78 as sysexits.h does.
        Exit::Interrupted | Exit::Command(_) => None,
    };
    let own = std::iter::successors(Some(Exit::Done), next).map(|exit| exit.code().to_string());
    own.chain(["126", "127", "128", "69", "78"].map(str::to_owned)).collect()
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/explain")
}

fn explain(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(SINGLETRACK);
    let output = command.env_clear().arg("explain").args(args).stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

#[test]
fn each_code_has_a_page_and_each_page_a_code() {
    let expected: BTreeSet<String> = codes().into_keys().chain(exits()).collect();
    let compiled: BTreeSet<String> = PAGES.iter().map(|page| page.code.to_owned()).collect();
    let files: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".md", ""))
        .filter(|name| name != "README")
        .collect();
    assert_eq!(compiled, expected, "src/explain.rs and the codes that there are");
    assert_eq!(files, expected, "docs/explain and the codes that there are");
    assert_eq!(PAGES.len(), compiled.len(), "a page stands there twice");
}

#[test]
fn every_page_tells_the_cause_what_to_do_an_example_and_the_exit_code() {
    let exits_of = codes();
    for page in PAGES {
        let (code, text) = (page.code, page.text);
        let (first, _) = text.split_once('\n').unwrap();
        assert_eq!(
            first.trim_start_matches("# Exit code "),
            if exits_of.contains_key(code) { format!("# {code}") } else { page.heading().to_owned() }
        );
        for part in ["**Cause:** ", "**What to do:** ", "**Example:**\n\n    "] {
            assert_eq!(text.matches(part).count(), 1, "{code}: {part}");
        }
        if let Some(exits) = exits_of.get(code) {
            let exits: Vec<_> = exits.iter().map(u8::to_string).collect();
            let told = format!("The client ends with {}.", exits.join(" or "));
            assert!(text.replace('\n', " ").contains(&told), "{code} does not say {told:?}");
        }
        if let Ok(code) = serde_json::from_value::<ErrorCode>(json!(code)) {
            assert_eq!(page.title(), code.title(), "the page and the wire say the same");
        }
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{code}");
        // Whatever is printed in a CI must not look like a command to its runner.
        assert!(!text.contains("##") && !text.lines().any(|line| line.trim_start().starts_with("::")), "{code}");
        for line in text.lines().filter(|line| !line.starts_with("    ")) {
            assert!(line.chars().count() <= 80, "{code}: too wide for a terminal: {line}");
        }
    }
}

#[test]
fn no_document_names_a_code_that_does_not_exist() {
    let known = codes();
    for page in PAGES {
        for word in page.text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let is_code = word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            let is_variable = word.starts_with("SINGLETRACK_") || word.starts_with('_');
            assert!(!is_code || is_variable || known.contains_key(word), "{} names {word}", page.code);
        }
        for (_, rest) in
            page.text.match_indices("singletrack explain ").map(|(at, it)| page.text.split_at(at + it.len()))
        {
            let named = rest.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap();
            assert!(named == "CODE" || find(named).is_some(), "{} points at {named:?}", page.code);
        }
    }
}

#[test]
fn the_index_lists_every_page_with_its_title() {
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    for page in PAGES {
        let row = format!("| [{}]({}.md) | {} |", page.heading(), page.code, page.title());
        assert!(index.contains(&row), "docs/explain/README.md does not have\n{row}");
    }
    assert_eq!(index.matches("\n| [").count(), PAGES.len());
}

#[test]
fn explain_prints_the_page_in_the_documentation() {
    for code in ["OUTDATED", "outdated", "Outdated"] {
        let (exit, stdout, stderr) = explain(&[code]);
        assert_eq!((exit, stderr.as_str()), (0, ""));
        assert_eq!(stdout, fs::read_to_string(folder().join("OUTDATED.md")).unwrap());
    }
    assert_eq!(explain(&["121"]).1, fs::read_to_string(folder().join("121.md")).unwrap());
    assert_eq!(explain(&["137"]).1, fs::read_to_string(folder().join("128.md")).unwrap());
}

#[test]
fn explain_without_a_code_lists_all() {
    let (exit, stdout, _) = explain(&[]);
    assert_eq!(exit, 0);
    for page in PAGES {
        let is_listed = stdout.lines().any(|line| {
            line.split_once(page.heading())
                .is_some_and(|(before, after)| before == "  " && after.trim() == page.title())
        });
        assert!(is_listed, "{} is not in\n{stdout}", page.code);
    }
    let widest = stdout.lines().max_by_key(|line| line.chars().count()).unwrap();
    assert!(widest.chars().count() <= 100, "{widest}");
}

#[test]
fn an_unknown_code_is_a_usage_error_that_names_the_nearest() {
    let (exit, stdout, stderr) = explain(&["SUPERCEDED"]);
    assert_eq!((exit, stdout.as_str()), (2, ""));
    assert!(stderr.contains("there is no code 'SUPERCEDED'") && stderr.contains("did you mean SUPERSEDED"), "{stderr}");
    let (exit, _, stderr) = explain(&["xyzzy"]);
    assert_eq!(exit, 2);
    assert!(stderr.contains("`singletrack explain` lists all codes") && !stderr.contains("did you mean"), "{stderr}");
}

#[test]
fn a_failure_points_at_the_page_that_tells_more() {
    type Script = fn(&crate::fake::Request) -> Reply;
    let scripts: [(Script, &str); 6] = [
        (|_| Reply::Json(409, problem(409, "OUTDATED")), "OUTDATED"),
        (|_| Reply::Json(400, problem(400, "UNKNOWN_PIPELINE")), "UNKNOWN_PIPELINE"),
        (|_| Reply::Json(500, problem(500, "A_CODE_OF_THE_FUTURE")), "125"),
        (|request| end_with(request, ended("FAILED", "PHASE_FAILED", None)), "PHASE_FAILED"),
        (|request| end_with(request, ended("CANCELLED", "SUPERSEDED", Some(OURS))), "SUPERSEDED"),
        (|_| Reply::Json(409, conflict()), "DEPLOYMENT_IN_PROGRESS"),
    ];
    for (script, code) in scripts {
        let fake = Fake::start(move |request, _| script(request));
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().env("SINGLETRACK_URL", &fake.url).args(["deploy", "--project", "web"]);
        if code == "DEPLOYMENT_IN_PROGRESS" {
            command.args(["--on-conflict", "fail"]);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr.lines().last(), Some(format!("more: singletrack explain {code}").as_str()), "{stderr}");
        assert_eq!(stderr.matches("singletrack explain").count(), 1, "{stderr}");
    }
}

fn end_with(request: &crate::fake::Request, last: serde_json::Value) -> Reply {
    match request.route().as_str() {
        "POST deployments" => Reply::Json(202, deployment(OURS, "PENDING")),
        _ => stream_to(&last),
    }
}
