//! `store compact`, and a file that gives its room back while its server works.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use serde_json::json;

use crate::{
    harness::{
        SINGLETRACK, TestServer, gated_config,
        mounts::{fill, in_a_mount_namespace, is_inside, mount, unmount},
    },
    retention::{deployed, succeeded},
    store_trial::Trial,
};

fn compact(directory: &Path, store: &str) -> Output {
    let mut command = Command::new(SINGLETRACK);
    command.args(["store", "compact", "--store", store]).env_remove("SINGLETRACK_STORE");
    command.current_dir(directory).output().unwrap()
}

/// The exit code and what was said on standard error.
fn refused(directory: &Path, store: &str) -> (i32, String) {
    let done = compact(directory, store);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "");
    (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
}

/// A store as an older version left it: its file gives nothing back, and is half free.
async fn rigid(directory: &Path) {
    let trial = Trial::sqlite_at(directory);
    for number in 1..=6 {
        deployed(&trial, "web", number, 2000, succeeded()).await;
    }
    drop(trial);
    let db = Connection::open(directory.join("singletrack.db")).unwrap();
    let free = "PRAGMA auto_vacuum = none; VACUUM; CREATE TABLE ballast (x); \
        INSERT INTO ballast SELECT zeroblob(100000) FROM (SELECT 1 FROM events LIMIT 100); DROP TABLE ballast";
    db.execute_batch(free).unwrap();
}

fn pragma(file: &Path, name: &str) -> u64 {
    Connection::open(file).unwrap().pragma_query_value(None, name, |row| row.get(0)).unwrap()
}

/// All that a reader sees of the six deployments.
fn all(directory: &Path) -> Vec<String> {
    let db = Connection::open(directory.join("singletrack.db")).unwrap();
    let mut rows =
        db.prepare("SELECT deployment || ' ' || seq || ' ' || at || ' ' || body FROM events ORDER BY 1").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_an_older_version_becomes_smaller_and_gives_room_back_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    rigid(directory.path()).await;
    let file = directory.path().join("singletrack.db");
    assert_eq!(pragma(&file, "auto_vacuum"), 0);
    let (before, length) = (all(directory.path()), fs::metadata(&file).unwrap().len());
    let free = pragma(&file, "freelist_count") * pragma(&file, "page_size");
    assert!(free > 5_000_000);
    let done = compact(directory.path(), "sqlite:singletrack.db");
    let told = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
    assert!(told.contains("is compacted: ") && told.contains("gives room back by itself from now on"), "{told}");
    assert!(fs::metadata(&file).unwrap().len() < length - free / 2, "{told}");
    assert_eq!((pragma(&file, "auto_vacuum"), pragma(&file, "freelist_count")), (2, 0));
    assert!(all(directory.path()) == before);
    let made: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!made.iter().any(|name| name.to_string_lossy().contains("compact")), "{made:?}");

    // The server goes on as if nothing had been: no revision leaps, and numbers go on.
    let store = format!("sqlite:{}", file.display());
    let server = TestServer::start_on(&store, &gated_config(""));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&id).await["number"], 7);
    assert!(!server.log().contains("leap"), "{}", server.log());
    // Once more, while the server has the file.
    let (code, told) = refused(directory.path(), "sqlite:singletrack.db");
    assert!(code == 69 && told.contains("(pid ") && told.contains("stop it, compact the file"), "{code}: {told}");
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_is_refused_while_another_program_reads_the_file() {
    let directory = tempfile::tempdir().unwrap();
    rigid(directory.path()).await;
    let db = Connection::open(directory.path().join("singletrack.db")).unwrap();
    let mode = db.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(mode, "wal");
    let reading = db.unchecked_transaction().unwrap();
    let count = |db: &Connection| db.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, u64>(0)).unwrap();
    let before = count(&reading);
    let (code, told) = refused(directory.path(), "sqlite:singletrack.db");
    assert!(
        code == 69 && told.contains("another program has ") && told.contains("compact once more"),
        "{code}: {told}"
    );
    assert_eq!(count(&reading), before, "the reader goes on");
    drop(reading);
    drop(db);
    assert!(compact(directory.path(), "sqlite:singletrack.db").status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_that_is_killed_loses_nothing_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    rigid(directory.path()).await;
    let before = all(directory.path());
    let fresh = directory.path().join("singletrack.db.compact");
    let mut killed = 0;
    for _ in 0..20 {
        let mut command = Command::new(SINGLETRACK);
        command.args(["store", "compact", "--store", "sqlite:singletrack.db"]).current_dir(directory.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It ends by itself where the new file appeared and was gone between two looks.
        while !fresh.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        assert!(all(directory.path()) == before);
    }
    assert!(killed > 0, "none was killed in its middle");
    fs::write(&fresh, "left by one that was killed").unwrap();
    let store = format!("sqlite:{}", directory.path().join("singletrack.db").display());
    let mut server = TestServer::start_on(&store, "");
    assert!(!fresh.exists());
    assert_eq!(server.get("/v1/projects/web/deployments/6").await.status, 200);
    assert!(server.terminate().success());
    assert!(compact(directory.path(), "sqlite:singletrack.db").status.success());
    assert!(all(directory.path()) == before);
}

#[test]
fn a_compaction_without_room_says_how_much_it_needs_and_changes_nothing() {
    in_a_mount_namespace("store_compact::on_a_small_disk");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by the test above, on a small disk"]
async fn on_a_small_disk() {
    if !is_inside() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path();
    mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs", disk.to_str().unwrap()]);
    rigid(disk).await;
    let rows = all(disk).len();
    let before = fs::read(disk.join("singletrack.db")).unwrap();
    // Nothing is free, and 4 MiB, which are too few.
    fill(disk);
    for more in [0, 4 << 20] {
        let filler = fs::OpenOptions::new().write(true).open(disk.join("filler")).unwrap();
        filler.set_len(filler.metadata().unwrap().len() - more).unwrap();
        let (code, told) = refused(disk, "sqlite:singletrack.db");
        assert!(code == 69 && told.contains(" MiB of free disk, and there are "), "{code}: {told}");
        // Opening it may note in the file that it has no log.
        assert_eq!(fs::read(disk.join("singletrack.db")).unwrap().len(), before.len());
        assert!(!disk.join("singletrack.db.compact").exists());
    }
    fs::remove_file(disk.join("filler")).unwrap();
    assert_eq!(all(disk).len(), rows);
    assert!(compact(disk, "sqlite:singletrack.db").status.success());
    unmount(disk);
}

#[test]
fn only_a_file_can_be_compacted() {
    let directory = tempfile::tempdir().unwrap();
    for (store, code, says) in [
        ("postgres://db.example/deploys", 2, "autovacuum"),
        ("memory:", 2, "has no file"),
        ("sqlite:none.db", 69, "there is no file"),
    ] {
        let (found, told) = refused(directory.path(), store);
        assert!(found == code && told.contains(says), "{store}: {found}: {told}");
    }
    Connection::open(directory.path().join("foreign.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let (code, told) = refused(directory.path(), "sqlite:foreign.db");
    assert!(code == 69 && told.contains("database of another program"), "{code}: {told}");
}

/// Waits until the file is at most so large.
async fn shrunk_below(server: &TestServer, file: &Path, limit: u64) {
    let began = Instant::now();
    loop {
        let length = fs::metadata(file).unwrap().len();
        if length <= limit {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "it still has {length} bytes: {}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_server_that_works_on_gives_back_what_retention_set_free() {
    let config = gated_config(
        "[retention]\noutput = \"1s\"\nkeep = 1\ninterval = \"1s\"\n[projects.web.pipelines.loud]\n\
         [[projects.web.pipelines.loud.phases]]\nname = \"only\"\nrun = \"head -c 6000000 /dev/urandom | base64 -w 200\"\n",
    );
    let server = TestServer::start(&config);
    let file = server.path("test.db");
    // Output that cannot be compressed, in rounds: what a round has set free is used by the next one, or is given back.
    for round in 0..3 {
        for _ in 0..3 {
            let id = server.accepted(json!({ "pipeline": "loud" })).await;
            assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
        }
        let grown = fs::metadata(&file).unwrap().len();
        assert!(grown < 40_000_000, "round {round}: {grown}");
        // It pushes the last loud one out of those that are kept.
        let id = server.accepted(json!({ "pipeline": "quick" })).await;
        server.finished(&id).await;
        shrunk_below(&server, &file, 5_000_000).await;
    }
}
