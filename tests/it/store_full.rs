//! What a SQLite store does when there is no room, or when somebody else reads its file: at work, at its end, and at its start.

use std::{
    fs::{self, File},
    process::Command,
};

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use singletrack::{
    model::{Report, Stream, admission::OnConflict},
    store::ListQuery,
};

use crate::{
    harness::{
        Answer, Place, TestServer,
        mounts::{fill, in_a_mount_namespace, is_inside, mount, unmount},
        send,
    },
    store_trial::{Trial, id, name},
};

/// A deployment that the test itself runs.
struct Claimed {
    path: String,
    secret: String,
}

async fn claimed(server: &TestServer, project: &str) -> Claimed {
    let wish = json!({ "executor": "client", "claim": true });
    let answer = server.post(&format!("/v1/projects/{project}/deployments"), wish).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let secret = answer.body["lease"]["secret"].as_str().unwrap().to_owned();
    Claimed { path: format!("/v1/projects/{project}/deployments/{}", answer.id()), secret }
}

impl Claimed {
    async fn call(&self, server: &TestServer, below: &str, body: Value) -> Answer {
        let request = server.request(Method::POST, &format!("{}/{below}", self.path));
        send(request.header("Singletrack-Lease", &self.secret).json(&body)).await
    }
}

#[test]
fn a_server_starts_on_a_full_disk_and_goes_on_with_the_room_that_was_kept_back() {
    in_a_mount_namespace("store_full::on_a_full_disk");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by the test above, on a small disk"]
async fn on_a_full_disk() {
    if !is_inside() {
        return;
    }
    for is_killed in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path();
        mount(&["-t", "tmpfs", "-o", "size=48m", "tmpfs", disk.to_str().unwrap()]);
        let mut server = TestServer::start_on(&format!("sqlite:{}", disk.join("small.db").display()), "");
        let mut work = Vec::new();
        for number in 0..300 {
            work.push(claimed(&server, &format!("project-{number}")).await);
        }
        fill(disk);
        assert_eq!(work[0].call(&server, "heartbeat", json!({})).await.status, 200);
        if is_killed {
            server.kill();
        } else {
            let ended = server.terminate();
            assert!(ended.success(), "a log that cannot be moved is no unclean end: {ended}\n{}", server.log());
        }
        // What the end has set free is taken, too.
        fill(disk);
        server.boot();
        assert!(!disk.join("small.db.ballast").exists(), "the room is given up");
        for work in &work {
            assert_eq!(work.call(&server, "heartbeat", json!({})).await.status, 200);
            let done = work.call(&server, "finish", json!({ "status": "SUCCEEDED" })).await;
            assert_eq!(done.status, 200, "{}", done.text);
        }
        let late = claimed(&server, "late").await;
        let lines = json!([{ "type": "log", "stream": "stdout", "lines": ["x"] }]);
        let refused = late.call(&server, "reports", json!({ "first": 1, "reports": lines })).await;
        assert_eq!(refused.status, 503, "output gives way: {}", refused.text);
        assert_eq!(server.get("/readyz").await.status, 200);

        // And in order again when there is room again.
        fs::remove_file(disk.join("filler")).unwrap();
        assert_eq!(late.call(&server, "finish", json!({ "status": "SUCCEEDED" })).await.status, 200);
        assert!(disk.join("small.db.ballast").exists(), "the room is taken again");
        server.kill();
        drop(server);
        unmount(disk);
    }
}

#[test]
fn a_full_disk_that_is_told_by_a_signal_loses_nothing_and_is_said() {
    in_a_mount_namespace("store_full::on_a_full_btrfs");
}

/// Btrfs writes nothing in its place: even what is mapped into memory already may find no room, which is a SIGBUS.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by the test above, on a small disk"]
async fn on_a_full_btrfs() {
    if !is_inside() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (image, disk) = (directory.path().join("image"), directory.path().join("disk"));
    File::create(&image).unwrap().set_len(160 << 20).unwrap();
    fs::create_dir(&disk).unwrap();
    let made = Command::new("mkfs.btrfs").args(["--quiet", "--mixed"]).arg(&image).output();
    let made = made.expect("mkfs.btrfs is missing: run scripts/prerequisites");
    assert!(made.status.success(), "{made:?}");
    let mounted = Command::new("mount").args(["-o", "loop"]).args([&image, &disk]).output().unwrap();
    if !mounted.status.success() {
        eprintln!("NOT TESTED: this machine mounts no image of a btrfs: {mounted:?}");
        return;
    }
    let mut server = TestServer::start_on(&format!("sqlite:{}", disk.join("small.db").display()), "");
    let mut work = Vec::new();
    for number in 0..60 {
        work.push(claimed(&server, &format!("project-{number}")).await);
    }
    fill(&disk);
    // It goes on for as long as the room that was kept back lasts; how long that is, only the file system knows.
    let request = |work: &Claimed| {
        let call = server.request(Method::POST, &format!("{}/heartbeat", work.path));
        call.header("Singletrack-Lease", &work.secret).json(&json!({})).send()
    };
    let mut has_ended = false;
    for work in work.iter().cycle().take(180) {
        let Ok(answer) = request(work).await else {
            has_ended = true;
            break;
        };
        assert!([200, 503].contains(&answer.status().as_u16()), "{answer:?}");
    }
    if has_ended {
        server.exited();
        let log = server.log();
        assert!(log.contains("SIGBUS: the disk is full"), "{log}");
    } else {
        server.kill();
    }
    fs::remove_file(disk.join("filler")).unwrap();
    server.boot();
    for work in &work {
        let done = work.call(&server, "finish", json!({ "status": "SUCCEEDED" })).await;
        assert_eq!(done.status, 200, "{}", done.text);
    }
    server.kill();
    drop(server);
    unmount(&disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_the_file_keeps_no_server_from_starting_or_ending() {
    let mut server = TestServer::gated();
    let done = server.accepted(json!({ "pipeline": "quick" })).await;
    let before = server.finished(&done).await;
    let reader = Connection::open(server.path("test.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let read = || reader.query_row("SELECT count(*) FROM deployments", [], |row| row.get::<_, u64>(0)).unwrap();
    assert_eq!(read(), 1);

    server.kill();
    server.boot();
    assert_eq!(server.deployment(&done, "").await.body, before);
    let next = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&next).await;
    assert!(server.terminate().success(), "{}", server.log());
    server.boot();
    assert_eq!(server.deployment(&next, "").await.status, 200);
    assert_eq!(read(), 1, "the reader sees what it saw");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_file_sizes_is_a_full_disk_and_no_end_of_the_server() {
    let server = TestServer::start_at(Place::by(&["prlimit", "--fsize=9437184"]), "sqlite:test.db", "");
    let mut sent = 0;
    let refused = loop {
        let path = format!("/v1/projects/project-{sent}/deployments");
        let answer = server.post(&path, json!({ "executor": "client", "claim": true })).await;
        if answer.status != 202 {
            break answer;
        }
        let secret = answer.body["lease"]["secret"].as_str().unwrap().to_owned();
        let work = Claimed { path: format!("{path}/{}", answer.id()), secret };
        let lines = json!([{ "type": "log", "stream": "stdout", "lines": ["x".repeat(60 << 10)] }]);
        let answer = work.call(&server, "reports", json!({ "first": 1, "reports": lines })).await;
        if answer.status != 200 {
            break answer;
        }
        sent += 1;
        assert!(sent < 1000, "the limit is never met");
    };
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.body["message"].as_str().unwrap().contains("full"), "{}", refused.text);
    assert_eq!(server.get("/v1/projects/project-0").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_do_not_make_the_log_grow_beyond_what_the_ballast_covers() {
    const REPORTS: u64 = 700;
    let trial = Trial::sqlite();
    let log = trial.path().with_extension("db-wal");
    let length = || fs::metadata(&log).unwrap().len();
    trial.submit("web", 1, OnConflict::Refuse).await;
    let secret = trial.claim("web", 1).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (store, stop) = (trial.store.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    store.list(name("web"), ListQuery { limit: 10, ..ListQuery::default() }).await.unwrap();
                    store.events(id(1), 0, 1000).await.unwrap();
                }
            })
        })
        .collect();
    let mut longest = 0;
    for _ in 0..REPORTS {
        let output = Report::Log { stream: Stream::Stdout, phase: None, lines: vec!["x".repeat(32 << 10)] };
        trial.queue.report(name("web"), id(1), secret, None, vec![output]).await.unwrap();
        longest = longest.max(length());
    }
    stop.cancel();
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(longest <= 12 << 20, "{longest} bytes of log for {} bytes of output", REPORTS * (32 << 10));
}
