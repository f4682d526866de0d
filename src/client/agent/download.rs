//! The agent's download of an artifact.

use std::path::Path;

use reqwest::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::{fs::File, io::AsyncWriteExt as _};

use crate::{client::calls::Connection, model::Digest};

impl Connection {
    /// Writes an artifact into a new file and checks its digest. One attempt.
    ///
    /// # Errors
    /// Why the download failed, for people.
    pub async fn download(&self, digest: &Digest, to: &Path) -> Result<(), String> {
        let url = self.url(&["v1", "artifacts", digest.as_str()]);
        let transport = self.transport();
        let answer = transport.send_raw(Method::GET, url, |request| request).await;
        let mut answer = answer.map_err(|attempt| transport.fault_of(attempt).to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the server answers {}", answer.status()));
        }
        let unwritable = |error: std::io::Error| format!("{}: {error}", to.display());
        let mut file = File::create(to).await.map_err(unwritable)?;
        let mut hasher = Sha256::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| format!("it was cut off: {error}"))? {
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(unwritable)?;
        }
        file.flush().await.map_err(unwritable)?;
        let found = Digest::of(hasher);
        if found == *digest { Ok(()) } else { Err(format!("the content has another digest: {}", found.as_str())) }
    }
}
