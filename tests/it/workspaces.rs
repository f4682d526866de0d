//! What becomes of workspaces that cannot be removed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::harness::TestServer;

/// One phase that leaves folders which even their owner may not write into, and one that leaves something of the system's.
const LEAVES: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "closed"
run = "mkdir -p a/b; touch a/b/c; chmod 500 a/b; chmod 0 a"
[[projects.web.pipelines.stuck.phases]]
name = "mounts"
run = "mkdir kept; mount -t tmpfs none kept"
"#;

/// A mount, taken away at the latest when the test ends.
struct Mount(PathBuf);

impl Mount {
    fn take_away(&self) -> bool {
        Command::new("umount").arg(&self.0).status().unwrap().success()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.0.exists() {
            self.take_away();
        }
    }
}

async fn left_count(server: &TestServer) -> String {
    let metrics = server.get("/metrics").await.text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("singletrack_workspaces_left "));
    line.unwrap_or_else(|| panic!("{metrics}")).to_owned()
}

fn what_is_left(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("singletrack-work/runs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_workspace_that_cannot_be_removed_is_told_counted_and_removed_once_it_can_be() {
    let mut server = TestServer::start(LEAVES);
    let closed = server.accepted(json!({ "onConflict": "queue" })).await;
    assert_eq!(server.finished(&closed).await["status"], "SUCCEEDED");
    let stuck = server.accepted(json!({ "onConflict": "queue", "pipeline": "stuck" })).await;
    let mount = Mount(server.path(&format!("singletrack-work/runs/{stuck}/kept")));
    assert_eq!(
        server.finished(&stuck).await["status"],
        "SUCCEEDED",
        "this test mounts something, for which it must be root"
    );
    while left_count(&server).await != "1" {
        tokio::task::yield_now().await;
    }
    assert!(server.log().contains("a workspace could not be removed"), "{}", server.log());
    assert!(what_is_left(server.dir()).iter().all(|name| name.starts_with(&stuck)));

    // A restart looks for what its predecessor left, and finds what is still so.
    server.terminate();
    server.boot();
    while left_count(&server).await != "1" {
        tokio::task::yield_now().await;
    }
    assert!(mount.take_away());
    server.terminate();
    server.boot();
    while !what_is_left(server.dir()).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(left_count(&server).await, "0");
}
