//! How many uploads of each caller are under way at this server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::Identity;

/// How many uploads one token may have under way at once, so that other tokens' uploads find a place, too.
pub const UPLOADS_LIMIT: usize = 32;

/// How many uploads of each caller are under way at this server. Callers without a token count as one.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<HashMap<Arc<Identity>, usize>>);

impl Uploads {
    fn counts(&self) -> MutexGuard<'_, HashMap<Arc<Identity>, usize>> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for an upload of this token.
    pub fn take(&self, uploader: Arc<Identity>) -> Option<UploadPlace<'_>> {
        let mut counts = self.counts();
        let count = counts.entry(uploader.clone()).or_default();
        if *count >= UPLOADS_LIMIT {
            return None;
        }
        *count += 1;
        Some(UploadPlace { uploads: self, uploader })
    }
}

/// A place among the uploads of a caller, until dropped.
pub struct UploadPlace<'a> {
    uploads: &'a Uploads,
    uploader: Arc<Identity>,
}

impl Drop for UploadPlace<'_> {
    fn drop(&mut self) {
        let mut counts = self.uploads.counts();
        if let Some(count) = counts.get_mut(&self.uploader) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uploader);
            }
        }
    }
}
