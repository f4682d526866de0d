//! PgBouncer between servers and database, in both modes that are of use.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::json;
use sha2::Digest as _;
use tempfile::TempDir;

use super::deploys;
use crate::harness::{DeafPort, TestServer, gated_config, postgres};

/// A pooler before the tests' cluster.
struct Bouncer {
    child: Child,
    url: String,
    _place: TempDir,
}

impl Bouncer {
    async fn start(mode: &str) -> Self {
        let cluster = postgres::shared();
        let database = cluster.database().await;
        // Its socket and its configuration are where it may read and write.
        let place = tempfile::tempdir().unwrap();
        let directory = place.path();
        postgres::give(directory);
        let port = DeafPort::take().port;
        let configuration = format!(
            "[databases]\n* = host={} user=singletrack\n[pgbouncer]\npool_mode = {mode}\nauth_type = any\n\
             listen_addr =\nlisten_port = {port}\nunix_socket_dir = {}\nignore_startup_parameters = extra_float_digits\n\
             max_client_conn = 200\ndefault_pool_size = 40\n",
            cluster.place().display(),
            directory.display()
        );
        let file = directory.join("pgbouncer.ini");
        fs::write(&file, configuration).unwrap();
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| fs::exists(path).unwrap());
        let mut command = Command::new(program.expect("pgbouncer is missing: run scripts/prerequisites"));
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some((uid, gid)) = postgres::owner() {
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let told: Vec<String> = log.by_ref().take_while(|line| !line.contains("process up")).collect();
        thread::spawn(move || log.for_each(drop));
        assert!(child.try_wait().unwrap().is_none(), "it did not start: {told:#?}");
        let url = format!("postgres://singletrack@/{database}?host={}&port={port}", directory.display());
        Bouncer { child, url, _place: place }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both sides of a wait: parked at one server while the other one commits what it waits for.
async fn woken(one: &TestServer, other: &TestServer) {
    let held = one.submit(json!({ "executor": "client", "claim": true })).await;
    let (id, secret) = (held.id(), held.body["lease"]["secret"].as_str().unwrap().to_owned());
    let finishes = async {
        other.parked(1).await;
        let path = format!("/v1/projects/web/deployments/{id}/finish");
        let finish = one.request(reqwest::Method::POST, &path).header("Singletrack-Lease", secret);
        let finished = crate::harness::send(finish.json(&json!({ "status": "SUCCEEDED" }))).await;
        assert_eq!(finished.status, 200, "{}", finished.text);
    };
    let (ended, ()) = tokio::join!(other.deployment(&id, "/completion?maxWaitSeconds=30"), finishes);
    assert_eq!(ended.status, 200, "{}", ended.text);
}

#[tokio::test]
async fn behind_a_pooler_in_session_mode_nothing_is_missing() {
    let bouncer = Bouncer::start("session").await;
    let config = gated_config("[limits]\nfallback_poll = \"40s\"");
    let (one, other) = (TestServer::start_on(&bouncer.url, &config), TestServer::start_on(&bouncer.url, &config));
    deploys(&one, &other).await;
    woken(&one, &other).await;
    assert!(!one.log().contains("shares sessions"), "{}", one.log());
}

#[tokio::test]
async fn behind_a_pooler_in_transaction_mode_it_is_said_and_the_slow_poll_tells() {
    let bouncer = Bouncer::start("transaction").await;
    let config = gated_config("[limits]\nfallback_poll = \"500ms\"\n[projects.api]\nrun_by = \"agents\"");
    let (one, other) = (TestServer::start_on(&bouncer.url, &config), TestServer::start_on(&bouncer.url, &config));
    // Whoever has a session to itself while nobody works notices with the first statement that comes to another.
    for _ in 0..3 {
        let ((), ()) = tokio::join!(deploys(&one, &other), deploys_elsewhere(&other, &one));
    }
    woken(&one, &other).await;
    let last = one.get("/v1/events").await.body["last"].as_str().unwrap().to_owned();
    deploys_elsewhere(&other, &one).await;
    // Parked since before the slow poll looks at the projects for the first time.
    let told = one.get(&format!("/v1/events?after={last}&maxWaitSeconds=60")).await.body;
    assert!(told["projects"].as_array().is_some_and(|told| !told.is_empty()), "{told}");
    // What is written needs a transaction of its own.
    let artifact = vec![7; 3 << 20];
    let path = format!("/v1/artifacts/{}", data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&artifact)));
    let put = one.request(reqwest::Method::PUT, &path).body(artifact.clone());
    let answer = crate::harness::send(put).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let got = other.request(reqwest::Method::GET, &path).send().await.unwrap();
    assert!(got.bytes().await.unwrap() == artifact);
    let offer = json!({ "worker": "a", "claimId": "1", "projects": { "api": ["deploy"] } });
    assert_eq!(one.post("/v1/claims?maxWaitSeconds=0", offer).await.refusal(), (408, "NOTHING_TO_DO"));
    assert_eq!(other.get("/v1/projects/api").await.body["agents"][0]["worker"], "a");
    for server in [&one, &other] {
        let log = server.log();
        assert!(log.contains("a connection pooler shares sessions between transactions"), "{log}");
    }
}

/// The same in another project.
async fn deploys_elsewhere(one: &TestServer, other: &TestServer) {
    let made = one.post("/v1/projects/other/deployments", json!({ "executor": "client", "claim": true })).await;
    assert!(matches!(made.status, 202 | 409), "{}", made.text);
    assert_eq!(other.get("/v1/projects/other").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_a_copy_cannot_see_behind_a_pooler_gives_nothing_beside_the_copied_store() {
    let bouncer = Bouncer::start("transaction").await;
    let unseen = TestServer::start_on(&bouncer.url, &gated_config(""));
    let mut old = TestServer::gated();
    let kept = old.accepted(json!({ "pipeline": "quick" })).await;
    old.finished(&kept).await;
    old.terminate();
    let database = bouncer.url.split(['@', '?']).nth(1).unwrap().trim_start_matches('/');
    let url = postgres::shared().url(database);
    let done = old.tool(&["store", "copy", "--from", "sqlite:test.db", "--to", &url]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    // It would derive other secrets and revisions than the store that was copied.
    let refused = unseen.submit(json!({ "pipeline": "quick" })).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    let new = TestServer::start_on(&url, &gated_config(""));
    assert_eq!(new.deployment(&kept, "").await.status, 200);
    let more = new.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(new.finished(&more).await["status"], "SUCCEEDED");
}
