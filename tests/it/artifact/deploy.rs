//! `deploy --artifact` and `redeploy`, the real binary against the real server.

use std::{fs, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{CONFIG, noise};
use crate::harness::{SINGLETRACK, TestServer};

const PATIENCE: Duration = Duration::from_secs(120);

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is not in:\n{}", self.stderr);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

async fn run(server: &TestServer, url: &str, args: &[&str]) -> Ended {
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", url).env("SINGLETRACK_PROJECT", "web").env("USER", "tester");
    command.args(args).current_dir(server.dir()).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it hangs").unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    Ended { code: output.status.code(), stdout, stderr }
}

fn site(server: &TestServer, version: &str) {
    fs::create_dir_all(server.path("site/sub")).unwrap();
    fs::write(server.path("site/version"), version).unwrap();
    fs::write(server.path("site/sub/page"), "page").unwrap();
}

#[tokio::test]
async fn a_folder_is_deployed_and_uploaded_once() {
    let server = TestServer::start(CONFIG);
    site(&server, "v1");
    let deploy = ["deploy", "--json", "--artifact", "site", "--input", "colour=red"];
    let first = run(&server, &server.base, &deploy).await.expect(0).says("uploading artifact").says("./sub/page");
    assert_eq!(first.json()["result"]["outputs"]["version"], "v1");
    let second = run(&server, &server.base, &deploy).await.expect(0).says("is on the server already");
    assert!(!second.stderr.contains("uploading artifact"), "{}", second.stderr);
    assert!(fs::read_dir(server.path("singletrack-work/runs")).unwrap().next().is_none(), "a workspace stays");

    let file = ["deploy", "--json", "--artifact", "site/version"];
    assert_eq!(run(&server, &server.base, &file).await.expect(0).json()["result"]["outputs"]["version"], "v1");
    run(&server, &server.base, &["deploy", "--artifact", "nowhere"]).await.expect(2).says("nowhere: No such file");
    let count = server.deployments().await.len();
    run(&server, &server.base, &["deploy", "--artifact", "site", "--dry-run"]).await.expect(0);
    assert_eq!(server.deployments().await.len(), count);
}

#[tokio::test]
async fn what_cannot_be_deployed_is_refused_before_the_slot_and_what_is_left_out_is_named() {
    let server = TestServer::start(CONFIG);
    site(&server, "v1");
    fs::write(server.path("site/.gitignore"), "*\n").unwrap();
    let deploy = ["deploy", "--artifact", "site"];
    let with = |more| [&deploy[..], &[more]].concat();
    let refused = run(&server, &server.base, &with("--respect-gitignore")).await.expect(2);
    refused.says("there is no file to deploy in it (left out: .gitignore, sub, version); pass --allow-empty");
    fs::write(server.path("site/VERSION"), "v2").unwrap();
    run(&server, &server.base, &deploy).await.expect(2).says("VERSION and version differ only in upper and lower case");
    assert!(server.deployments().await.is_empty(), "a deployment was made");

    fs::remove_file(server.path("site/VERSION")).unwrap();
    fs::write(server.path("site/.singletrackignore"), "*.log\n").unwrap();
    fs::write(server.path("site/debug.log"), "x").unwrap();
    let done = run(&server, &server.base, &deploy).await.expect(0);
    done.says("--artifact site: 1 file or folder is left out by .singletrackignore: debug.log").says("./sub/page");
}

#[tokio::test]
async fn the_upload_is_over_before_the_slot_is_taken() {
    let server = TestServer::start(&format!("[artifacts]\nmax_bytes = \"1KiB\"\n{CONFIG}"));
    fs::create_dir(server.path("big")).unwrap();
    fs::write(server.path("big/noise"), noise(64 << 10)).unwrap();
    run(&server, &server.base, &["deploy", "--artifact", "big"]).await.expect(2).says("at most 1024 bytes");
    assert!(server.deployments().await.is_empty());
}

#[tokio::test]
async fn a_former_deployment_is_run_again_with_its_artifact_and_inputs() {
    let server = TestServer::start(CONFIG);
    let deploy = |colour: &'static str, order: &'static str| {
        [
            "deploy",
            "--json",
            "--artifact",
            "site",
            "--input",
            colour,
            "--order",
            order,
            "--ref",
            "main",
            "--commit",
            "c1",
        ]
    };
    site(&server, "v1");
    let first = run(&server, &server.base, &deploy("colour=red", "1")).await.expect(0).json();
    site(&server, "v2");
    let second = run(&server, &server.base, &deploy("colour=blue", "2")).await.expect(0).json();
    assert_eq!(second["result"]["outputs"]["version"], "v2");

    let id = first["id"].as_str().unwrap();
    let again = run(&server, &server.base, &["redeploy", id, "--json"]).await.expect(0).says("input=red").json();
    assert_eq!(again["result"]["outputs"]["version"], "v1");
    assert_eq!(again["retryOf"], first["id"]);
    assert_ne!(again["id"], first["id"]);
    for field in ["pipeline", "ref", "commit", "order"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    let unknown = "0199f000-0000-7000-8000-000000000000";
    run(&server, &server.base, &["redeploy", unknown]).await.expect(2).says("there is no such");
    run(&server, &server.base, &["redeploy", "nonsense"]).await.expect(2);
    assert_eq!(server.submit(json!({ "retryOf": unknown })).await.refusal(), (404, "NOT_FOUND"));
    assert_eq!(server.submit(json!({ "retryOf": "nonsense" })).await.refusal(), (400, "INVALID_BODY"));

    // What is said anew wins, and without a declared rollback the order still counts.
    let wish = json!({ "retryOf": id, "inputs": { "colour": "green" }, "order": 3 });
    let other = server.accepted(wish).await;
    assert_eq!(server.finished(&other).await["order"], 3);
    server.event(&other, |event| event["lines"].to_string().contains("input=green")).await;
    assert_eq!(server.submit(json!({ "retryOf": id })).await.refusal(), (409, "OUTDATED"));
}

/// Passes connections on to a server. The first upload stands still after so many bytes, until it is cut.
struct Wire {
    url: String,
    stalled: mpsc::Receiver<()>,
    cut: watch::Sender<bool>,
}

async fn wire(server: &TestServer, bytes: u64) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let target = server.authority().to_owned();
    let (tell, stalled) = mpsc::channel(1);
    let (cut, is_cut) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (target, tell, is_cut) = (target.clone(), tell.clone(), is_cut.clone());
            tokio::spawn(async move { pass_on(client, &target, bytes, &tell, is_cut).await });
        }
    });
    Wire { url, stalled, cut }
}

async fn pass_on(
    mut client: TcpStream,
    target: &str,
    bytes: u64,
    tell: &mpsc::Sender<()>,
    mut is_cut: watch::Receiver<bool>,
) {
    // No server at this moment: the client sees a cut connection.
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    if *is_cut.borrow() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    }
    let (from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let passed = copy(&mut from_client.take(bytes), &mut to_server).await.unwrap_or_default();
        if passed == bytes {
            let _ = to_server.flush().await;
            let _ = tell.send(()).await;
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = up => {}
        _ = copy(&mut from_server, &mut to_client) => {}
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}

fn partial_bytes(server: &TestServer) -> u64 {
    let Ok(entries) = fs::read_dir(server.path("singletrack-work/artifacts")) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|found| found.len()).sum()
}

#[tokio::test]
async fn an_upload_is_gone_on_with_after_a_restart_of_the_server_in_the_middle() {
    let mut server = TestServer::start(CONFIG);
    site(&server, "v1");
    fs::write(server.path("site/noise"), noise(24 << 20)).unwrap();
    let mut wire = wire(&server, 8 << 20).await;
    let url = wire.url.clone();
    let args = ["deploy", "--json", "--artifact", "site", "--timeout", "2m"];
    let ended = {
        let mut command = Command::new(SINGLETRACK);
        command.env_clear().env("SINGLETRACK_URL", &url).env("SINGLETRACK_PROJECT", "web").env("USER", "tester");
        command.args(args).current_dir(server.dir()).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        timeout(PATIENCE, wire.stalled.recv()).await.expect("nothing is uploaded").unwrap();
        // Passed on is not yet arrived; nothing tells when but the disk.
        let arrived = async {
            while partial_bytes(&server) < 6 << 20 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, arrived).await.expect("nothing arrives");
        server.terminate();
        wire.cut.send_replace(true);
        server.boot();
        let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it hangs").unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Ended { code: output.status.code(), stdout, stderr }
    };
    let ended = ended.expect(0).says("going on at").says("is uploaded");
    assert_eq!(ended.json()["result"]["outputs"]["version"], "v1");
    // What had arrived was not sent again.
    let from = ended.stderr.split("going on at ").nth(1).unwrap();
    assert!(["6.", "7.", "8."].iter().any(|mib| from.starts_with(mib)), "{from}");
}

#[tokio::test]
async fn the_timeout_and_a_signal_end_an_upload() {
    let server = TestServer::start(CONFIG);
    site(&server, "v1");
    fs::write(server.path("site/noise"), noise(16 << 20)).unwrap();
    let wire = wire(&server, 1 << 20).await;
    let args = ["deploy", "--artifact", "site", "--timeout", "2s"];
    run(&server, &wire.url, &args).await.expect(124).says("`--timeout` passed while uploading");
    assert!(server.deployments().await.is_empty());
    let (_, mut other) = (wire, super::deploy::wire(&server, 1 << 20).await);
    let mut command = Command::new(SINGLETRACK);
    command.env_clear().env("SINGLETRACK_URL", &other.url).env("SINGLETRACK_PROJECT", "web");
    command.args(["deploy", "--artifact", "site"]).current_dir(server.dir()).kill_on_drop(true);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    timeout(PATIENCE, other.stalled.recv()).await.expect("nothing is uploaded").unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).await.unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted while uploading"), "{stderr}");
    assert!(server.deployments().await.is_empty());
}
