//! Artifacts of several servers on one database: taken by one, gone on with at another, deployed by a third.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    time::{sleep, timeout},
};

use super::{
    CONFIG, noise,
    upload::{arrived, assert_whole, begin, go_on},
};
use crate::{
    agent::{TestAgent, by_agents},
    harness::{TestServer, postgres, raw::read_to_end},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Servers of one database, and its name.
async fn servers<const COUNT: usize>(config: &str) -> (String, [TestServer; COUNT]) {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let store = cluster.url(&database);
    (database, std::array::from_fn(|_| TestServer::start_on(&store, config)))
}

/// A packed folder with a file `version` in it, and more that makes it large.
fn packed(version: &str, bytes: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("version"), version).unwrap();
    std::fs::write(dir.path().join("ballast"), noise(bytes)).unwrap();
    let packed =
        singletrack::exec::archive::pack(dir.path(), singletrack::exec::archive::PackOptions::default()).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &packed.file, &mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn an_upload_that_is_cut_at_one_server_is_gone_on_with_at_another_and_deployed_by_a_third() {
    let (_, [mut one, mut other, third]) = servers(CONFIG).await;
    let bytes = packed("v7", 5 << 20);
    let name = super::sha256(&bytes);
    let connection = begin(&one, &bytes, 3 << 20).await;
    // Whichever is asked tells how far it is.
    arrived(&other, &name, 2 << 20).await;
    drop(connection);
    assert!(go_on(&other, &bytes).await >= 2 << 20, "it began anew");
    for server in [&one, &other, &third] {
        assert_whole(server, &bytes).await;
    }
    // So that it is the third that runs it.
    assert!(one.terminate().success() && other.terminate().success());
    let wish = json!({ "artifact": { "sha256": name } });
    let first = third.accepted(wish.clone()).await;
    assert_eq!(third.finished(&first).await["result"]["outputs"]["version"], "v7");
    let copy = third.path("singletrack-work/artifact-copies").join(&name);
    assert!(copy.exists() && std::fs::read(copy).unwrap() == bytes, "what runs often is at hand");
    let again = third.accepted(wish).await;
    assert_eq!(third.finished(&again).await["result"]["outputs"]["version"], "v7");
}

#[tokio::test]
async fn an_agent_at_a_third_server_deploys_what_was_uploaded_at_another() {
    let (_, [one, other, third]) = servers(&by_agents("")).await;
    let bytes = {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("site")).unwrap();
        std::fs::write(dir.path().join("site/index.html"), "hello from afar").unwrap();
        let packed =
            singletrack::exec::archive::pack(dir.path(), singletrack::exec::archive::PackOptions::default()).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &packed.file, &mut bytes).unwrap();
        bytes
    };
    let name = one.uploaded(&bytes).await;
    let _agent = TestAgent::start(&third);
    let id = other.accepted(json!({ "pipeline": "show", "artifact": { "sha256": name } })).await;
    other.event(&id, |event| event["lines"][0] == "hello from afar").await;
    assert_eq!(one.finished(&id).await["status"], "SUCCEEDED");
}

#[tokio::test]
async fn an_upload_whose_server_is_killed_goes_on_at_another() {
    let (_, [mut one, other]) = servers(CONFIG).await;
    let bytes = noise(5 << 20);
    let name = super::sha256(&bytes);
    let _connection = begin(&one, &bytes, 3 << 20).await;
    let there = arrived(&other, &name, 2 << 20).await;
    one.kill();
    assert!(go_on(&other, &bytes).await >= there, "it began anew");
    assert_whole(&other, &bytes).await;
}

#[tokio::test]
async fn a_server_that_stood_still_while_another_went_on_harms_nothing() {
    let (_, [one, other]) = servers(CONFIG).await;
    let bytes = noise(5 << 20);
    let name = super::sha256(&bytes);
    let mut connection = begin(&one, &bytes, 3 << 20).await;
    arrived(&other, &name, 2 << 20).await;
    one.signal(Signal::STOP);
    go_on(&other, &bytes).await;
    one.signal(Signal::CONT);
    // What it did not know to be there already it must not add.
    let rest = connection.write_all(&bytes[3 << 20..]).await;
    let answer = read_to_end(&mut connection).await;
    assert!(rest.is_err() || answer.refusal() == (409, "UPLOAD_IN_PROGRESS"), "{}", answer.text);
    for server in [&one, &other] {
        assert_whole(server, &bytes).await;
    }
}

#[tokio::test]
async fn one_server_removes_for_all_what_nobody_needs() {
    let (database, [one, other]) = servers(CONFIG).await;
    let admin = postgres::shared().client(&database).await;
    admin.batch_execute("SET search_path TO singletrack").await.unwrap();
    let deployed = one.uploaded(&packed("v1", 10)).await;
    let unneeded = other.uploaded(&noise(3 << 20)).await;
    let fresh = other.uploaded(&noise(2 << 20)).await;
    let id = other.accepted(json!({ "artifact": { "sha256": deployed } })).await;
    one.finished(&id).await;
    let cut = noise(4 << 20);
    let partial = super::sha256(&cut);
    drop(begin(&one, &cut, 3 << 20).await);
    arrived(&one, &partial, 2 << 20).await;
    // Let go of by its server, which notices that the client is gone.
    let free = async {
        let held = "SELECT FROM artifacts WHERE writer IS NOT NULL";
        while !admin.query(held, &[]).await.unwrap().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, free).await.unwrap();
    let old = format!(
        "UPDATE artifacts SET wanted_at = now() - interval '40 days' WHERE sha256 <> '{fresh}'; \
         UPDATE chores SET done_at = now() - interval '1 day'"
    );
    admin.batch_execute(&old).await.unwrap();
    // Each looks when it starts, and one of them does it.
    let (mut one, mut other) = (one, other);
    for server in [&mut one, &mut other] {
        server.terminate();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| one.boot());
        scope.spawn(|| other.boot());
    });
    let removed = || format!("{}{}", one.log(), other.log()).matches("removed an artifact").count();
    let gone = async {
        while removed() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
        // Their pieces follow.
        let left = "SELECT FROM artifact_pieces WHERE artifact NOT IN (SELECT number FROM artifacts)";
        while !admin.query(left, &[]).await.unwrap().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    let kept = admin.query("SELECT sha256 FROM artifacts ORDER BY 1", &[]).await.unwrap();
    let mut expected = [deployed, fresh];
    expected.sort();
    assert_eq!(kept.iter().map(|row| row.get(0)).collect::<Vec<String>>(), expected);
    let logs = [one.log(), other.log()];
    assert!(logs.iter().any(|log| !log.contains("removed an artifact")), "both did it: {logs:?}");
    for server in [&one, &other] {
        let missing = server.submit(json!({ "artifact": { "sha256": unneeded } })).await;
        assert_eq!(missing.refusal(), (422, "ARTIFACT_MISSING"));
        assert_eq!(server.offset(&partial).await, Some(0));
    }
    let again = one.accepted(json!({ "retryOf": id })).await;
    assert_eq!(other.finished(&again).await["result"]["outputs"]["version"], "v1");
}
