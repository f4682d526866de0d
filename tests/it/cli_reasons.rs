//! `reason` of `--json`: an exit code means several things, and a program must tell them apart.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use singletrack::cli::{
    exit::{Exit, Failure},
    reason::Reason,
};

use crate::{
    fake::{Fake, Reply},
    harness::{DeafPort, SINGLETRACK, TestServer},
};

const MORE: &str = "
[projects.paused]
paused = true
[[projects.paused.pipelines.deploy.phases]]
name = \"only\"
run = \"true\"
[projects.strict]
run_by = \"agents\"
without_agent = \"refuse\"
[projects.agents]
run_by = \"agents\"
";

fn command(server: &str, args: &[&str]) -> Command {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", server).env("USER", "alice").stdin(Stdio::null());
    command.args(args).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// With which code and why a command ends.
#[track_caller]
fn ends(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    let code = output.status.code().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(told["exitCode"], code, "{told}");
    (code, told["reason"].as_str().unwrap_or_else(|| panic!("no reason: {told}")).to_owned())
}

#[tokio::test]
async fn each_reason_is_that_of_a_real_end() {
    let server = TestServer::gated_with(MORE);
    let mut seen = BTreeSet::new();
    let mut is = |args: &[&str], code: i32, reason: &str| {
        assert_eq!(ends(command(&server.base, args)), (code, reason.to_owned()), "{args:?}");
        seen.insert(reason.to_owned());
    };
    is(&["deploy"], 2, "USAGE");
    is(&["deploy", "--project", "a/b"], 2, "USAGE");
    is(&["deploy", "--project", "web", "--pipeline", "none"], 2, "UNKNOWN_PIPELINE");
    is(&["status", "--project", "none"], 2, "NOT_FOUND");
    is(&["deploy", "--project", "web", "--pipeline", "broken"], 1, "PHASE_FAILED");
    is(&["deploy", "--project", "paused", "--on-conflict", "fail"], 121, "PROJECT_PAUSED");
    is(&["deploy", "--project", "strict"], 121, "NO_AGENT");
    is(&["deploy", "--project", "agents", "--timeout", "1s"], 124, "CLIENT_TIMEOUT_UNCLAIMED");
    is(&["fence", "check", "--project", "web"], 125, "CLIENT_FAULT");
    let ended = server.accepted(json!({ "pipeline": "quick", "order": 20 })).await;
    server.finished(&ended).await;
    is(&["deploy", "--project", "web", "--order", "19"], 122, "OUTDATED");
    is(&["deploy", "--project", "web", "--timeout", "1s"], 124, "CLIENT_TIMEOUT_RUNNING");

    let holder = server.at_the_gate().await;
    is(&["wait", "--project", "web", &holder, "--timeout", "1s"], 124, "CLIENT_TIMEOUT");
    is(&["deploy", "--project", "web", "--on-conflict", "fail"], 121, "DEPLOYMENT_IN_PROGRESS");
    is(&["deploy", "--project", "web", "--on-conflict", "fail", "--dry-run"], 121, "DEPLOYMENT_IN_PROGRESS");
    is(&["deploy", "--project", "web", "--timeout", "1s"], 121, "DEADLINE_PASSED");
    server.accepted(json!({ "order": 30, "onConflict": "queue" })).await;
    is(&["deploy", "--project", "web", "--order", "25", "--leave-when-overtaken"], 122, "OVERTAKEN");
    is(&["cancel", "--project", "web", &ended, "--wait"], 1, "NOT_CANCELLED");
    for more in [&[][..], &["--dry-run"]] {
        let mut inside = command(&server.base, &[&["deploy", "--project", "web"], more].concat());
        inside.env("SINGLETRACK_DEPLOYMENT_ID", &holder);
        assert_eq!(ends(inside), (121, "INSIDE_HOLDER".to_owned()));
    }
    server.cancel(&holder, json!({})).await;
    assert_eq!(ends(command(&server.base, &["wait", "--project", "web", &holder])), (122, "CANCELLED".to_owned()));
    server.open_gate();

    let mut is = |server: &str, args: &[&str], code: i32, reason: &str| {
        assert_eq!(ends(command(server, args)), (code, reason.to_owned()), "{args:?}");
        seen.insert(reason.to_owned());
    };
    let closed = DeafPort::take();
    let status = ["status", "--project", "web"];
    is(&format!("http://127.0.0.1:{}", closed.port), &status, 125, "UNREACHABLE");
    let stranger = Fake::start(|_, _| Reply::Raw(200, "text/html", "<html>hello</html>"));
    is(&stranger.url, &status, 125, "NOT_SINGLETRACK");
    let proxy = Fake::start(|_, _| Reply::Raw(413, "text/html", "too large"));
    is(&proxy.url, &["deploy", "--project", "web"], 125, "PROXY_LIMIT");
    // Connections are taken by the kernel and never answered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("http://{}", listener.local_addr().unwrap());
    let child = command(&mute, &["deploy", "--project", "web"]).spawn().unwrap();
    // It listens for signals before it asks.
    let _asked = listener.accept().unwrap();
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &told["reason"]), (Some(130), &json!("INTERRUPTED")), "{told}");
    seen.extend(["INSIDE_HOLDER", "CANCELLED", "INTERRUPTED"].map(str::to_owned));

    // `run` alone ends so, whose standard output is its command's.
    let lost = Failure::new(Exit::LeaseLost, "lost");
    assert_eq!(lost.reason(), Some("LEASE_LOST"));
    seen.insert("LEASE_LOST".to_owned());
    // A server without tokens revokes none; `tokens::ends` sees both ends that come of it.
    seen.insert("TOKEN_REVOKED".to_owned());
    let untold: Vec<_> = Reason::ALL.into_iter().map(Reason::as_str).filter(|reason| !seen.contains(*reason)).collect();
    assert_eq!(untold, Vec::<&str>::new());
}

#[test]
fn the_documentation_lists_every_reason_of_the_client() {
    let page = std::fs::read_to_string(format!("{}/docs/exit-codes.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    for reason in Reason::ALL {
        assert!(page.contains(&format!("`{}`", reason.as_str())), "{}", reason.as_str());
    }
    let readme = std::fs::read_to_string(format!("{}/README.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    for exit in [0, 1, 2, 121, 122, 123, 124, 125, 126, 127, 130] {
        assert!(readme.contains(&format!("| {exit} |")), "{exit}");
    }
}
