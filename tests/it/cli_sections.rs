//! What a CI's log shows of a deployment: sections per phase and an error that the system lists, in each system's own words.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{
    fake::{Fake, OURS, Part, Reply, complete, deployment, ended, frame, log},
    harness::SINGLETRACK,
};

fn phase(name: &str, state: &str) -> Value {
    json!({ "type": "phase", "name": name, "state": state })
}

/// A server on which a deployment runs these events and ends so.
fn running(events: Vec<Value>, last: Value) -> Fake {
    Fake::start(move |request, _| match request.route().as_str() {
        "POST deployments" => Reply::Json(202, deployment(OURS, "PENDING")),
        "GET events" => {
            let events = events.iter().cloned().chain([complete(&last)]).zip(1..);
            Reply::Stream(events.map(|(event, seq)| Part::Text(frame(seq, &event))).collect())
        }
        other => panic!("unexpected: {other}"),
    })
}

fn deploy(fake: &Fake, variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", &fake.url).envs(variables.iter().copied());
    let output = command.args(["deploy", "--project", "web"]).stdin(Stdio::null()).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The same step with `2>&1`: both streams are one. The exit code, and what was on it.
fn deploy_in_one_stream(fake: &Fake, variables: &[(&str, &str)], more: &[&str]) -> (i32, String) {
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", "/usr/bin:/bin").env("SINGLETRACK_URL", &fake.url).envs(variables.iter().copied());
    command.args(["-c", "exec \"$@\" 2>&1", "sh", SINGLETRACK, "deploy", "--project", "web"]).args(more);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

const TEAMCITY: &[(&str, &str)] = &[("TEAMCITY_VERSION", "2025.07")];
const GITHUB: &[(&str, &str)] = &[("CI", "true"), ("GITHUB_ACTIONS", "true")];

fn failing() -> Fake {
    let events =
        vec![phase("build", "started"), log("compiling"), phase("build", "failed"), phase("switch", "skipped")];
    running(events, ended("FAILED", "PHASE_FAILED", None))
}

#[test]
fn each_phase_is_a_section_and_a_failure_is_listed() {
    let told = |variables| {
        let (code, stderr) = deploy(&failing(), variables);
        assert_eq!(code, 1);
        let lines: Vec<_> = stderr.lines().skip(1).map(str::to_owned).collect();
        lines[..lines.len() - 2].join("\n").replace(OURS, "ID")
    };
    assert_eq!(
        told(GITHUB),
        "::group::build\ncompiling\n::endgroup::\n==> build failed\n==> switch skipped\n\
         ::error title=singletrack%3A PHASE_FAILED::deployment ID failed (PHASE_FAILED): as the test says"
    );
    assert_eq!(
        told(&[("TF_BUILD", "True")]),
        "##[group]build\ncompiling\n##[endgroup]\n==> build failed\n==> switch skipped\n\
         ##vso[task.logissue type=error]deployment ID failed (PHASE_FAILED): as the test says (singletrack: PHASE_FAILED)"
    );
    assert_eq!(
        told(&[("CI", "true"), ("BUILDKITE", "true")]),
        "--- build\ncompiling\n==> build failed\n==> switch skipped\n^^^ +++\n\
         error: deployment ID failed (PHASE_FAILED): as the test says"
    );
    let at = 1_772_366_400;
    assert_eq!(
        told(&[("CI", "true"), ("GITLAB_CI", "true")]),
        format!(
            "\u{1b}[0Ksection_start:{at}:singletrack_1_build\r\u{1b}[0Kbuild\ncompiling\n\
             \u{1b}[0Ksection_end:{at}:singletrack_1_build\r\u{1b}[0K\n==> build failed\n==> switch skipped\n\
             error: deployment ID failed (PHASE_FAILED): as the test says"
        )
    );
    // Elsewhere nothing of that is seen.
    assert_eq!(
        told(&[]),
        "==> build\ncompiling\n==> build failed\n==> switch skipped\n\
         error: deployment ID failed (PHASE_FAILED): as the test says"
    );
}

#[test]
fn a_section_ends_before_the_error_of_a_deployment_that_stops_in_the_middle_of_a_phase() {
    let events = vec![phase("build", "started"), log("compiling")];
    let (_, stderr) = deploy(&running(events, ended("FAILED", "WORKER_LOST", None)), GITHUB);
    let at = |text: &str| stderr.find(text).unwrap_or_else(|| panic!("{text} is not in\n{stderr}"));
    assert!(at("compiling") < at("::endgroup::") && at("::endgroup::") < at("::error title="), "{stderr}");
    assert_eq!(stderr.matches("::endgroup::").count(), 1, "{stderr}");
}

#[test]
fn a_server_that_is_not_there_is_listed_as_an_error_too() {
    let fake = Fake::start(|_, _| Reply::Json(401, crate::fake::problem(401, "UNAUTHORIZED")));
    let (code, stderr) = deploy(&fake, GITHUB);
    assert_eq!(code, 125);
    assert!(
        stderr.starts_with("::error title=singletrack%3A UNAUTHORIZED::the server says UNAUTHORIZED\n"),
        "{stderr}"
    );
}

#[test]
fn teamcity_gets_blocks_where_the_step_sends_progress_to_standard_output() {
    let (code, text) = deploy_in_one_stream(&failing(), TEAMCITY, &[]);
    assert_eq!(code, 1);
    let lines: Vec<_> = text.lines().skip(1).collect();
    assert_eq!(
        lines[..lines.len() - 2].join("\n").replace(OURS, "ID"),
        "##teamcity[blockOpened name='build']\ncompiling\n##teamcity[blockClosed name='build']\n\
         ==> build failed\n==> switch skipped\n\
         ##teamcity[message text='deployment ID failed (PHASE_FAILED): as the test says (singletrack: PHASE_FAILED)' \
         status='ERROR']"
    );
    // A block that is open as the deployment ends is closed before the error.
    let events = vec![phase("it's [100 %]", "started"), log("compiling")];
    let (_, text) = deploy_in_one_stream(&running(events, ended("FAILED", "WORKER_LOST", None)), TEAMCITY, &[]);
    let blocks: Vec<_> = text.lines().filter(|line| line.contains("##teamcity[")).collect();
    assert_eq!(
        blocks[..2],
        ["##teamcity[blockOpened name='it|'s |[100 %|]']", "##teamcity[blockClosed name='it|'s |[100 %|]']"]
    );
    assert!(blocks.len() == 3 && blocks[2].starts_with("##teamcity[message text='"), "{text}");
}

#[test]
fn teamcity_gets_plain_lines_where_standard_output_has_the_result_alone() {
    let mut done = deployment(OURS, "SUCCEEDED");
    done["result"] = json!({ "outputs": { "url": "https://web.example" } });
    let fake = running(vec![phase("build", "started"), log("compiling")], done);
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", &fake.url).envs(TEAMCITY.iter().copied());
    let output = command.args(["deploy", "--project", "web"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "url=https://web.example\n");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("==> build\ncompiling\n") && !stderr.contains("##"), "{stderr}");
}
