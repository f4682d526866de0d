//! `store backup` and `store restore`: a copy of a store in use, and a store made of a copy.

use std::{
    fs,
    process::{Output, Stdio},
};

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::{TestServer, forbid::forbid, send};

fn store(server: &TestServer, args: &[&str]) -> Output {
    server.tool(&[&["store"], args].concat()).output().unwrap()
}

fn ok(server: &TestServer, args: &[&str]) -> String {
    let done = store(server, args);
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// The exit code and what was said on standard error.
fn refused(server: &TestServer, args: &[&str]) -> (i32, String) {
    let done = store(server, args);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "");
    (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
}

async fn claimed(server: &TestServer) -> (String, u64, String) {
    let answer = server.submit(json!({ "executor": "client", "claim": true })).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let lease = &answer.body["lease"];
    (answer.id(), lease["fencingToken"].as_u64().unwrap(), lease["secret"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_busy_store_restores_to_what_stood_at_one_moment() {
    let mut server = TestServer::gated();
    let before = server.accepted(json!({ "pipeline": "quick", "message": "before" })).await;
    let ended = server.finished(&before).await;
    // Somebody submits all the while, so that the file changes under the copy.
    let busy = async {
        let mut made = Vec::new();
        loop {
            made.push(server.post("/v1/projects/other/deployments", json!({ "executor": "client" })).await.status);
            if server.path("backup.db").exists() {
                return made;
            }
        }
    };
    let backup = tokio::task::block_in_place(|| {
        let mut command = server.tool(&["store", "backup", "--from", "sqlite:test.db", "--to", "backup.db"]);
        command.stdout(Stdio::null()).spawn().unwrap()
    });
    let made = busy.await;
    assert!(!made.is_empty());
    assert!(backup.wait_with_output().unwrap().status.success());

    let (late, token, _secret) = claimed(&server).await;
    server.kill();
    for name in ["test.db", "test.db-wal", "test.db-shm"] {
        fs::rename(server.path(name), server.path(&format!("old-{name}"))).unwrap();
    }
    let told = ok(&server, &["restore", "--from", "backup.db", "--to", "sqlite:test.db"]);
    assert!(told.starts_with("test.db is restored from backup.db"), "{told}");
    server.boot();

    let restored: Value = server.deployment(&before, "").await.body;
    assert_eq!(restored, ended);
    assert_eq!(server.deployment(&late, "").await.status, 404, "it was submitted after the backup");
    let (_, after, _secret) = claimed(&server).await;
    assert!(after > token, "a token that was handed out after the backup, {token}, came again or was passed: {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_never_takes_the_place_of_a_store_nor_a_backup_that_of_a_file() {
    let mut server = TestServer::gated();
    ok(&server, &["backup", "--from", "sqlite:test.db", "--to", "backup.db"]);
    let backup = fs::read(server.path("backup.db")).unwrap();

    let (code, told) = refused(&server, &["restore", "--from", "backup.db", "--to", "sqlite:test.db"]);
    assert!(code == 69 && told.contains("in use by another singletrack server"), "{code}: {told}");
    let (code, told) = refused(&server, &["backup", "--from", "sqlite:test.db", "--to", "backup.db"]);
    assert!(code == 69 && told.contains("backup.db exists; move it away"), "{code}: {told}");
    assert_eq!(fs::read(server.path("backup.db")).unwrap(), backup);

    server.terminate();
    let kept = fs::read(server.path("test.db")).unwrap();
    let (code, told) = refused(&server, &["restore", "--from", "backup.db", "--to", "sqlite:test.db"]);
    assert!(code == 69 && told.contains("test.db exists; move it away"), "{code}: {told}");
    assert_eq!(fs::read(server.path("test.db")).unwrap(), kept);
    // What a crashed server left would become a part of the new store.
    fs::remove_file(server.path("test.db")).unwrap();
    fs::write(server.path("test.db-wal"), "left").unwrap();
    let (code, told) = refused(&server, &["restore", "--from", "backup.db", "--to", "sqlite:test.db"]);
    assert!(code == 69 && told.contains("test.db-wal exists"), "{code}: {told}");
    assert!(!server.path("test.db").exists());
}

#[test]
fn what_is_no_whole_store_of_ours_is_neither_backed_up_nor_restored() {
    let mut server = TestServer::start("");
    server.terminate();
    Connection::open(server.path("foreign.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    fs::write(server.path("noise.db"), "no database at all, however one looks at it".repeat(100)).unwrap();
    let mut damaged = fs::read(server.path("test.db")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 8192].fill(0xa5);
    fs::write(server.path("damaged.db"), damaged).unwrap();
    let newer = server.path("newer.db");
    fs::copy(server.path("test.db"), &newer).unwrap();
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 9999).unwrap();

    for (file, says) in [
        ("missing.db", "there is no file"),
        ("foreign.db", "database of another program"),
        ("noise.db", "is not a SQLite database"),
        ("damaged.db", "damaged"),
        ("newer.db", "written by a newer singletrack"),
    ] {
        let (code, told) = refused(&server, &["restore", "--from", file, "--to", "sqlite:made.db"]);
        assert!(code == 69 && told.contains(says) && told.lines().count() == 1, "restore {file}: {code}: {told}");
        let from = format!("sqlite:{file}");
        let (code, told) = refused(&server, &["backup", "--from", &from, "--to", "made.db"]);
        assert!(code == 69 && told.contains(says) && told.lines().count() == 1, "backup {file}: {code}: {told}");
        for left in ["made.db", "made.db.part", "made.db-wal"] {
            assert!(!server.path(left).exists(), "{left} was left");
        }
    }
    let (code, told) = refused(&server, &["backup", "--from", "memory:", "--to", "made.db"]);
    assert!(code == 2 && told.contains("a memory: store has no file"), "{code}: {told}");
}

/// The fencing token of a deployment that is claimed in `project`, and finished.
async fn turn(server: &TestServer, project: &str) -> u64 {
    let path = format!("/v1/projects/{project}/deployments");
    let answer = server.post(&path, json!({ "executor": "client", "claim": true })).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let lease = &answer.body["lease"];
    let finish = server.request(Method::POST, &format!("{path}/{}/finish", answer.id()));
    let finish = finish.header("Singletrack-Lease", lease["secret"].as_str().unwrap());
    assert_eq!(send(finish.json(&json!({ "status": "SUCCEEDED" }))).await.status, 200);
    lease["fencingToken"].as_u64().unwrap()
}

/// Takes a copy with `cp` once the server takes itself for idle: when what it did last is in the file.
async fn copied_idle(server: &TestServer, to: &str, ended: u64) {
    loop {
        fs::copy(server.path("test.db"), server.path(to)).unwrap();
        let copy = Connection::open(server.path(to)).unwrap();
        let count = "SELECT count(*) FROM deployments WHERE state = 'succeeded'";
        let found = copy.query_row(count, [], |row| row.get::<_, u64>(0));
        drop(copy);
        // What the look at it made.
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(server.path(&format!("{to}{suffix}")));
        }
        if found.is_ok_and(|count| count == ended) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// How a start on what is there now is refused.
fn refused_start(server: &TestServer) -> String {
    let done = server.command().args(["--listen", "127.0.0.1:0"]).output().unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(69), "{told}");
    told
}

fn remove_log(server: &TestServer) {
    for name in ["test.db-wal", "test.db-shm"] {
        fs::remove_file(server.path(name)).unwrap();
    }
}

fn leap_count(server: &TestServer) -> usize {
    server.log().matches("its revisions leap").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_put_back_by_cp_leaps_and_never_takes_the_log_of_another_file() {
    let mut server = TestServer::gated();
    let before = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&before).await;
    ok(&server, &["backup", "--from", "sqlite:test.db", "--to", "backup.db"]);
    let (_, token, _secret) = claimed(&server).await;
    server.kill();
    fs::copy(server.path("backup.db"), server.path("test.db")).unwrap();
    let told = refused_start(&server);
    assert!(told.contains("test.db is a backup or an older copy, and") && told.contains("move"), "{told}");

    remove_log(&server);
    server.boot();
    let (_, after, _secret) = claimed(&server).await;
    assert!(after > token, "a token that was handed out after the backup, {token}, came again or was passed: {after}");
    // It is a store like any other now.
    server.kill();
    server.boot();
    assert_eq!(server.deployment(&before, "").await.status, 200);
    assert_eq!(leap_count(&server), 1, "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_an_idle_server_holds_everything() {
    let server = TestServer::gated();
    turn(&server, "web").await;
    copied_idle(&server, "copy.db", 1).await;
    turn(&server, "web").await;
    copied_idle(&server, "again.db", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_copy_that_is_put_back_leaps_whether_the_server_was_idle_or_stopped() {
    let mut server = TestServer::gated();
    turn(&server, "web").await;
    copied_idle(&server, "idle.db", 1).await;
    let mut highest = turn(&server, "web").await;
    server.terminate();
    fs::copy(server.path("test.db"), server.path("stopped.db")).unwrap();
    server.boot();
    highest = highest.max(turn(&server, "web").await);
    assert_eq!(leap_count(&server), 0, "a restart is no leap: {}", server.log());
    let of_new = turn(&server, "new").await;

    for (times, copy) in (1..).zip(["stopped.db", "idle.db", "stopped.db"]) {
        server.terminate();
        fs::copy(server.path(copy), server.path("test.db")).unwrap();
        server.boot();
        assert_eq!(leap_count(&server), times, "{copy}: {}", server.log());
        let after = turn(&server, "web").await;
        assert!(after > highest, "{copy}: {after} is not above {highest}");
        highest = after;
        let after = turn(&server, "new").await;
        assert!(after > of_new + 1_000_000, "{copy}: a project that was forgotten began again with {after}");
    }
    server.terminate();
    server.boot();
    assert_eq!(leap_count(&server), 3, "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_never_takes_the_log_of_the_newer_file_and_a_killed_server_goes_on() {
    let mut server = TestServer::gated();
    turn(&server, "web").await;
    copied_idle(&server, "older.db", 1).await;
    turn(&server, "web").await;
    copied_idle(&server, "newer.db", 2).await;
    let last = turn(&server, "web").await;
    server.kill();
    fs::rename(server.path("test.db"), server.path("own.db")).unwrap();
    fs::copy(server.path("older.db"), server.path("test.db")).unwrap();
    let told = refused_start(&server);
    assert!(told.contains("test.db is a backup or an older copy, and") && told.contains("test.db-wal away"), "{told}");

    fs::rename(server.path("own.db"), server.path("test.db")).unwrap();
    server.boot();
    assert_eq!(leap_count(&server), 0, "{}", server.log());
    assert_eq!(turn(&server, "web").await, last + 3, "submitted, claimed and finished since");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_to_another_place_leaps_and_so_does_each_restore() {
    let mut server = TestServer::gated();
    let mut highest = turn(&server, "web").await;
    ok(&server, &["backup", "--from", "sqlite:test.db", "--to", "backup.db"]);
    highest = highest.max(turn(&server, "web").await);
    for _ in 0..2 {
        server.terminate();
        fs::remove_file(server.path("test.db")).unwrap();
        ok(&server, &["restore", "--from", "backup.db", "--to", "sqlite:test.db"]);
        server.boot();
        let after = turn(&server, "web").await;
        assert!(after > highest, "{after} is not above {highest}");
        highest = after;
    }
    assert_eq!(leap_count(&server), 0, "the restore itself has leapt: {}", server.log());
    server.terminate();
    fs::remove_file(server.path("test.db.lineage")).unwrap();
    server.boot();
    assert_eq!(leap_count(&server), 1, "{}", server.log());
    let after = turn(&server, "web").await;
    assert!(after > highest + 1_000_000, "{after} is not above {highest}");
}

#[tokio::test]
async fn a_backup_is_made_where_the_file_system_has_neither_hard_links_nor_careful_renames() {
    let server = TestServer::gated();
    claimed(&server).await;
    for (number, error) in [libc::EPERM, libc::EOPNOTSUPP].into_iter().enumerate() {
        let copy = format!("copy-{number}.db");
        let mut backup = server.tool(&["store", "backup", "--from", "sqlite:test.db", "--to", &copy]);
        forbid(&mut backup, &[libc::SYS_link, libc::SYS_linkat], error);
        forbid(&mut backup, &[libc::SYS_renameat2], libc::EINVAL);
        let made = backup.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let db = Connection::open(server.path(&copy)).unwrap();
        assert_eq!(db.query_row("SELECT count(*) FROM deployments", [], |row| row.get::<_, u64>(0)).unwrap(), 1);
    }
}
