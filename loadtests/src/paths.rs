//! The hot paths. `counts` counts their instructions, and `benches/hot_paths.rs` measures their time.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use singletrack::{
    model::{
        Command, Deployment, DeploymentId, LeaseHolder, LineLoad, Load, Loaded, Policy, ProjectName, SecretHash, Slot,
        Verdict, deployment::Spec, lifecycle::Entry,
    },
    store::{Store as _, sqlite::SqliteStore, transact},
    wire,
};

/// What is decided from a deployment's submit to its end, by itself.
pub fn decide() -> Result<Deployment> {
    let name: ProjectName = "web".parse()?;
    let mut slot = Slot::of(Loaded::nothing(&name), Timestamp::UNIX_EPOCH, &Policy::default());
    let id = pass(&mut slot, &name)?;
    slot.deployment(id).cloned().context("it is there")
}

/// A deployment as clients see it.
pub fn json(deployment: &Deployment) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&wire::Deployment::of(deployment, 0))?)
}

/// A store in a folder that goes with it.
pub struct OwnStore {
    store: Arc<SqliteStore>,
    name: ProjectName,
    _folder: tempfile::TempDir,
}

impl OwnStore {
    pub fn open() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = Arc::new(SqliteStore::open(&folder.path().join("counted.db"), Arc::new(|_, _| {}))?);
        Ok(OwnStore { store, name: "web".parse()?, _folder: folder })
    }

    /// A transaction with a deployment from its submit to its end.
    pub async fn pass(&self) -> Result<()> {
        let (load, project) = (Load { line: LineLoad::Head, ..Load::default() }, self.name.clone());
        let passed = transact(&*self.store, self.name.clone(), load, move |loaded| {
            let mut slot = Slot::of(loaded, Timestamp::UNIX_EPOCH, &Policy::default());
            let passed = pass(&mut slot, &project);
            (slot.into_changes(), passed)
        });
        passed.await?.map(|_| ())
    }

    pub async fn close(self) {
        self.store.shut_down().await;
    }
}

fn spec() -> Spec {
    Spec {
        pipeline: "deploy".to_owned(),
        ref_name: Some("main".to_owned()),
        commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        message: Some("Let the checkout tell what a voucher is worth".to_owned()),
        actor: Some("alice".to_owned()),
        ..Spec::default()
    }
}

/// A deployment from its submit to its end.
fn pass(slot: &mut Slot, name: &ProjectName) -> Result<DeploymentId> {
    let (id, secret) = (DeploymentId::generate(), SecretHash([7; 32]));
    slot.admit(id, name.clone(), spec(), Entry::Ready);
    let claim = Command::Claim { secret, ttl: Duration::from_secs(60), holder: LeaseHolder::worker("counted") };
    let finish = Command::Finish { secret, verdict: Verdict::Succeeded { outputs: Default::default() } };
    for command in [claim, finish] {
        if let Err(refusal) = slot.step(id, command) {
            bail!("it was refused: {refusal:?}");
        }
    }
    Ok(id)
}
