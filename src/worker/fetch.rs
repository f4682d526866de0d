//! Brings an artifact from the server's storage to the executor, which unpacks it.

use std::{path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::sleep;

use crate::{
    artifacts::{Depot, DepotError},
    exec::Fetch,
    model::Digest,
    store::StoreError,
};

/// How long to wait before the depot is asked again after it did not answer.
const DEPOT_PAUSE: Duration = Duration::from_secs(1);

/// An artifact that the server keeps.
#[derive(Debug)]
pub(super) struct InDepot {
    pub depot: Depot,
    pub digest: Digest,
}

impl Fetch for InDepot {
    fn fetch(&self) -> BoxFuture<'_, Result<PathBuf, String>> {
        Box::pin(async {
            loop {
                match self.depot.file(&self.digest).await {
                    Ok(Some(file)) => return Ok(file),
                    Ok(None) => return Err("the artifact is not on the server any more".to_owned()),
                    Err(DepotError::Store(StoreError::Unavailable(why))) => {
                        tracing::warn!(artifact = %self.digest, why, "an artifact cannot be fetched; trying again");
                        sleep(DEPOT_PAUSE).await;
                    }
                    Err(error) => return Err(format!("the artifact cannot be downloaded: {error}")),
                }
            }
        })
    }
}
