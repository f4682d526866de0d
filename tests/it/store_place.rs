//! Where a SQLite store's file may be, and that one file has one server under whatever name it is reached.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use serde_json::json;

use crate::harness::{
    SINGLETRACK, TestServer,
    mounts::{in_a_mount_namespace, is_inside, mount, unmount},
};

/// What `serve` says when it does not start on this store.
fn refusal(directory: &Path, store: &str) -> String {
    let done = Command::new(SINGLETRACK)
        .args(["serve", "--listen", "127.0.0.1:0", "--store", store])
        .current_dir(directory)
        .env_remove("SINGLETRACK_LOG")
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(69), "{done:?}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "");
    String::from_utf8(done.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_link_to_a_file_in_use_is_refused() {
    let server = TestServer::gated();
    let other = tempfile::tempdir_in(server.dir()).unwrap();
    fs::hard_link(server.path("test.db"), other.path().join("same.db")).unwrap();
    let told = refusal(other.path(), "sqlite:same.db");
    assert!(told.contains("same.db is in use by another singletrack server, under another name"), "{told}");
    // The first one goes on, and says what its next start would trip over.
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    assert!(server.log().contains("the store's file has a second name (hard link)"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_two_names_is_refused_though_nobody_uses_it() {
    let mut server = TestServer::gated();
    server.terminate();
    fs::hard_link(server.path("test.db"), server.path("same.db")).unwrap();
    for name in ["test.db", "same.db"] {
        let told = refusal(server.dir(), &format!("sqlite:{name}"));
        assert!(told.contains(&format!("{name} has 2 names (hard links)")), "{told}");
        let backup = server.tool(&["store", "backup", "--from", &format!("sqlite:{name}"), "--to", "copy.db"]);
        let done = { backup }.output().unwrap();
        assert!(!done.status.success() && !server.path("copy.db").exists(), "{done:?}");
    }
    fs::remove_file(server.path("same.db")).unwrap();
    server.boot();
}

#[test]
fn a_file_that_is_mounted_by_itself_is_refused() {
    in_a_mount_namespace("store_place::files_mounted_by_themselves");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run by the test above, in a mount namespace"]
async fn files_mounted_by_themselves() {
    if !is_inside() {
        return;
    }
    let mut server = TestServer::gated();
    let other = tempfile::tempdir_in(server.dir()).unwrap();
    let mounted = other.path().join("mounted.db");
    fs::write(&mounted, "").unwrap();
    mount(&["--bind", server.path("test.db").to_str().unwrap(), mounted.to_str().unwrap()]);
    let told = refusal(other.path(), "sqlite:mounted.db");
    assert!(told.contains("mounted.db is in use by another singletrack server, under another name"), "{told}");
    symlink(&mounted, other.path().join("link.db")).unwrap();
    let told = refusal(other.path(), "sqlite:link.db");
    assert!(told.contains("is in use by another singletrack server"), "{told}");
    server.accepted(json!({ "pipeline": "quick" })).await;

    // Nor when the first one has ended: what it left in its log would be missing here.
    server.kill();
    let told = refusal(other.path(), "sqlite:mounted.db");
    assert!(told.contains("mounted.db is mounted by itself") && told.contains("mount its directory"), "{told}");

    // A mounted directory is as good as the directory itself.
    let folder = tempfile::tempdir().unwrap();
    mount(&["--bind", server.dir().to_str().unwrap(), folder.path().to_str().unwrap()]);
    server.boot();
    let told = refusal(folder.path(), "sqlite:test.db");
    assert!(told.contains("is in use by another singletrack server"), "{told}");
    unmount(folder.path());
}

/// Submits to a server whose files were disturbed: it must not acknowledge, and ends.
async fn is_not_acknowledged(server: &mut TestServer) {
    let url = format!("{}/v1/projects/web/deployments", server.base);
    let answer = server.client.post(url).json(&json!({ "pipeline": "quick" })).send().await;
    assert!(answer.is_err(), "it was answered: {answer:?}");
    assert_eq!(server.exited().code(), Some(70), "{}", server.log());
    assert!(server.log().contains("removed, replaced or renamed while it was in use"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_into_a_file_that_was_removed_renamed_or_replaced() {
    for disturb in [
        |server: &TestServer| fs::remove_file(server.path("test.db")).unwrap(),
        |server: &TestServer| fs::rename(server.path("test.db"), server.path("moved.db")).unwrap(),
        |server: &TestServer| {
            fs::copy(server.path("test.db"), server.path("copy.db")).unwrap();
            fs::rename(server.path("copy.db"), server.path("test.db")).unwrap();
        },
    ] {
        let mut server = TestServer::gated();
        disturb(&server);
        is_not_acknowledged(&mut server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_the_log_was_removed_is_kept() {
    for name in ["test.db-wal", "test.db-shm"] {
        let mut server = TestServer::gated();
        let id = server.accepted(json!({ "pipeline": "quick" })).await;
        let before = server.finished(&id).await;
        fs::remove_file(server.path(name)).unwrap();
        is_not_acknowledged(&mut server).await;
        server.boot();
        assert_eq!(server.deployment(&id, "").await.body, before, "{name}");
    }
}
