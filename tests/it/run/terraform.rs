//! The example in `examples/run-terraform`, as it is in the repository, cancelled in the middle of an apply. Terraform
//! writes its state at one SIGTERM, and gives up what it is making at a second one.

use std::{
    env, fs,
    fs::File,
    path::Path,
    process::{Child, Command},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};

use super::{command, ended, text};
use crate::harness::{SINGLETRACK, TestServer};

/// Set where there is no Terraform and the tests that need it are to be left out.
const WITHOUT: &str = "SINGLETRACK_TEST_WITHOUT_TERRAFORM";

/// Whether to test with Terraform. Nothing is left out in silence.
fn has_terraform() -> bool {
    let found = Command::new("terraform").arg("version").output().is_ok_and(|output| output.status.success());
    assert!(
        found || env::var_os(WITHOUT).is_some(),
        "there is no terraform: install version 1.4 or later, or set {WITHOUT}=1 to leave these tests out"
    );
    found
}

/// An apply whose second step waits until the gate is opened.
struct Apply {
    server: TestServer,
    gate: File,
    run: Child,
    id: String,
}

impl Apply {
    /// Starts it in a run of this command, with `./deploy.sh` behind, and waits until the second step is under way.
    async fn start(wrapper: &[&str], variables: &[(&str, &str)]) -> Self {
        let server = TestServer::start("");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/run-terraform");
        for name in ["main.tf", "deploy.sh"] {
            fs::copy(example.join(name), server.path(name)).unwrap();
        }
        fs::create_dir(server.path("site")).unwrap();
        let gate = File::create(server.path("site/gate")).unwrap();
        flock(&gate, FlockOperation::LockExclusive).unwrap();
        let run = deploy(&server, wrapper).envs(variables.iter().copied()).spawn().unwrap();
        let id = loop {
            // The deployment is there before Terraform is; its second step is under way once its output says so.
            let project = server.get("/v1/projects/web").await;
            if let Some(id) = project.body["holder"]["id"].as_str() {
                break id.to_owned();
            }
            tokio::task::yield_now().await;
        };
        let begun = |line: &Value| line.as_str().unwrap().starts_with("terraform_data.second (local-exec)");
        server.event(&id, |event| event["lines"].as_array().is_some_and(|lines| lines.iter().any(begun))).await;
        Apply { server, gate, run, id }
    }

    /// Cancels it, and looks at what it leaves.
    async fn cancel_and_look(self) -> (TestServer, File) {
        self.server.cancel(&self.id, json!({})).await;
        self.look(122)
    }

    /// It ends with this code, and the resource in the making is in the state.
    fn look(self, code: i32) -> (TestServer, File) {
        let output = self.run.wait_with_output().unwrap();
        let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(!told.contains("Two interrupts received"), "{told}");
        assert!(told.contains("Gracefully shutting down"), "{told}");
        let state: Value = serde_json::from_slice(&fs::read(self.server.path("terraform.tfstate")).unwrap()).unwrap();
        let resources = state["resources"].as_array().unwrap();
        let mut names: Vec<_> = resources.iter().map(|resource| resource["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["first", "second"], "{told}\n{state}");
        assert!(!self.server.path("site/second").exists());
        (self.server, self.gate)
    }
}

fn deploy(server: &TestServer, wrapper: &[&str]) -> Command {
    let bin = Path::new(SINGLETRACK).parent().unwrap().to_owned();
    let path = env::join_paths([bin].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap()))).unwrap();
    let mut run = command(server, &[], &[wrapper, &["./deploy.sh"]].concat());
    run.current_dir(server.dir()).env("PATH", &path).env("HOME", server.dir());
    run.env("TF_VAR_site", server.path("site")).env("CHECKPOINT_DISABLE", "1");
    run
}

#[tokio::test]
async fn an_apply_that_is_cancelled_leaves_a_state_to_go_on_from() {
    if !has_terraform() {
        return;
    }
    let (server, gate) = Apply::start(&[], &[]).await.cancel_and_look().await;
    flock(&gate, FlockOperation::Unlock).unwrap();
    let again = ended(deploy(&server, &[]));
    assert!(again.status.success(), "{}{}", text(&again.stdout), text(&again.stderr));
    assert!(text(&again.stdout).contains("Resources: 1 added, 0 changed, 1 destroyed"), "{}", text(&again.stdout));
    assert!(server.path("site/second").exists());
}

#[tokio::test]
async fn an_apply_under_what_passes_signals_on_hears_one_of_a_cancel() {
    if !has_terraform() {
        return;
    }
    let nested = [SINGLETRACK, "run", "--project", "inner", "--"];
    let wrappers: [&[&str]; 6] = [
        &["timeout", "600"],
        &["tini", "-s", "--"],
        &["dumb-init"],
        &nested,
        // The shell ends at once, and leaves Terraform behind.
        &["timeout", "600", "sh", "-c", "\"$@\"; true", "sh"],
        &["sh", "-c", "timeout 600 \"$@\"; true", "sh"],
    ];
    for wrapper in wrappers {
        eprintln!("under {wrapper:?}");
        Apply::start(wrapper, &[]).await.cancel_and_look().await;
    }
}

#[tokio::test]
async fn an_apply_in_a_script_hears_of_a_cancel_when_the_script_has_ended() {
    if !has_terraform() {
        return;
    }
    Apply::start(&["sh", "-c", "\"$@\"; true", "sh"], &[]).await.cancel_and_look().await;
}

#[tokio::test]
async fn a_ci_system_that_signals_all_processes_of_a_job_finds_the_run_alone() {
    if !has_terraform() {
        return;
    }
    let marks = [
        ("JENKINS_NODE_COOKIE", "f3c1a2c8"),
        ("JENKINS_SERVER_COOKIE", "durable-8d7fbb"),
        ("BUILD_ID", "17"),
        ("RUNNER_TRACKING_ID", "github_5a0"),
    ];
    let apply = Apply::start(&["timeout", "600"], &marks).await;
    let run = Pid::from_child(&apply.run);
    for (name, value) in marks {
        assert_eq!(below_with(run, &format!("{name}={value}")), [run], "{name}");
    }
    kill_process(run, Signal::TERM).unwrap();
    apply.look(130);
}

/// The processes at and below `root` with this in their environment.
fn below_with(root: Pid, assignment: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut below = vec![root];
    while let Some(pid) = below.pop() {
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let environment = fs::read(format!("{folder}/environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|known| known == assignment.as_bytes()) {
            found.push(pid);
        }
        for task in fs::read_dir(format!("{folder}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            below.extend(children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)));
        }
    }
    found
}
