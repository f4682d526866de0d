//! What is kept, and for how long.

use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use reqwest::header::HeaderMap;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::CONFIG;
use crate::harness::TestServer;

fn make_old(server: &TestServer, name: &str) {
    let file = File::options().append(true).open(server.kept(name)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(40 * 24 * 60 * 60)).unwrap();
}

#[tokio::test]
async fn old_artifacts_go_unless_a_deployment_needs_them() {
    let mut server = TestServer::start(CONFIG);
    let dir = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for number in 0..4_u8 {
        std::fs::write(dir.path().join("version"), [b'0' + number]).unwrap();
        let packed =
            singletrack::exec::archive::pack(dir.path(), singletrack::exec::archive::PackOptions::default()).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &packed.file, &mut bytes).unwrap();
        names.push(server.uploaded(&bytes).await);
    }
    let [deployed, unneeded, fresh, partial] = &names[..] else { panic!() };
    let id = server.accepted(json!({ "artifact": { "sha256": deployed } })).await;
    server.finished(&id).await;
    server.terminate();
    std::fs::rename(server.kept(partial), server.kept(&format!("{partial}.part"))).unwrap();
    let foreign = server.kept("README");
    std::fs::write(&foreign, "not ours").unwrap();
    for name in [deployed, unneeded, &format!("{partial}.part")] {
        make_old(&server, name);
    }
    // It looks when it starts.
    server.boot();
    let gone = async {
        while server.log().matches("removed an artifact").count() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), gone).await.unwrap();
    assert!(server.kept(deployed).exists() && server.kept(fresh).exists() && foreign.exists());
    assert!(!server.kept(unneeded).exists() && !server.kept(&format!("{partial}.part")).exists());
    let missing = server.submit(json!({ "artifact": { "sha256": unneeded } })).await;
    assert_eq!(missing.refusal(), (422, "ARTIFACT_MISSING"));
    let again = server.accepted(json!({ "retryOf": id })).await;
    assert_eq!(server.finished(&again).await["result"]["outputs"]["version"], "0");
}

#[tokio::test]
async fn a_repeated_submit_is_answered_as_before_though_its_artifact_is_gone() {
    let server = TestServer::start(CONFIG);
    let name = server.uploaded(&super::noise(1 << 10)).await;
    let wish = json!({ "artifact": { "sha256": name } });
    let first = server.submit_keyed("key", wish.clone()).await;
    assert_eq!(first.status, 202, "{}", first.text);
    server.finished(&first.id()).await;
    std::fs::remove_file(server.kept(&name)).unwrap();
    let again = server.submit_keyed("key", wish.clone()).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, "true"), "{}", again.text);
    assert_eq!(again.id(), first.id());
    assert_eq!(server.submit_keyed("other", wish).await.refusal(), (422, "ARTIFACT_MISSING"));
}

#[tokio::test]
async fn room_is_made_for_new_artifacts() {
    let server =
        TestServer::start(&format!("[artifacts]\nmax_bytes = \"1MiB\"\nmax_total_bytes = \"1100KiB\"\n{CONFIG}"));
    let old = server.uploaded(&super::noise(1 << 20)).await;
    make_old(&server, &old);
    let new = server.uploaded(&vec![7; 512 << 10]).await;
    assert!(!server.kept(&old).exists() && server.kept(&new).exists());
}

#[tokio::test]
async fn an_upload_for_which_there_is_room_looks_at_no_project() {
    let server = TestServer::start(CONFIG);
    let old = server.uploaded(&super::noise(1 << 10)).await;
    let id = server.accepted(json!({ "artifact": { "sha256": old } })).await;
    server.finished(&id).await;
    make_old(&server, &old);
    // Whoever looked at this project now would fail.
    let store = rusqlite::Connection::open(server.path("test.db")).unwrap();
    store.execute("UPDATE projects SET recent_runs = 'unreadable'", []).unwrap();
    let new = server.uploaded(&super::noise(2 << 10)).await;
    assert!(server.kept(&old).exists() && server.kept(&new).exists());
}

#[tokio::test]
async fn what_is_deployed_stays_though_room_is_wanted_and_the_upload_is_told_that_there_is_none() {
    let config = format!("[artifacts]\nmax_bytes = \"1MiB\"\nmax_total_bytes = \"1100KiB\"\n{CONFIG}");
    let server = TestServer::start(&config);
    let deployed = server.uploaded(&super::noise(1 << 20)).await;
    let id = server.accepted(json!({ "artifact": { "sha256": deployed } })).await;
    server.finished(&id).await;
    make_old(&server, &deployed);
    let bytes = vec![7; 512 << 10];
    for _ in 0..2 {
        let refused = server.put(&super::sha256(&bytes), HeaderMap::new(), bytes.clone()).await;
        assert_eq!(refused.refusal(), (503, "DISK_FULL"), "{}", refused.text);
    }
    assert!(server.kept(&deployed).exists());
}
