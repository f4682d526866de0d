//! What the executor is given: one deployment's run of a pipeline.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{archive::UnpackLimits, process::owner::ShimProgram};
use crate::{
    clock::BootInstant,
    config::{PassEnv, Pipeline},
};

/// The packed files to deploy.
#[derive(Clone, Debug)]
pub enum Artifact {
    /// A file on this machine.
    File(PathBuf),
    /// The artifact is fetched first.
    Remote(Arc<dyn Fetch>),
}

/// Brings an artifact to this machine.
pub trait Fetch: fmt::Debug + Send + Sync {
    /// The path of the fetched file. Fetching has no time limit of its own, because its caller has one.
    ///
    /// # Errors
    /// The artifact cannot be fetched; the text is for people.
    fn fetch(&self) -> BoxFuture<'_, Result<PathBuf, String>>;
}

/// One deployment's run of a pipeline.
#[derive(Clone, Debug)]
pub struct Job {
    /// The deployment's id.
    pub deployment_id: String,
    /// Its number in its project, if the server knows one.
    pub deployment_number: Option<u64>,
    /// Its project.
    pub project: String,
    /// The pipeline's name.
    pub pipeline_name: String,
    /// The pipeline to run.
    pub pipeline: Pipeline,
    /// The branch or tag, if known.
    pub ref_name: Option<String>,
    /// The commit, if known.
    pub commit: Option<String>,
    /// Grows with every claim in the project, so that commands can fence their writes with it.
    pub fencing_token: u64,
    /// Which variables of this process's environment the commands get.
    pub pass_env: PassEnv,
    /// The deployment's inputs.
    pub inputs: BTreeMap<String, String>,
    /// The names of those inputs whose values are masked in the output.
    pub secret_inputs: BTreeSet<String>,
    /// A directory that does not exist yet. It is made for the phases and removed at the end. Beside it is a lock file,
    /// see [`lock_path`].
    pub workspace: PathBuf,
    /// The artifact; it is unpacked into the workspace.
    pub artifact: Option<Artifact>,
    /// How much may be unpacked.
    pub unpack_limits: UnpackLimits,
    /// How long a command may take to stop after SIGTERM (G).
    pub grace: Duration,
    /// How long it may take when the lease ends or this process is gone (K).
    pub kill_budget: Duration,
    /// The server's address for the commands, if they may call it.
    pub server_url: Option<String>,
    /// The program that owns the commands' processes.
    pub shim: ShimProgram,
    /// When the lease ends unless renewed. If this process is stopped (SIGSTOP), the shim kills the commands by then
    /// all the same.
    pub lease_deadline: Option<watch::Receiver<BootInstant>>,
}

/// The file that stays locked as long as a command in this workspace may run; for `leftovers_gone`.
pub fn lock_path(workspace: &Path) -> PathBuf {
    let mut name = workspace.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}
