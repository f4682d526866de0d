//! A real streaming standby: refused alone, passed over beside its primary, and followed when it is promoted.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::{deploys, refused};
use crate::harness::{
    SINGLETRACK, TestServer,
    balancer::Balancer,
    gated_config,
    postgres::{self, Cluster, TRUSTED},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused_passed_over_and_followed_when_it_is_promoted() {
    let primary = Cluster::start_on_tcp(postgres::UNSAFE, TRUSTED);
    let database = primary.database().await;
    let standby = primary.standby();
    let alone = standby.tcp_url("127.0.0.1", &database);
    let (code, told) = refused(&alone, &[]);
    assert_eq!(code, 69, "{told}");
    assert!(told.contains("standby") && told.contains("primary"), "{told}");
    let (code, told) = refused(&format!("{alone}?target_session_attrs=read-only"), &[]);
    assert_eq!(code, 78, "{told}");

    // The standby comes first and is passed over, by a server that names it alone with the attribute it fails as well.
    let hosts = format!("@127.0.0.1:{},127.0.0.1:{}/", standby.port(), primary.port());
    let both = primary.tcp_url("127.0.0.1", &database).replace(&format!("@127.0.0.1:{}/", primary.port()), &hosts);
    let one = TestServer::start_on(&both, &gated_config(""));
    let other = TestServer::start_on(&format!("{both}?target_session_attrs=read-write"), &gated_config(""));
    deploys(&one, &other).await;
    let balancer = Balancer::of(&[one.base.clone(), other.base.clone()]);

    // One run holds the slot and another waits while the primary dies and the standby is promoted.
    let mut holds = run(&balancer, &format!("touch {0}/up; until [ -e {0}/down ]; do sleep 0.05; done", show(&one)));
    until_there(&one, "up").await;
    let mut waits = run(&balancer, "true");
    while one.project().await["lineLength"] != 1 {
        tokio::task::yield_now().await;
    }
    let before = one.deployments().await;
    primary.caught_up(&standby).await;
    drop(primary);
    standby.promote().await;
    std::fs::write(one.path("down"), "").unwrap();
    for client in [&mut holds, &mut waits] {
        let done = client.wait().await.unwrap();
        assert!(done.success(), "{done}: {}", one.log());
    }
    // Nothing that was told is gone, and it goes on.
    let after = one.deployments().await;
    assert_eq!(after.len(), before.len());
    assert!(after.iter().all(|deployment| deployment["status"] == "SUCCEEDED"), "{after:#?}");
    deploys(&one, &other).await;
    deploys(&other, &one).await;
    let next = one.submit(json!({ "executor": "client", "claim": true })).await;
    let highest = after.iter().map(|it| it["revision"].as_u64().unwrap()).max().unwrap();
    assert!(next.body["lease"]["fencingToken"].as_u64().unwrap() > highest, "{}", next.text);
}

fn show(server: &TestServer) -> String {
    server.dir().display().to_string()
}

fn run(balancer: &Balancer, script: &str) -> tokio::process::Child {
    let mut run = Command::new(SINGLETRACK);
    run.args(["run", "--project", "web", "--", "sh", "-c", script]).env("SINGLETRACK_URL", &balancer.base);
    run.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

async fn until_there(server: &TestServer, file: &str) {
    while !server.path(file).exists() {
        tokio::task::yield_now().await;
    }
}
