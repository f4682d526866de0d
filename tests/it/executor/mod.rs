//! The executor with real processes. Tests wait for what commands print or do, never for time to pass.

mod checks;
mod masks;
mod output;
mod phases;
mod shim;
mod stopping;
mod stuck;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use singletrack::{
    clock::BootInstant,
    config::{Config, Pipeline},
    exec::{self, Job, PhaseState, Report, ShimProgram, Stop, Verdict},
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Far longer than anything here takes: a test that hangs fails with a message instead.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pipeline that is about to run, with limits that no test reaches unless it sets them.
struct Trial {
    directory: TempDir,
    pipeline: String,
    job: Job,
}

/// A pipeline that runs.
struct Running {
    directory: TempDir,
    stop: watch::Sender<Option<Stop>>,
    reports: mpsc::Receiver<Report>,
    seen: Vec<Report>,
    verdict: JoinHandle<Option<Verdict>>,
    fifos: Vec<std::fs::File>,
}

/// A pipeline that has run: its verdict and all it reported.
struct Ended {
    directory: TempDir,
    verdict: Option<Verdict>,
    reports: Vec<Report>,
}

impl Trial {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Processes are told apart by it, so that no two tests may have the same.
        let deployment_id = singletrack::model::DeploymentId::generate().to_string();
        let job = Job {
            deployment_number: Some(17),
            workspace: directory.path().join("work").join(&deployment_id),
            deployment_id,
            project: "web".into(),
            pipeline_name: "deploy".into(),
            pipeline: Pipeline {
                timeout: PATIENCE * 2,
                is_timeout_given: false,
                stall_timeout: None,
                phases: Vec::new(),
            },
            ref_name: Some("main".into()),
            commit: Some("3f2a".into()),
            fencing_token: 7,
            pass_env: singletrack::config::PassEnv::default(),
            inputs: BTreeMap::from([("dir".into(), directory.path().display().to_string())]),
            secret_inputs: Default::default(),
            artifact: None,
            unpack_limits: singletrack::exec::archive::UnpackLimits::default(),
            grace: PATIENCE * 2,
            kill_budget: PATIENCE * 2,
            server_url: None,
            shim: ShimProgram(PathBuf::from(env!("CARGO_BIN_EXE_singletrack"))),
            lease_deadline: None,
        };
        Trial { directory, pipeline: String::new(), job }
    }

    /// Sets keys of the pipeline itself.
    fn pipeline(mut self, keys: &str) -> Self {
        self.pipeline = format!("{keys}\n{}", self.pipeline);
        self
    }

    /// Adds a phase that runs a script.
    fn phase(self, name: &str, script: &str) -> Self {
        self.phase_with(name, &format!("run = '''\n{script}\n'''"))
    }

    /// Adds a phase from its keys.
    fn phase_with(mut self, name: &str, keys: &str) -> Self {
        self.pipeline += &format!("[[projects.web.pipelines.deploy.phases]]\nname = \"{name}\"\n{keys}\n");
        self
    }

    /// Makes a pipe that a command can wait on: `$INPUT_DIR/NAME`.
    fn with_fifo(self, name: &str) -> Self {
        let path = self.directory.path().join(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        self
    }

    fn grace(mut self, grace: Duration) -> Self {
        self.job.grace = grace;
        self
    }

    fn input(mut self, name: &str, value: &str) -> Self {
        self.job.inputs.insert(name.into(), value.into());
        self
    }

    fn lease(mut self, deadline: watch::Receiver<BootInstant>, kill_budget: Duration) -> Self {
        self.job.lease_deadline = Some(deadline);
        self.job.kill_budget = kill_budget;
        self
    }

    /// The job, as the configuration would make it.
    fn into_job(mut self) -> (TempDir, Job) {
        let text = format!("[projects.web.pipelines.deploy]\n{}", self.pipeline);
        let mut config = Config::parse(&text, Path::new("trial.toml")).unwrap_or_else(|error| panic!("{error}"));
        let mut project = config.projects.remove(&"web".parse().unwrap()).unwrap();
        self.job.pipeline = project.pipelines.remove("deploy").unwrap();
        (self.directory, self.job)
    }

    fn start(self) -> Running {
        self.start_with_room_for(64)
    }

    /// Starts it with a channel that holds so many reports.
    fn start_with_room_for(self, report_limit: usize) -> Running {
        let (directory, job) = self.into_job();
        let (stop, stopped) = watch::channel(None);
        let (sender, reports) = mpsc::channel(report_limit);
        let verdict = tokio::spawn(exec::run(job, stopped, sender));
        Running { directory, stop, reports, seen: Vec::new(), verdict, fifos: Vec::new() }
    }

    async fn run(self) -> Ended {
        self.start().end().await
    }
}

impl Running {
    /// Takes reports until one fits.
    async fn until(&mut self, what: &str, mut fits: impl FnMut(&Report) -> bool) {
        let search = async {
            while let Some(report) = self.reports.recv().await {
                self.seen.push(report);
                if self.seen.last().is_some_and(&mut fits) {
                    return;
                }
            }
            panic!("it ended without {what}");
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        assert!(found.is_ok(), "no {what} came, only {:#?}", self.seen);
    }

    /// Takes reports until a line that begins so; answers the rest of that line.
    async fn line(&mut self, prefix: &str) -> String {
        let mut rest = None;
        self.until(&format!("line {prefix:?}"), |report| {
            rest = log_lines(report).iter().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
            rest.is_some()
        })
        .await;
        rest.unwrap()
    }

    /// Lets a command go on that reads from the pipe, now or later: with both ends open here, neither does opening
    /// it wait nor is anything in it lost.
    fn go(&mut self, fifo: &str) {
        let path = self.directory.path().join(fifo);
        let mut ends = std::fs::File::options().read(true).write(true).open(path).unwrap();
        ends.write_all(b"\n").unwrap();
        self.fifos.push(ends);
    }

    fn stop(&self, stop: Stop) {
        self.stop.send(Some(stop)).unwrap();
    }

    /// Waits for the verdict and takes the last reports.
    async fn end(mut self) -> Ended {
        let all = async {
            while let Some(report) = self.reports.recv().await {
                self.seen.push(report);
            }
            self.verdict.await.unwrap()
        };
        let verdict = tokio::time::timeout(PATIENCE, all).await.expect("the pipeline never ended");
        let work = self.directory.path().join("work");
        let left = std::fs::read_dir(&work).map(|entries| entries.count()).unwrap_or(0);
        assert_eq!(left, 0, "something was left in the work directory");
        Ended { directory: self.directory, verdict, reports: self.seen }
    }
}

impl Ended {
    /// Each change of a phase as `name:State`.
    fn phases(&self) -> Vec<String> {
        let changes = self.reports.iter().filter_map(|report| match report {
            Report::Phase { name, state, .. } => Some(format!("{name}:{state:?}")),
            _ => None,
        });
        changes.collect()
    }

    fn lines(&self) -> Vec<String> {
        self.reports.iter().flat_map(log_lines).cloned().collect()
    }

    fn percents(&self) -> Vec<u8> {
        let percents = self.reports.iter().filter_map(|report| match report {
            Report::Progress { progress, .. } => *progress,
            _ => None,
        });
        percents.collect()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }
}

fn log_lines(report: &Report) -> &[String] {
    match report {
        Report::Log { lines, .. } => lines,
        _ => &[],
    }
}

fn is_phase(report: &Report, wanted: &str, state: PhaseState) -> bool {
    matches!(report, Report::Phase { name, state: is, .. } if name == wanted && *is == state)
}

/// Whether a process runs; one that ended and only waits to be collected does not.
fn runs(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().next());
    !matches!(state, Some("Z" | "X"))
}

/// The failure's code and message.
fn failure(verdict: &Option<Verdict>) -> (exec::FailureCause, &str) {
    match verdict {
        Some(Verdict::Failed { cause, message, .. }) => (*cause, message),
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn parent_of(pid: &str) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

/// The shim of the command with this pid.
fn shim_of(command: &str) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(parent_of(command).parse().unwrap()).unwrap()
}

/// Waits until a phase has printed a line `<prefix>PID` with each of these prefixes, of processes that run.
async fn pids_of<const COUNT: usize>(running: &mut Running, prefixes: [&str; COUNT]) -> [String; COUNT] {
    let mut pids = [const { String::new() }; COUNT];
    running
        .until("all pids", |report| {
            for line in log_lines(report) {
                if let Some(slot) = prefixes.iter().position(|prefix| line.starts_with(prefix)) {
                    pids[slot] = line.rsplit(' ').next().unwrap().to_owned();
                }
            }
            pids.iter().all(|pid| !pid.is_empty())
        })
        .await;
    assert!(pids.iter().all(|pid| runs(pid)), "not all of {pids:?} run");
    pids
}

fn assert_gone(pids: &[String]) {
    let left: Vec<&String> = pids.iter().filter(|pid| runs(pid)).collect();
    assert!(left.is_empty(), "still running: {left:?}");
}
