//! Durable jobs by Singletrack: deployments that are submitted, claimed by workers over the lease API, and finished.

use anyhow::{Result, bail};

use crate::{
    server::Server,
    subject::{JobLoad, JobsDone},
};

pub async fn run(_server: &Server, _load: JobLoad) -> Result<JobsDone> {
    bail!("later")
}
