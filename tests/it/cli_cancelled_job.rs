//! A CI job that is cancelled, as its system's runner does it: which process gets which signal, through the shell in between.
//! The deployment, or the command of a `run`, is stopped before the runner kills what is left.

use std::{
    fs,
    io::{PipeReader, Read as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use crate::harness::{SINGLETRACK, TestServer};

/// To whom a runner sends its signals.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// The process that it started: the step's shell.
    Entry,
    /// The whole process group.
    Group,
}

/// How a runner starts a step's script, and how it cancels it.
struct Runner {
    name: &'static str,
    shell: &'static [&'static str],
    /// Whether the script comes by standard input, as GitLab sends it into a container.
    by_stdin: bool,
    target: Target,
    signals: &'static [Signal],
}

const RUNNERS: &[Runner] = &[
    // SIGINT to the shell alone, 7.5 s later SIGTERM to it alone, 2.5 s later SIGKILL to all.
    Runner {
        name: "GitHub Actions",
        shell: &["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"],
        by_stdin: false,
        target: Target::Entry,
        signals: &[Signal::INT, Signal::TERM],
    },
    Runner {
        name: "Azure Pipelines",
        shell: &["bash", "--noprofile", "--norc"],
        by_stdin: false,
        target: Target::Entry,
        signals: &[Signal::INT, Signal::TERM],
    },
    // The container's first process gets SIGTERM, and all are killed with it.
    Runner { name: "GitLab, docker", shell: &["sh"], by_stdin: true, target: Target::Entry, signals: &[Signal::TERM] },
    Runner { name: "GitLab, shell", shell: &["bash"], by_stdin: true, target: Target::Group, signals: &[Signal::TERM] },
    Runner {
        name: "Buildkite",
        shell: &["bash", "-e"],
        by_stdin: false,
        target: Target::Group,
        signals: &[Signal::TERM],
    },
    // Every process with the job's cookie.
    Runner { name: "Jenkins", shell: &["sh", "-xe"], by_stdin: false, target: Target::Group, signals: &[Signal::TERM] },
    Runner {
        name: "CircleCI",
        shell: &["bash", "-eo", "pipefail"],
        by_stdin: false,
        target: Target::Entry,
        signals: &[Signal::TERM],
    },
    // The terminal is closed: SIGHUP to the foreground group, and again by the shell to its jobs.
    Runner {
        name: "a closed ssh session",
        shell: &["bash"],
        by_stdin: false,
        target: Target::Group,
        signals: &[Signal::HUP, Signal::HUP],
    },
];

impl Runner {
    /// Starts a step with this script.
    fn start(&self, server: &TestServer, script: &str) -> Step {
        let path = server.path("step.sh");
        fs::write(&path, script).unwrap();
        let mut command = Command::new(self.shell[0]);
        command.args(&self.shell[1..]);
        if self.by_stdin {
            command.stdin(fs::File::open(&path).unwrap());
        } else {
            command.arg(&path).stdin(Stdio::null());
        }
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("CI", "true");
        command.env("SINGLETRACK_URL", &server.base).env("STEP_DIR", server.dir());
        let (all_ended, stderr) = std::io::pipe().unwrap();
        let log = fs::File::create(server.path("step.log")).unwrap();
        Step { child: command.stdout(log).stderr(stderr).process_group(0).spawn().unwrap(), all_ended }
    }

    /// Cancels it, but for the SIGKILL at the end.
    fn cancel(&self, step: &Step) {
        let entry = Pid::from_raw(i32::try_from(step.child.id()).unwrap()).unwrap();
        for signal in self.signals {
            match self.target {
                Target::Entry => kill_process(entry, *signal).unwrap(),
                Target::Group => kill_process_group(entry, *signal).unwrap(),
            }
        }
    }
}

/// A step under way.
struct Step {
    child: Child,
    /// Ends when the last process has ended that the step has started.
    all_ended: PipeReader,
}

impl Step {
    /// Waits until all of it has ended by itself.
    fn ended(mut self) {
        self.child.wait().unwrap();
        let mut told = String::new();
        self.all_ended.read_to_string(&mut told).unwrap();
    }
}

/// Scripts in which the command is the shell's child, and in which it takes the shell's place.
fn scripts(command: &str) -> [(&'static str, String); 2] {
    // A last command may be run without a fork by some shells, so another one follows.
    [("beside", format!("{command}\necho after\n")), ("exec", format!("exec {command}\n"))]
}

#[tokio::test]
async fn a_cancelled_job_cancels_its_deployment() {
    for runner in RUNNERS {
        for (how, script) in scripts(&format!("{SINGLETRACK} deploy --project web")) {
            let what = format!("{} ({how})", runner.name);
            let server = TestServer::gated();
            let step = runner.start(&server, &script);
            let id = started(&server).await;
            runner.cancel(&step);
            let ended = server.finished(&id).await;
            assert_eq!(ended["status"], "CANCELLED", "{what}: {}", step_log(&server));
            assert!(ended["error"]["message"].as_str().unwrap().contains("interrupted"), "{what}: {ended}");
            step.ended();
            // The slot is the next one's.
            server.open_gate();
            let next = server.accepted(json!({ "pipeline": "quick" })).await;
            assert_eq!(server.finished(&next).await["status"], "SUCCEEDED", "{what}");
        }
    }
}

#[tokio::test]
async fn a_cancelled_job_gives_up_its_place_in_line() {
    for runner in RUNNERS {
        for (how, script) in scripts(&format!("{SINGLETRACK} deploy --project web --pipeline quick")) {
            let what = format!("{} ({how})", runner.name);
            let server = TestServer::gated();
            let holder = server.at_the_gate().await;
            let step = runner.start(&server, &script);
            let waiting = loop {
                if let Some(waiting) = server.project().await["line"].as_array().unwrap().first().cloned() {
                    break waiting["id"].as_str().unwrap().to_owned();
                }
            };
            runner.cancel(&step);
            assert_eq!(server.finished(&waiting).await["status"], "CANCELLED", "{what}: {}", step_log(&server));
            step.ended();
            server.open_gate();
            assert_eq!(server.finished(&holder).await["status"], "SUCCEEDED", "{what}: the holder does not notice");
        }
    }
}

#[tokio::test]
async fn a_cancelled_job_ends_the_command_of_its_run() {
    for runner in RUNNERS {
        let command = "sh -c 'trap \"echo stopped >$STEP_DIR/stopped; exit 0\" TERM HUP INT; echo started; \
                       while :; do sleep 0.1; done'";
        for (how, script) in scripts(&format!("{SINGLETRACK} run --project other -- {command}")) {
            let what = format!("{} ({how})", runner.name);
            let server = TestServer::gated();
            let step = runner.start(&server, &script);
            let id = loop {
                let other = server.get("/v1/projects/other").await.body;
                if let Some(id) = other["holder"]["id"].as_str().filter(|_| step_log(&server).contains("started")) {
                    break id.to_owned();
                }
            };
            runner.cancel(&step);
            let ended: Value = loop {
                let path = format!("/v1/projects/other/deployments/{id}/completion?maxWaitSeconds=60");
                let answer = server.get(&path).await;
                if answer.status == 200 {
                    break answer.body;
                }
            };
            assert_eq!(ended["status"], "CANCELLED", "{what}: {}", step_log(&server));
            assert!(server.path("stopped").exists(), "{what}: the command was not asked to stop");
            step.ended();
        }
    }
}

#[tokio::test]
async fn what_nohup_starts_outlives_the_job() {
    let server = TestServer::gated();
    let script = format!("nohup {SINGLETRACK} deploy --project web &\n");
    let mut step = RUNNERS[0].start(&server, &script);
    step.child.wait().unwrap();
    let id = started(&server).await;
    server.open_gate();
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
    step.ended();
}

/// The deployment of `web` that stands at the gate.
async fn started(server: &TestServer) -> String {
    let id = loop {
        if let Some(deployment) = server.deployments().await.first() {
            break deployment["id"].as_str().unwrap().to_owned();
        }
    };
    server.event(&id, |event| event["lines"][0] == "at the gate").await;
    id
}

fn step_log(server: &TestServer) -> String {
    fs::read_to_string(server.path("step.log")).unwrap_or_default()
}
