//! The example in `examples/release-dir`, as it is in the repository, run by the executor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use singletrack::{
    config::{Config, PhaseAction, Pipeline},
    exec::{self, FailureCause, Job, ShimProgram, Verdict},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/release-dir")
}

/// A machine that the example deploys to: its release root, and a web server for what is current.
struct Machine {
    root: TempDir,
    pipeline: Pipeline,
}

impl Machine {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for site in ["site", "site-broken"] {
            std::fs::create_dir(root.path().join(site)).unwrap();
            for file in std::fs::read_dir(example().join(site)).unwrap().map(Result::unwrap) {
                std::fs::copy(file.path(), root.path().join(site).join(file.file_name())).unwrap();
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/version.txt", listener.local_addr().unwrap());
        let version = root.path().join("current/version.txt");
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let _ = connection.read(&mut [0; 1024]).await;
                let status = if version.exists() { "200 OK" } else { "404 Not Found" };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        });
        let config = Config::load(Some(&example().join("singletrack.toml"))).unwrap_or_else(|error| panic!("{error}"));
        let mut pipeline = config.projects[&"site".parse().unwrap()].pipelines["deploy"].clone();
        // What the README's first shell exports, and a port and patience that suit a test.
        let export = format!("RELEASE_ROOT='{}'\n", root.path().display());
        for phase in &mut pipeline.phases {
            phase.rollback = phase.rollback.as_ref().map(|script| format!("{export}{script}"));
            match &mut phase.action {
                PhaseAction::Run(script) => script.insert_str(0, &export),
                PhaseAction::Check(check) => {
                    check.url.clone_from(&url);
                    check.timeout = Duration::from_millis(300);
                    check.interval = Duration::from_millis(20);
                }
            }
        }
        Machine { root, pipeline }
    }

    async fn deploy(&self, id: &str, source: &str) -> Verdict {
        self.run(id, BTreeMap::from([("source".into(), source.into())]), None).await
    }

    async fn run(&self, id: &str, inputs: BTreeMap<String, String>, artifact: Option<PathBuf>) -> Verdict {
        let job = Job {
            deployment_id: id.into(),
            deployment_number: Some(17),
            project: "site".into(),
            pipeline_name: "deploy".into(),
            pipeline: self.pipeline.clone(),
            ref_name: None,
            commit: None,
            fencing_token: 1,
            pass_env: singletrack::config::PassEnv::default(),
            inputs,
            secret_inputs: Default::default(),
            workspace: self.root.path().join("work").join(id),
            artifact: artifact.map(singletrack::exec::Artifact::File),
            unpack_limits: singletrack::exec::archive::UnpackLimits::default(),
            grace: Duration::from_secs(30),
            kill_budget: Duration::from_secs(10),
            server_url: None,
            shim: ShimProgram(PathBuf::from(env!("CARGO_BIN_EXE_singletrack"))),
            lease_deadline: None,
        };
        let (_stop, stopped) = watch::channel(None);
        let (sender, mut reports) = mpsc::channel(64);
        let drain = tokio::spawn(async move { while reports.recv().await.is_some() {} });
        let verdict = exec::run(job, stopped, sender).await;
        drain.await.unwrap();
        verdict.unwrap()
    }

    fn current(&self) -> Option<PathBuf> {
        std::fs::read_link(self.root.path().join("current")).ok()
    }

    fn releases(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path().join("releases")).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn deployed(id: &str) -> Verdict {
    Verdict::Succeeded { outputs: BTreeMap::from([("release".into(), id.into())]) }
}

#[tokio::test]
async fn the_release_directory_example_deploys_rolls_back_and_prunes() {
    let machine = Machine::new().await;

    let first_fails = machine.deploy("d0", "site-broken").await;
    assert!(matches!(first_fails, Verdict::Failed { cause: FailureCause::VerifyFailed, .. }), "{first_fails:?}");
    assert_eq!((machine.current(), machine.releases()), (None, Vec::new()), "there was no release to go back to");

    assert_eq!(machine.deploy("d1", "site").await, deployed("d1"));
    assert_eq!(machine.current(), Some("releases/d1".into()));

    let fails = machine.deploy("d2", "site-broken").await;
    assert!(matches!(fails, Verdict::Failed { cause: FailureCause::VerifyFailed, .. }), "{fails:?}");
    assert_eq!(machine.current(), Some("releases/d1".into()), "it was not swapped back");
    assert_eq!(machine.releases(), ["d1"]);

    let outside = machine.deploy("d3", "../etc").await;
    assert!(matches!(outside, Verdict::Failed { cause: FailureCause::PhaseFailed, .. }), "{outside:?}");

    for number in 4..=9 {
        let id = format!("d{number}");
        assert_eq!(machine.deploy(&id, "site").await, deployed(&id));
    }
    assert_eq!(machine.releases(), ["d5", "d6", "d7", "d8", "d9"]);
    assert_eq!(machine.current(), Some("releases/d9".into()));
}

#[tokio::test]
async fn the_release_directory_example_takes_a_tarball() {
    let machine = Machine::new().await;
    let root = machine.root.path();
    let tar = std::process::Command::new("tar")
        .arg("-czf")
        .arg(root.join("build.tar.gz"))
        .arg("-C")
        .arg(example().join("site"))
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    assert_eq!(machine.deploy("d1", "build.tar.gz").await, deployed("d1"));
    assert!(root.join("current/index.html").exists());
}

#[tokio::test]
async fn the_release_directory_example_takes_an_artifact() {
    let machine = Machine::new().await;
    let mut packed =
        singletrack::exec::archive::pack(&example().join("site"), singletrack::exec::archive::PackOptions::default())
            .unwrap();
    let artifact = machine.root.path().join("artifact");
    std::io::copy(&mut packed.file, &mut std::fs::File::create(&artifact).unwrap()).unwrap();
    assert_eq!(machine.run("d1", BTreeMap::new(), Some(artifact)).await, deployed("d1"));
    assert!(machine.root.path().join("current/index.html").exists());
}
