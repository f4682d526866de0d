//! How a job ends whose deployment was superseded, and what it leaves to later steps and jobs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    fake::{Fake, OURS, Part, Reply, SUCCESSOR, complete, conflict, deployment, ended, frame, problem, stream_to},
    harness::{SINGLETRACK, TestServer},
};

const LAST: &str = "01998c6e-0000-7000-8000-00000000000d";
const SUBMIT: &str = "POST deployments";

/// A job in a CI, with the files that the CI names.
struct Job {
    folder: TempDir,
    fake: Fake,
}

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Job {
    fn with(fake: Fake) -> Self {
        Job { folder: tempfile::tempdir().unwrap(), fake }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("SINGLETRACK_URL", &self.fake.url);
        command.env("GITHUB_ACTIONS", "true").env("GITHUB_OUTPUT", self.path("output"));
        command.env("GITHUB_STEP_SUMMARY", self.path("summary"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn deploy(&self, args: &[&str]) -> Ended {
        self.run(&[&["deploy", "--project", "web"], args].concat())
    }
}

impl Ended {
    fn of(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Ended { code: output.status.code().unwrap(), stdout, stderr }
    }

    #[track_caller]
    fn expect(&self, code: i32, says: &str) -> &Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(says), "{says:?} is not in\n{}", self.stderr);
        self
    }
}

/// One of web's deployments with changes.
fn changed(id: &str, status: &str, changes: Value) -> Value {
    let mut value = deployment(id, status);
    for (name, change) in changes.as_object().unwrap() {
        value[name] = change.clone();
    }
    value
}

/// A server on which ours is superseded, and the chain of successors ends so.
fn superseded_by(ours: Value, successors: Vec<Value>) -> Fake {
    Fake::start(move |request, _| {
        let known = |path: &str| successors.iter().find(|one| path.contains(one["id"].as_str().unwrap())).cloned();
        match (request.route().as_str(), known(&request.path)) {
            (SUBMIT, _) => Reply::Json(202, changed(OURS, "PENDING", json!({}))),
            ("GET events", Some(successor)) => stream_to(&successor),
            ("GET events", None) => stream_to(&ours),
            (_, Some(successor)) if request.method == "GET" => Reply::Json(200, successor),
            other => panic!("unexpected: {other:?}"),
        }
    })
}

fn ours_superseded() -> Value {
    let mut ours = ended("CANCELLED", "SUPERSEDED", Some(SUCCESSOR));
    ours["order"] = json!(7);
    ours
}

#[test]
fn a_superseded_job_fails_unless_it_is_told_that_this_is_well() {
    let job = Job::with(superseded_by(ours_superseded(), Vec::new()));
    job.deploy(&[]).expect(122, "was superseded by");
    let well = job.deploy(&["--superseded-ok"]);
    well.expect(0, "::notice title=singletrack%3A SUPERSEDED::deployment");
    assert!(!well.stderr.contains("::error"), "{}", well.stderr);
    assert_eq!(well.stdout, "", "there is no result");
    let told = job.deploy(&["--superseded-ok", "--json"]);
    let told: Value = serde_json::from_str(&told.expect(0, "superseded").stdout).unwrap();
    assert_eq!(told["supersededBy"], SUCCESSOR);
    assert!(job.read("output").contains(&format!("{SUCCESSOR}\n")), "superseded-by is an output");
}

#[test]
fn an_outdated_job_ends_well_where_a_superseded_one_does() {
    let job = Job::with(Fake::start(|_, _| Reply::Json(409, problem(409, "OUTDATED"))));
    job.deploy(&[]).expect(122, "OUTDATED");
    job.deploy(&["--superseded-ok"]).expect(0, "::notice title=singletrack%3A OUTDATED::");
}

#[test]
fn what_was_cancelled_by_somebody_is_a_failure_all_the_same() {
    let job = Job::with(superseded_by(ended("CANCELLED", "CANCELLED", None), Vec::new()));
    job.deploy(&["--superseded-ok"]).expect(122, "was cancelled");
    job.deploy(&["--follow-successor"]).expect(122, "was cancelled");
}

#[test]
fn a_superseded_job_that_follows_its_successor_ends_as_that_one_ends() {
    let success = |changes| changed(SUCCESSOR, "SUCCEEDED", changes);
    let failure = |status, code| {
        let mut failure = changed(SUCCESSOR, status, json!({ "order": 8 }));
        failure["error"]["code"] = json!(code);
        failure
    };
    for (successor, code, says) in [
        (success(json!({ "order": 8 })), 0, "following that one"),
        (success(json!({ "order": 7 })), 0, "succeeded"),
        (success(json!({ "order": 6 })), 122, "its build number 6 is lower than 7"),
        (success(json!({ "order": 8, "pipeline": "destroy" })), 122, "it ran the pipeline destroy"),
        (failure("FAILED", "PHASE_FAILED"), 1, "failed (PHASE_FAILED)"),
        (failure("CANCELLED", "CANCELLED"), 122, "was cancelled"),
        (failure("CANCELLED", "EXPIRED"), 121, "at its deadline"),
    ] {
        let job = Job::with(superseded_by(ours_superseded(), vec![successor]));
        let ended = job.deploy(&["--follow-successor"]);
        ended.expect(code, says);
        assert_eq!(ended.stdout, if code == 0 { "url=https://web.example\n" } else { "" });
        let output = job.read("output");
        assert_eq!(output.contains("https://web.example"), code == 0, "{output}");
        assert!(output.contains(OURS) && output.contains("CANCELLED"), "its own status is told: {output}");
    }
}

#[test]
fn the_successor_of_a_successor_is_followed_too() {
    let second = changed(SUCCESSOR, "CANCELLED", json!({ "supersededBy": LAST }));
    let third = changed(LAST, "SUCCEEDED", json!({ "order": 9 }));
    let job = Job::with(superseded_by(ours_superseded(), vec![second, third]));
    let ended = job.deploy(&["--follow-successor"]);
    ended.expect(0, &format!("deployment {OURS} was superseded by deployment {SUCCESSOR}"));
    ended.expect(0, &format!("deployment {SUCCESSOR} was superseded by deployment {LAST}"));
}

#[test]
fn one_deadline_is_over_all_successors() {
    let fake = Fake::start(|request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(202, deployment(OURS, "PENDING")),
        "GET events" if request.path.contains(OURS) => stream_to(&ours_superseded()),
        "GET events" => Reply::Stream(vec![Part::Text(": it runs\n\n".to_owned()), Part::Hang]),
        _ => Reply::Json(200, deployment(SUCCESSOR, "RUNNING")),
    });
    let job = Job::with(fake);
    job.deploy(&["--follow-successor", "--timeout", "2s"]).expect(124, "the deadline passed while it followed");
    // The successor is somebody else's: nobody has asked for its end.
    assert!(job.fake.of("POST cancel").is_empty());
}

#[test]
fn an_interrupt_ends_the_following_alone() {
    let fake = Fake::start(|request, _| match request.route().as_str() {
        SUBMIT => Reply::Json(202, deployment(OURS, "PENDING")),
        "GET events" if request.path.contains(OURS) => stream_to(&ours_superseded()),
        "GET events" => Reply::Stream(vec![Part::Text(": it runs\n\n".to_owned()), Part::Hang]),
        _ => Reply::Json(200, deployment(SUCCESSOR, "RUNNING")),
    });
    let job = Job::with(fake);
    let mut command = job.command(&["deploy", "--project", "web", "--follow-successor"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    job.fake.asked("GET events", 2);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    Ended::of(child).expect(130, "interrupted while it followed");
    assert!(job.fake.of("POST cancel").is_empty());
}

#[test]
fn a_run_that_is_superseded_in_line_ends_as_its_job_wants() {
    let fake = |successor: Value| {
        Fake::start(move |request, _| match request.route().as_str() {
            SUBMIT => Reply::Json(409, conflict()),
            "GET turn" => Reply::Json(200, ours_superseded()),
            "GET completion" => Reply::Json(200, successor.clone()),
            _ if request.method == "GET" => Reply::Json(200, successor.clone()),
            other => panic!("unexpected: {other}"),
        })
    };
    let run = |args: &[&str]| {
        let job = Job::with(fake(changed(SUCCESSOR, "SUCCEEDED", json!({ "order": 8 }))));
        job.run(&[&["run", "--project", "web"], args, &["--", "false"]].concat())
    };
    run(&[]).expect(122, "was superseded");
    run(&["--superseded-ok"]).expect(0, "::notice");
    run(&["--follow-successor"]).expect(0, "following that one");
    let job = Job::with(fake(changed(SUCCESSOR, "FAILED", json!({}))));
    job.run(&["run", "--project", "web", "--follow-successor", "--", "true"]).expect(1, "PHASE_FAILED");
}

/// A server on which ours waits for another one, runs phases, and succeeds with these outputs.
fn eventful(outputs: Value) -> Fake {
    Fake::start(move |request, nth| match (request.route().as_str(), nth) {
        (SUBMIT, 0) => Reply::Json(409, conflict()),
        ("GET turn", _) => Reply::Json(200, deployment(OURS, "PENDING")),
        (SUBMIT, _) => Reply::Json(202, deployment(OURS, "PENDING")),
        _ => {
            let mut last =
                changed(OURS, "SUCCEEDED", json!({ "actor": "bob", "ref": "main", "number": 17, "outputs": outputs }));
            last["result"]["outputs"] = outputs.clone();
            let phase = |name: &str, state: &str| json!({ "type": "phase", "name": name, "state": state });
            let events = [phase("build", "started"), phase("build", "succeeded"), phase("check | <b>", "skipped")];
            let events = events.into_iter().chain([complete(&last)]).zip(1..);
            Reply::Stream(events.map(|(event, seq)| Part::Text(frame(seq, &event))).collect())
        }
    })
}

#[test]
fn the_summary_tells_who_was_waited_for_the_phases_and_the_outputs() {
    let job = Job::with(eventful(json!({ "url": "https://web.example/", "note": "<img src=x> | `a`\n## b" })));
    fs::write(job.path("summary"), "What an earlier command wrote").unwrap();
    job.deploy(&[]).expect(0, "succeeded");
    let summary = job.read("summary");
    assert!(summary.starts_with("What an earlier command wrote\n### web: deploy succeeded\n\n"), "{summary}");
    for row in [
        "| actor | bob |",
        "| source | main |",
        "for alice&#39;s deploy of main <https://ci.example/17> |",
        "| build | succeeded | 0s |",
        "| check &#124; &#60;b&#62; | skipped |  |",
        "| url | <https://web.example/> |",
        "| note | &#60;img src&#61;x&#62; &#124; &#96;a&#96; &#35;&#35; b |",
    ] {
        assert!(summary.contains(row), "{row} is not in\n{summary}");
    }
}

#[test]
fn the_summary_of_a_failure_says_why_and_what_to_do() {
    let job = Job::with(superseded_by(ours_superseded(), Vec::new()));
    job.deploy(&[]).expect(122, "superseded");
    let summary = job.read("summary");
    assert!(summary.starts_with("### web: deploy superseded\n"), "{summary}");
    assert!(summary.contains(&format!("| superseded by | deployment {SUCCESSOR} |")), "{summary}");
    assert!(summary.contains("| exit code | 122: deployment"), "{summary}");
    assert!(summary.contains("| what to do | "), "{summary}");
    let job = Job::with(Fake::start(|_, _| Reply::Json(400, problem(400, "UNKNOWN_PIPELINE"))));
    job.deploy(&[]).expect(2, "UNKNOWN_PIPELINE");
    assert!(job.read("summary").starts_with("### web: deploy not deployed\n"), "{}", job.read("summary"));
}

/// A job that ended before there was a deployment, by this server and these flags: what later steps and jobs are told.
fn without_deployment(server: &str, args: &[&str], code: i32, reason: Option<&str>) {
    let job = Job::with(Fake::start(|_, _| Reply::Json(409, problem(409, "PROJECT_PAUSED"))));
    let files = ["--dotenv", "deploy.env", "--result-file", "result.json", "--project", "web"];
    let (verb, rest) = args.split_first().unwrap();
    let mut command = job.command(&[&[*verb], &files[..], rest].concat());
    if !server.is_empty() {
        command.env("SINGLETRACK_URL", server);
    }
    let ended = Ended::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    ended.expect(code, "::error title=");
    let own = [("exit-code", Some(code.to_string())), ("reason", reason.map(str::to_owned))];
    let own: Vec<_> = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    assert_eq!(outputs(&job.read("output")), own, "{args:?}");
    let variables: Vec<_> = own
        .iter()
        .map(|(name, value)| format!("DEPLOYMENT_{}={value}\n", name.to_uppercase().replace('-', "_")))
        .collect();
    assert_eq!(job.read("deploy.env"), variables.concat(), "{args:?}");
    let summary = job.read("summary");
    assert!(summary.starts_with("### web: deploy not deployed\n"), "{args:?}: {summary}");
    assert!(summary.contains(&format!("| exit code | {code}: ")), "{args:?}: {summary}");
    let result: Value = serde_json::from_str(&job.read("result.json")).unwrap();
    assert_eq!((&result["exitCode"], &result["reason"]), (&json!(code), &json!(reason)), "{args:?}: {result}");
    assert!(result["message"].is_string(), "{result}");
}

#[test]
fn later_steps_and_jobs_are_told_why_there_is_no_deployment() {
    let refuses = Fake::start(|_, _| Reply::Json(401, problem(401, "UNAUTHORIZED")));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{nobody}");
    for verb in ["deploy", "run"] {
        let is = |server: &str, args: &[&str], code, reason| {
            let command: &[&str] = if verb == "run" { &["--", "true"] } else { &[] };
            without_deployment(server, &[&[verb], args, command].concat(), code, Some(reason));
        };
        is(&nobody, &["--timeout", "1s"], 125, "UNREACHABLE");
        is(&refuses.url, &[], 125, "UNAUTHORIZED");
        is("", &[], 121, "PROJECT_PAUSED");
        is("", &["--token-file", "no-such-file"], 2, "USAGE");
    }
    without_deployment("", &["deploy", "--artifact", "no-such-folder"], 2, Some("USAGE"));
    without_deployment("", &["run", "--", "no-such-command"], 127, None);
    // A dry run deploys nothing, and tells nobody that it did not.
    let job = Job::with(Fake::start(|_, _| Reply::Json(409, problem(409, "PROJECT_PAUSED"))));
    job.deploy(&["--dry-run", "--dotenv", "deploy.env"]).expect(121, "PROJECT_PAUSED");
    assert!(!job.path("deploy.env").exists() && !job.path("output").exists() && !job.path("summary").exists());
}

/// What GitHub's runner reads in a file of outputs.
fn outputs(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let (name, delimiter) = line.split_once("<<").unwrap_or_else(|| panic!("{line:?} in\n{text}"));
        let value: Vec<_> = lines.by_ref().take_while(|line| *line != delimiter).collect();
        found.push((name.to_owned(), value.join("\n")));
    }
    found
}

#[test]
fn the_outputs_of_a_step_are_those_of_the_deployment_and_cannot_be_forged() {
    let hostile = "x\nsingletrack_0\nid<<y\nstolen\ny";
    let job = Job::with(eventful(json!({ "my url": "https://web.example/", "note": hostile, "9": "nine" })));
    fs::write(job.path("output"), "earlier=1").unwrap();
    job.deploy(&[]).expect(0, "succeeded");
    let text = job.read("output");
    let text = text.strip_prefix("earlier=1\n").unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        outputs(text),
        [
            pair("id", OURS),
            pair("status", "SUCCEEDED"),
            pair("number", "17"),
            pair("exit-code", "0"),
            pair("_9", "nine"),
            pair("my_url", "https://web.example/"),
            pair("note", hostile)
        ]
    );
    let delimiter = |text: &str| text.lines().next().unwrap().split_once("<<").unwrap().1.to_owned();
    let again = Job::with(eventful(json!({})));
    again.deploy(&[]).expect(0, "succeeded");
    assert_ne!(delimiter(text), delimiter(&again.read("output")), "nobody can know it before");
}

#[test]
fn a_dotenv_report_is_written_in_every_ci_and_by_every_end() {
    for (fake, code, status) in [
        (eventful(json!({ "url": "https://web.example/", "two words": "a b" })), 0, "SUCCEEDED"),
        (superseded_by(ours_superseded(), Vec::new()), 122, "CANCELLED"),
    ] {
        let job = Job::with(fake);
        fs::write(job.path("deploy.env"), "OLD=1\n").unwrap();
        let mut command = job.command(&["deploy", "--project", "web", "--dotenv", "deploy.env"]);
        command.env_remove("GITHUB_ACTIONS").stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = Ended::of(command.spawn().unwrap());
        assert_eq!(ended.code, code, "{}", ended.stderr);
        let text = job.read("deploy.env");
        assert!(text.starts_with(&format!("DEPLOYMENT_ID={OURS}\nDEPLOYMENT_STATUS={status}\n")), "{text}");
        if code == 0 {
            assert!(text.ends_with("DEPLOYMENT_OUTPUT_URL=https://web.example/\n"), "{text}");
            assert!(ended.stderr.contains("deploy.env has no place for: two words"), "{}", ended.stderr);
        }
        // Only a GitHub step has these.
        assert!(!job.path("output").exists() && !job.path("summary").exists());
    }
}

#[test]
fn a_file_that_cannot_be_written_costs_a_warning_and_never_the_deployment() {
    type Make = fn(&Path);
    let wrong: [(&str, Make); 4] = [
        ("there is no such folder", |path| _ = fs::remove_file(path)),
        ("a folder", |path| fs::create_dir(path).unwrap()),
        // A pipe that nobody reads: to open it would be to wait for ever.
        ("a pipe", |path| {
            let made = Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        }),
        ("too large", |path| fs::write(path, vec![b'x'; 1024 * 1024]).unwrap()),
    ];
    for (what, make) in wrong {
        let job = Job::with(eventful(json!({ "url": "https://web.example/" })));
        let path = if what == "there is no such folder" { job.path("none/file") } else { job.path("file") };
        make(&path);
        let mut command = job.command(&["deploy", "--project", "web"]);
        command.env("GITHUB_OUTPUT", &path).env("GITHUB_STEP_SUMMARY", &path);
        if what != "too large" {
            command.args(["--dotenv", path.to_str().unwrap()]);
        }
        let ended = Ended::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        assert_eq!(ended.code, 0, "{what}: {}", ended.stderr);
        assert_eq!(ended.stdout, "url=https://web.example/\n", "{what}");
        let warnings = ended.stderr.matches("was not written").count();
        assert_eq!(warnings, if what == "too large" { 2 } else { 3 }, "{what}: {}", ended.stderr);
        if what == "too large" {
            assert_eq!(fs::metadata(&path).unwrap().len(), 1024 * 1024, "what is there is as it was");
        }
    }
}

/// A `run` in a job of its own folder, against a real server.
fn real_run(server: &TestServer, folder: &Path, args: &[&str], command: &str) -> Command {
    let mut run = Command::new(SINGLETRACK);
    run.env_clear().env("PATH", "/usr/bin:/bin").env("SINGLETRACK_URL", &server.base).current_dir(folder);
    run.args(["run", "--project", "web"]).args(args).args(["--", "sh", "-c", command]);
    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    run
}

#[tokio::test]
async fn a_run_that_is_superseded_while_it_runs_ends_as_its_job_wants() {
    for (flag, newer, code, says) in [
        ("--superseded-ok", "true", 0, "no failure with --superseded-ok"),
        ("--follow-successor", "true", 0, "following that one"),
        ("--follow-successor", "exit 7", 1, "PHASE_FAILED"),
        // What it does without such a flag.
        ("--no-logs", "true", 122, "cancelled"),
    ] {
        let server = TestServer::start("");
        let folder = tempfile::tempdir().unwrap();
        let command = "echo '::singletrack output url=https://web.example::'; touch begun; exec sleep 600";
        let first = real_run(&server, folder.path(), &[flag, "--dotenv", "run.env"], command).spawn().unwrap();
        while !folder.path().join("begun").exists() {
            tokio::task::yield_now().await;
        }
        let second = real_run(&server, folder.path(), &["--cancel-in-progress-deployment"], newer).spawn().unwrap();
        Ended::of(first).expect(code, says);
        Ended::of(second);
        let text = fs::read_to_string(folder.path().join("run.env")).unwrap();
        let names: Vec<_> = text.lines().map(|line| line.split_once('=').unwrap().0).collect();
        let expected: &[&str] = match (flag, code) {
            // The outputs are those of the one that counts, and the newer one has none; nor has what is not copied.
            ("--follow-successor", 0) | ("--no-logs", _) => &["ID", "STATUS", "NUMBER", "SUPERSEDED_BY", "EXIT_CODE"],
            _ => &["ID", "STATUS", "NUMBER", "SUPERSEDED_BY", "EXIT_CODE", "OUTPUT_URL"],
        };
        let expected: Vec<_> = expected.iter().map(|name| format!("DEPLOYMENT_{name}")).collect();
        let names: Vec<_> = names.into_iter().filter(|name| *name != "DEPLOYMENT_REASON").collect();
        assert_eq!(names, expected, "{flag}");
        assert_eq!(text.contains("DEPLOYMENT_REASON="), code != 0, "{flag}: {text}");
    }
}

#[tokio::test]
async fn the_result_of_a_run_is_a_file_because_standard_output_is_the_commands() {
    let server = TestServer::start("");
    let folder = tempfile::tempdir().unwrap();
    let result = |args: &[&str], command: &str, code: i32| {
        let args = [&["--result-file", "result.json"], args].concat();
        let ended = Ended::of(real_run(&server, folder.path(), &args, command).spawn().unwrap());
        ended.expect(code, "");
        assert_eq!(ended.stdout, "its own\n");
        let result: Value = serde_json::from_slice(&fs::read(folder.path().join("result.json")).unwrap()).unwrap();
        assert_eq!(result["exitCode"], code, "{result}");
        result
    };
    let told = result(&[], "echo its own", 0);
    assert_eq!((&told["status"], &told["reason"]), (&json!("SUCCEEDED"), &Value::Null), "{told}");
    let told = result(&[], "echo its own; exit 3", 3);
    assert_eq!((&told["status"], &told["reason"]), (&json!("FAILED"), &json!("PHASE_FAILED")), "{told}");
    assert_eq!((&told["project"], &told["number"]), (&json!("web"), &json!(2)), "{told}");

    // Nothing is run by somebody who waits for a result that does not come.
    let refused = real_run(&server, folder.path(), &["--json"], "touch it-ran").spawn().unwrap();
    let refused = Ended::of(refused);
    refused.expect(2, "--result-file FILE writes the result to a file");
    let told: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!((&told["exitCode"], &told["reason"]), (&json!(2), &json!("USAGE")));
    assert!(!folder.path().join("it-ran").exists());
}

#[test]
fn the_result_of_a_deploy_is_the_same_in_a_file_as_on_standard_output() {
    let job = Job::with(superseded_by(ours_superseded(), Vec::new()));
    let ended = job.deploy(&["--json", "--result-file", "result.json"]);
    ended.expect(122, "superseded");
    assert_eq!(job.read("result.json").replace("##", "\\u0023\\u0023"), ended.stdout);
    let job = Job::with(eventful(json!({ "url": "https://web.example/" })));
    let ended = job.deploy(&["--json", "--result-file", "result.json"]);
    let [printed, written] =
        [ended.stdout, job.read("result.json")].map(|text| serde_json::from_str::<Value>(&text).unwrap());
    assert_eq!((&written["exitCode"], &written["reason"]), (&json!(0), &Value::Null));
    for (name, value) in printed.as_object().unwrap() {
        assert_eq!(written[name], *value, "{name}");
    }
}

#[test]
fn no_order_wins_over_a_variable_that_has_one() {
    let job = Job::with(eventful(json!({})));
    let mut command = job.command(&["deploy", "--project", "web", "--no-order"]);
    command.env("SINGLETRACK_ORDER", "9").stdout(Stdio::piped()).stderr(Stdio::piped());
    Ended::of(command.spawn().unwrap()).expect(0, "succeeded");
    assert_eq!(job.fake.of(SUBMIT)[0].json()["order"], Value::Null);
    job.deploy(&["--no-order", "--order", "9"]).expect(2, "cannot be used with");
    // What a command of a run is told is its own.
    let job = Job::with(Fake::start(|_, _| Reply::Json(409, problem(409, "OUTDATED"))));
    let mut command = job.command(&["run", "--project", "web", "--", "true", "--no-order"]);
    command.env("SINGLETRACK_ORDER", "9").stdout(Stdio::piped()).stderr(Stdio::piped());
    Ended::of(command.spawn().unwrap()).expect(122, "OUTDATED");
    assert_eq!(job.fake.of(SUBMIT).last().unwrap().json()["order"], 9);
}
