//! What the log's lines look like, and how an error's request is found in them.

use std::{
    fs,
    process::{Command, Stdio},
};

use reqwest::Method;
use serde_json::{Value, json};
use singletrack::log::{self, LogFormat};

use crate::harness::{TestServer, a_token, gated_config, send};

/// The keys that a JSON line may have; `docs/operations.md` lists them.
const KEYS: [&str; 6] = ["timestamp", "level", "message", "requestId", "fields", "target"];

/// What a client may send to make the log say something else.
const HOSTILE: &str = "x\" request=forged\n2026-01-01T00:00:00.000000Z ERROR forged\r\n{\"level\":\"error\",\"message\":\"forged\"}\u{1b}[2J\u{2028}\u{202e}";

/// Starts the server anew with an empty log, in this format.
fn log_anew(server: &mut TestServer, format: &str, filter: &str) {
    assert!(server.terminate().success());
    fs::write(server.path("server.log"), "").unwrap();
    server.boot_with(|command| _ = command.args(["--log-format", format]).env("SINGLETRACK_LOG", filter));
}

/// The lines of a JSON log, each checked.
fn json_lines(log: &str) -> Vec<Value> {
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?} in\n{log}")))
        .collect();
    for line in &lines {
        let members = line.as_object().unwrap();
        let strange: Vec<_> = members.keys().filter(|key| !KEYS.contains(&key.as_str())).collect();
        assert!(strange.is_empty(), "{strange:?} in {line}");
        for key in ["timestamp", "level", "message", "target"] {
            assert!(line[key].is_string(), "no {key} in {line}");
        }
        line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }
    lines
}

/// Sends what a hostile client sends where the log shows it.
async fn send_hostile_texts(server: &TestServer) {
    let id = server.at_the_gate().await;
    let release = json!({ "reason": HOSTILE, "evenIfAlive": true, "deploymentId": id });
    let released = server.post("/v1/projects/web/release", release).await;
    assert!([200, 400].contains(&released.status), "{}", released.text);
    let release = json!({ "reason": "x request=forged caller=root \u{202e}", "evenIfAlive": true });
    let released = server.post("/v1/projects/web/release", release).await;
    assert!([200, 400].contains(&released.status), "{}", released.text);
    for path in ["/v1/projects/web%0A2026-01-01T00:00:00Z%20ERROR%20forged", "/x%20request=forged%22,%22level%22:%22x"]
    {
        let request = server.request(Method::GET, path).header("X-Request-Id", "forged");
        let answer = request.header("User-Agent", "a\tb\"").send().await.unwrap();
        assert_ne!(answer.headers()["x-request-id"], "forged", "only a trusted proxy names a request");
    }
}

#[tokio::test]
async fn a_json_log_has_one_object_a_line_whatever_clients_send() {
    let mut server = TestServer::gated();
    log_anew(&mut server, "json", "debug");
    send_hostile_texts(&server).await;
    let refused = server.get("/v1/projects/web?nope=1").await;
    server.open_gate();
    assert!(server.terminate().success());
    let lines = json_lines(&server.log());
    assert!(lines.iter().any(|line| line["message"] == "ready" && line["level"] == "info"));
    let own = |line: &&Value| line["requestId"] == refused.body["requestId"];
    let told = lines.iter().find(own).expect("the line of the refused request");
    assert_eq!((&told["fields"]["status"], &told["fields"]["code"]), (&json!(400), &json!("UNKNOWN_PARAMETER")));
    assert!(lines.iter().all(|line| line["requestId"] != "forged" && line["message"] != "forged"));
}

#[tokio::test]
async fn a_text_log_has_one_line_a_time_whatever_clients_send() {
    let mut server = TestServer::gated();
    log_anew(&mut server, "text", "debug");
    send_hostile_texts(&server).await;
    let refused = server.get("/v1/projects/web?nope=1").await;
    server.open_gate();
    assert!(server.terminate().success());
    let log = server.log();
    for line in log.lines().filter(|line| !line.starts_with("    ")) {
        let time = line.split(' ').next().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line:?} in\n{log}");
        assert!(!line.contains("ERROR forged") || line.contains("\\n2026"), "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        // The server puts the request last, behind every value.
        assert!(!line.ends_with("request=forged"), "{line}");
    }
    let id = refused.body["requestId"].as_str().unwrap();
    assert!(log.lines().any(|line| line.ends_with(&format!("request={id}")) && line.contains("status=400")), "{log}");
}

#[tokio::test]
async fn an_error_carries_the_id_of_its_request_in_its_header_and_its_body_and_so_does_the_log() {
    let (_, tokens) = a_token();
    let mut server = TestServer::start(&gated_config(&tokens));
    log_anew(&mut server, "json", "info");
    let refused = server.get("/v1/projects").await;
    assert_eq!(refused.status, 401);
    let id = refused.body["requestId"].as_str().unwrap().to_owned();
    assert_eq!(refused.header("x-request-id"), id);
    let well = server.get("/healthz").await;
    let other = well.header("x-request-id");
    assert!(!other.is_empty() && other != id, "each answer has one of its own");
    assert!(server.terminate().success());
    let lines = json_lines(&server.log());
    let told: Vec<_> = lines.iter().filter(|line| line["requestId"] == *id).collect();
    assert_eq!(told.len(), 1, "{}", server.log());
    assert_eq!((&told[0]["fields"]["status"], &told[0]["fields"]["code"]), (&json!(401), &json!("UNAUTHORIZED")));
    assert!(lines.iter().all(|line| line["requestId"] != *other), "what went well is logged at debug only");
}

#[tokio::test]
async fn a_trusted_proxy_names_the_request_and_nobody_else_does() {
    for (trusted, is_taken) in [("10.0.0.0/8", false), ("127.0.0.0/8", true)] {
        let server = TestServer::start(&gated_config(&format!("trusted_proxies = [\"{trusted}\"]\n")));
        let of = async |ids: &[&str]| {
            let request = server.request(Method::GET, "/v1/projects");
            let request = ids.iter().fold(request, |request, id| request.header("X-Request-Id", *id));
            let answer = send(request).await;
            answer.header("x-request-id").to_owned()
        };
        for id in ["7b2c0a1e5d0f4c3a9b8e7d6c5b4a3f21", "01998c6e-0000-7000-8000-000000000001", "a"] {
            assert_eq!(of(&[id]).await == id, is_taken, "{id} of {trusted}");
        }
        for ids in [&["two words"][..], &["a", "b"], &[""], &[&"x".repeat(65)], &["a\"b"], &[]] {
            let made = of(ids).await;
            assert!(made.len() == 16 && made.bytes().all(|byte| byte.is_ascii_hexdigit()), "{ids:?}: {made}");
        }
    }
}

#[tokio::test]
async fn thousands_of_refused_requests_leave_few_lines_that_say_how_many_there_were() {
    const COUNT: u64 = 2_000;
    let (_, tokens) = a_token();
    let mut server = TestServer::start(&gated_config(&tokens));
    log_anew(&mut server, "json", "info");
    for _ in 0..COUNT {
        let answer = server.request(Method::GET, "/v1/projects").send().await.unwrap();
        assert_eq!(answer.status(), 401);
    }
    assert!(server.terminate().success());
    let lines = json_lines(&server.log());
    let told: Vec<_> = lines.iter().filter(|line| line["fields"]["status"] == 401).collect();
    let counted: u64 = told.iter().map(|line| 1 + line["fields"]["left_out_count"].as_u64().unwrap()).sum();
    assert!(counted <= COUNT && told.len() < 1_000, "{} lines, which count {counted}", told.len());
}

#[test]
fn why_a_server_or_an_agent_does_not_start_is_a_json_line_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.toml"), "listen = 3\n").unwrap();
    for args in [
        ["serve", "--config", "bad.toml"],
        ["serve", "--config", "none.toml"],
        ["agent", "--config", "bad.toml"],
        ["agent", "--config", "none.toml"],
    ] {
        let mut command = Command::new(crate::harness::SINGLETRACK);
        command.args(args).env("SINGLETRACK_LOG_FORMAT", "json").env_remove("SINGLETRACK_LOG");
        let ended = command.current_dir(dir.path()).stdin(Stdio::null()).output().unwrap();
        assert!(!ended.status.success(), "{args:?}");
        let lines = json_lines(&String::from_utf8(ended.stderr).unwrap());
        let error = lines.iter().find(|line| line["level"] == "error").unwrap_or_else(|| panic!("{args:?}: {lines:?}"));
        assert!(error["message"].as_str().unwrap().contains(".toml"), "{error}");
    }
}

/// Not a test by itself: the next one runs it in a process of its own.
#[test]
#[ignore = "it panics on purpose"]
fn a_program_that_panics() {
    log::start("info", LogFormat::Json);
    let thread = std::thread::Builder::new().name("worker".to_owned()).spawn(|| panic!("two\nlines"));
    assert!(thread.unwrap().join().is_err());
    log::flush();
}

#[test]
fn a_panic_is_a_json_line_too() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["log_lines::a_program_that_panics", "--exact", "--ignored", "--nocapture"]);
    let ended = command.env("RUST_BACKTRACE", "1").env_remove("SINGLETRACK_LOG").output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let lines = json_lines(&String::from_utf8(ended.stderr).unwrap());
    let panic = lines.iter().find(|line| line["fields"]["thread"] == "worker").expect("the panic");
    assert!(panic["message"].as_str().unwrap().ends_with("two\nlines"), "{panic}");
    assert!(lines.len() > 1, "the backtrace is a line, too");
}
