//! What phases get from the server that runs them, and what they do not.

use std::{
    collections::BTreeMap,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::harness::TestServer;

/// One phase that shows its whole environment, its limit of open files, its open files and its ignored signals.
const SHOWS: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "show"
run = """
env
echo "limit=$(ulimit -Sn)"
echo "files=$(ls /proc/$$/fd | tr '\\n' ' ')"
echo "ignored=$(sed -n 's/^SigIgn:.//p' /proc/$$/status)"
echo "spared=$(cat /proc/$$/oom_score_adj)"
echo "nice=$(nice)"
"""
"#;

/// What a phase of this server shows, by name.
async fn shown(server: &TestServer) -> BTreeMap<String, String> {
    let id = server.accepted(json!({ "onConflict": "queue" })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
    let events = server.deployment(&id, "/events").await.body;
    let lines = events["events"].as_array().unwrap().iter().filter_map(|event| event["lines"].as_array());
    let lines = lines.flatten().filter_map(Value::as_str).filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn secrets_of_phases_are_masked_in_whatever_they_tell() {
    let mut server = TestServer::start(
        r#"
[projects.web]
pass_env = ["API_TOKEN"]
mask_env = ["API_*", "INPUT_KEY"]
[[projects.web.pipelines.deploy.phases]]
name = "show"
run = """
echo "token $API_TOKEN, key $INPUT_KEY"; printf %s "x$API_TOKEN" | base64; printf %s "$API_TOKEN" | od -An -tx1 | tr -d ' \\n'
echo "::singletrack message=with $API_TOKEN::"; echo "::singletrack output url=https://$INPUT_KEY@host::"
echo "::add-mask::made here"; echo made here
"""
[[projects.web.pipelines.deploy.phases]]
name = "later"
run = "echo later: made here >&2; exit 1"
"#,
    );
    server.terminate();
    server.boot_with(|command| _ = command.env("API_TOKEN", "tok3n-of/old"));
    let id = server.accepted(json!({ "onConflict": "queue", "inputs": { "key": "correct horse" } })).await;
    let deployment = server.finished(&id).await;
    let mut events = server.deployment(&id, "/events").await.body;
    // The record of the deployment holds its inputs, which is no output; `secret_inputs` are another matter.
    let last = events["events"].as_array_mut().unwrap().last_mut().unwrap();
    assert_eq!(last["inputs"].take(), json!({ "key": "correct horse" }));
    let lines = events["events"].as_array().unwrap().iter().filter_map(|event| event["lines"].as_array());
    let lines: Vec<&str> = lines.flatten().filter_map(Value::as_str).collect();
    assert_eq!(lines[0], "token ***, key ***");
    assert_eq!(lines[lines.len() - 2..], ["***", "later: ***"]);
    let told = format!("{events}{}", deployment["result"]);
    for shown in ["tok3n", "correct horse", "746f6b336e", "made here", "b2szbi1vZi9vb"] {
        assert!(!told.contains(shown), "{shown} is in {told}");
    }
}

#[tokio::test]
async fn phases_get_what_is_listed_and_nothing_that_configures_the_server() {
    let mut server = TestServer::start(&format!("[projects.web]\npass_env = [\"AWS_*\"]\n{SHOWS}"));
    server.terminate();
    let given = [
        ("PGPASSWORD", "x"),
        ("SINGLETRACK_LOG", "info"),
        ("NOTIFY_SOCKET", "/nowhere"),
        ("JOURNAL_STREAM", "9:1"),
        ("API_TOKEN", "y"),
        ("AWS_REGION", "eu"),
        ("https_proxy", "http://proxy.example"),
        ("SSL_CERT_DIR", "/etc/ssl/certs"),
    ];
    server.boot_with(|command| _ = command.envs(given));
    let shown = shown(&server).await;
    for absent in ["PGPASSWORD", "SINGLETRACK_LOG", "NOTIFY_SOCKET", "JOURNAL_STREAM", "API_TOKEN"] {
        assert_eq!(shown.get(absent), None, "{absent}");
    }
    for (name, value) in
        [("AWS_REGION", "eu"), ("https_proxy", "http://proxy.example"), ("SSL_CERT_DIR", "/etc/ssl/certs")]
    {
        assert_eq!(shown.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(shown.contains_key("PATH"), "{shown:?}");
}

#[tokio::test]
async fn phases_get_neither_the_servers_files_nor_its_limits_nor_what_it_ignores() {
    let mut server = TestServer::start(SHOWS);
    server.terminate();
    let (leaked, _other) = std::io::pipe().unwrap();
    let number = leaked.as_raw_fd();
    server.boot_with(|command| {
        #[expect(unsafe_code, reason = "a child is given what it would get from a script or a service manager")]
        // SAFETY: the closure makes system calls only.
        unsafe {
            command.pre_exec(move || {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                libc::signal(libc::SIGQUIT, libc::SIG_IGN);
                libc::setpriority(libc::PRIO_PROCESS, 0, -3);
                let limit = libc::rlimit { rlim_cur: 777, rlim_max: 4000 };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
                // Not closed when the server begins.
                if libc::dup2(number, 77) == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        command.stdin(Stdio::null());
    });
    let shown = shown(&server).await;
    assert_eq!(shown["limit"], "777");
    assert!(!shown["files"].split_whitespace().any(|number| number == "77"), "{shown:?}");
    // The two that the C library keeps for itself aside.
    let ignored = u64::from_str_radix(&shown["ignored"], 16).unwrap() & 0x7fff_ffff;
    assert_eq!(ignored, 0, "{shown:?}");
    assert_eq!(shown["nice"], "0");
    assert!(!shown["spared"].starts_with('-'));
}

#[tokio::test]
async fn phases_are_told_the_port_that_the_server_really_has() {
    // It asked for port 0.
    let server = TestServer::start(SHOWS);
    assert_eq!(shown(&server).await["SINGLETRACK_URL"], server.base);
}

#[test]
fn what_no_phase_gets_cannot_be_listed() {
    let server = TestServer::start("");
    for (listed, wanted) in [
        ("PGPASSWORD", "`pass_env` must not pass PGPASSWORD on to phases: the store is read from it"),
        ("SINGLETRACK_TOKEN", "`pass_env` must not pass SINGLETRACK_TOKEN on to phases"),
        ("S*", "`pass_env` would pass SINGLETRACK_* on to phases because of \"S*\""),
        ("*", "`pass_env` takes names of variables and prefixes"),
    ] {
        std::fs::write(server.path("wrong.toml"), format!("\npass_env = [\"{listed}\"]\n")).unwrap();
        let output = server.tool(&["check-config", "wrong.toml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{listed}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("wrong.toml:2:13: ") && told.contains(wanted), "{listed}: {told}");
    }
}
