//! What the executor is given: one deployment's run of a pipeline.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;

use super::{archive::UnpackLimits, artifact::Artifact, process::owner::ShimProgram};
use crate::{
    clock::BootInstant,
    config::{PassEnv, Pipeline},
};

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
