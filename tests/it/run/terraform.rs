//! The example in `examples/run-terraform`, as it is in the repository, cancelled in the middle of an apply.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use super::{command, ended, text};
use crate::harness::{SINGLETRACK, TestServer};

fn has_terraform() -> bool {
    Command::new("terraform").arg("version").output().is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn an_apply_that_is_cancelled_leaves_a_state_to_go_on_from() {
    if !has_terraform() {
        eprintln!("skipped: there is no terraform on this machine");
        return;
    }
    let server = TestServer::start("");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/run-terraform");
    for name in ["main.tf", "deploy.sh"] {
        fs::copy(example.join(name), server.path(name)).unwrap();
    }
    fs::create_dir(server.path("site")).unwrap();
    let gate = File::create(server.path("site/gate")).unwrap();
    flock(&gate, FlockOperation::LockExclusive).unwrap();

    let bin = Path::new(SINGLETRACK).parent().unwrap().to_owned();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())))
        .unwrap();
    let deploy = || {
        let mut run = command(&server, &[], &["./deploy.sh"]);
        run.current_dir(server.dir()).env("PATH", &path).env("HOME", server.dir());
        run.env("TF_VAR_site", server.path("site")).env("CHECKPOINT_DISABLE", "1").stdin(Stdio::null());
        run
    };
    let applying = deploy().spawn().unwrap();
    let id = loop {
        // The deployment is there before Terraform is; its second step is under way once its output says so.
        let project = server.get("/v1/projects/web").await;
        if let Some(id) = project.body["holder"]["id"].as_str() {
            break id.to_owned();
        }
        tokio::task::yield_now().await;
    };
    let begun = |line: &serde_json::Value| line.as_str().unwrap().starts_with("terraform_data.second (local-exec)");
    server.event(&id, |event| event["lines"].as_array().is_some_and(|lines| lines.iter().any(begun))).await;
    server.cancel(&id, json!({})).await;
    let output = applying.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(122), "{}", text(&output.stdout));
    assert!(!server.path("site/second").exists());

    flock(&gate, FlockOperation::Unlock).unwrap();
    let again = ended(deploy());
    assert!(again.status.success(), "{}{}", text(&again.stdout), text(&again.stderr));
    assert!(text(&again.stdout).contains("Resources: 1 added, 0 changed, 1 destroyed"), "{}", text(&again.stdout));
    assert!(server.path("site/second").exists());
}
