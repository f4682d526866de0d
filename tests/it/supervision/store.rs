//! A server whose store can do no work is not ready, says why in its log, and is ready again once that is mended.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use serde_json::{Value, json};

use super::check;
use crate::harness::{
    Answer, TestServer, gated_config,
    mounts::{fill, in_a_mount_namespace, is_inside, mount, unmount},
    postgres::{self, Cluster, TRUSTED, UNSAFE},
};

async fn take(server: &TestServer, project: &str) -> Answer {
    server.post(&format!("/v1/projects/{project}/deployments"), json!({ "executor": "client", "claim": true })).await
}

/// What `/readyz` says of the store, which must fail.
async fn why_not_ready(server: &TestServer) -> Value {
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503, "{}", ready.text);
    check(&ready, "store")["detail"].clone()
}

/// Waits until the store is ready again.
async fn ready_again(server: &TestServer) {
    while server.get("/readyz").await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_whose_file_is_damaged_is_not_ready_and_says_why_in_its_log() {
    let mut server = TestServer::gated();
    take(&server, "web").await;
    // All that is in the log is moved into the file.
    let ended = server.terminate();
    assert!(ended.success(), "{ended}\n{}", server.log());
    server.boot();
    let file = File::options().write(true).open(server.path("test.db")).unwrap();
    for at in (4096..file.metadata().unwrap().len()).step_by(4096) {
        file.write_all_at(&[0x5a; 4096], at).unwrap();
    }
    assert_eq!(why_not_ready(&server).await, "the store cannot be used; see the server's log");
    let is_told = |line: &str| line.contains("check=store") && line.contains("the database is damaged");
    while !server.log().lines().any(is_told) {
        tokio::task::yield_now().await;
    }
    let refused = take(&server, "other").await;
    assert_eq!(refused.refusal(), (503, "UNAVAILABLE"), "{}", refused.text);
}

#[test]
fn a_server_whose_database_is_full_is_not_ready_until_there_is_room() {
    in_a_mount_namespace("supervision::store::on_a_full_database");
}

#[tokio::test]
#[ignore = "it is run by the test above, on a small disk"]
async fn on_a_full_database() {
    if !is_inside() {
        return;
    }
    let directory = postgres::directory();
    let disk = directory.join("small");
    fs::create_dir(&disk).unwrap();
    mount(&["-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs", disk.to_str().unwrap()]);
    let cluster = Cluster::start_on_tcp_in(&directory, UNSAFE, TRUSTED);
    let admin = cluster.client("postgres").await;
    // A full disk under its log would end PostgreSQL itself.
    let place = disk.join("tables");
    fs::create_dir(&place).unwrap();
    postgres::give(&place);
    admin.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", place.display())).await.unwrap();
    admin.batch_execute("CREATE DATABASE full_one TABLESPACE small").await.unwrap();
    let server = TestServer::start_on(&cluster.url("full_one"), &gated_config(""));
    let held = take(&server, "web").await;
    assert_eq!((held.status, server.get("/readyz").await.status), (202, 200), "{}", held.text);
    fill(&disk);
    // What is there has some room left in its pages.
    let mut count = 0;
    let refused = loop {
        let answer = take(&server, &format!("project-{count}")).await;
        if answer.status != 202 {
            break answer;
        }
        count += 1;
        assert!(count < 10_000, "the disk is never full");
    };
    assert_eq!(refused.status, 503, "{}", refused.text);
    while server.get("/readyz").await.status == 200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(why_not_ready(&server).await, "the disk is full");
    fs::remove_file(disk.join("filler")).unwrap();
    ready_again(&server).await;
    let taken = take(&server, "late").await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    drop(server);
    drop(cluster);
    unmount(&disk);
}
