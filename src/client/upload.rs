//! Uploads an artifact. After an interruption the upload continues where it stopped.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Body, Method, RequestBuilder, StatusCode, Url,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE},
};

use super::{
    calls::{Connection, Fault},
    transport::{Attempt, Transport, code_of, refused},
    trouble::Trouble,
};
use crate::{
    exec::archive::Packed,
    wire::{ErrorCode, OFFSET_HEADER},
};

/// How many bytes are read and sent at a time.
const PIECE_BYTES: usize = 64 << 10;
/// An upload without progress for this long is started again. The limit is long, because after the last byte the server
/// waits for its disk.
const STALL_LIMIT: Duration = Duration::from_secs(90);
/// How often the progress is read.
const LOOK: Duration = Duration::from_millis(200);
/// How often the server is asked whether another client's upload of the same artifact is done.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// How often the upload may arrive with another digest before the client gives up.
const MISMATCH_LIMIT: u32 = 2;

/// The progress of an upload, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The upload begins, or continues after an interruption, at this byte.
    Begins {
        /// From the artifact's begin.
        offset: u64,
    },
    /// This many bytes are sent.
    At(u64),
    /// Another client uploads the same artifact, and this client waits for that upload.
    Busy,
    /// The artifact was already on the server.
    WasThere,
    /// The artifact is on the server now.
    Done,
}

/// Uploads an artifact, unless the server has it.
///
/// # Errors
/// The server refuses the artifact, or does not answer.
pub async fn upload(connection: &Connection, packed: &Packed, tell: &dyn Fn(Progress)) -> Result<(), Fault> {
    Uploading { connection, packed, transport: connection.transport(), tell }.run().await
}

struct Uploading<'a> {
    connection: &'a Connection,
    packed: &'a Packed,
    transport: &'a Transport,
    tell: &'a dyn Fn(Progress),
}

/// The result of one check or one attempt.
enum UploadStep {
    Done,
    /// Go on at this byte.
    At(u64),
    /// Another client uploads the same artifact.
    Busy,
    /// The bytes that arrived have another digest.
    Mismatch(Fault),
    Again {
        trouble: Trouble,
        after: Option<Duration>,
    },
    Hopeless(Fault),
}

impl Uploading<'_> {
    async fn run(&self) -> Result<(), Fault> {
        let url = self.connection.url(&["v1", "artifacts", self.packed.digest.as_str()]);
        let mut retry = self.transport.retry();
        let (mut has_begun, mut is_busy, mut mismatch_count) = (false, false, 0);
        let mut step = self.look(&url).await;
        loop {
            step = match step {
                UploadStep::Done => {
                    self.transport.end_trouble();
                    (self.tell)(if has_begun { Progress::Done } else { Progress::WasThere });
                    return Ok(());
                }
                UploadStep::At(offset) => {
                    self.transport.end_trouble();
                    if !has_begun || offset > 0 {
                        (self.tell)(Progress::Begins { offset });
                    }
                    has_begun = true;
                    self.send(&url, offset).await
                }
                UploadStep::Busy => {
                    if !is_busy {
                        (self.tell)(Progress::Busy);
                    }
                    is_busy = true;
                    tokio::time::sleep(BUSY_PAUSE).await;
                    self.look(&url).await
                }
                UploadStep::Mismatch(fault) => {
                    mismatch_count += 1;
                    if mismatch_count == MISMATCH_LIMIT {
                        return Err(fault);
                    }
                    self.look(&url).await
                }
                UploadStep::Again { trouble, after } => {
                    retry.pause(trouble, after).await?;
                    self.look(&url).await
                }
                UploadStep::Hopeless(fault) => return Err(fault),
            };
            if let UploadStep::At(offset) = step
                && offset > 0
            {
                // The upload made progress, so the patience starts again.
                retry = self.transport.retry();
            }
        }
    }

    /// Asks the server whether it has the artifact, and how many of its bytes.
    async fn look(&self, url: &Url) -> UploadStep {
        let limited = |request: RequestBuilder| request.timeout(super::transport::ANSWER_LIMIT);
        let response = match self.transport.send_raw(Method::HEAD, url.clone(), limited).await {
            Ok(response) => response,
            Err(attempt) => return self.judged(attempt),
        };
        let offset = response.headers().get(OFFSET_HEADER).and_then(|offset| offset.to_str().ok()?.parse().ok());
        match (response.status(), offset) {
            (StatusCode::OK, _) => UploadStep::Done,
            // If the server has at least as many bytes as the artifact, they are not this artifact's, so start at 0.
            (StatusCode::NOT_FOUND, Some(offset)) => {
                UploadStep::At(if offset >= self.packed.bytes { 0 } else { offset })
            }
            // The reason of a refusal is in the body. An answer to HEAD has no body, so GET is sent.
            (_, _) => {
                let asking = |request: RequestBuilder| limited(request).header(ACCEPT, "application/json");
                match self.transport.send_raw(Method::GET, url.clone(), asking).await {
                    Ok(response) if response.status().is_success() => UploadStep::Done,
                    Ok(response) => self.judged(self.transport.judge(response).await),
                    Err(attempt) => self.judged(attempt),
                }
            }
        }
    }

    async fn send(&self, url: &Url, offset: u64) -> UploadStep {
        let total = self.packed.bytes;
        let sent = Arc::new(AtomicU64::new(offset));
        let body = match body(&self.packed.file, Arc::clone(&sent)) {
            Ok(body) => body,
            Err(error) => {
                let failure = format!("the packed artifact cannot be read: {error}");
                return UploadStep::Again { trouble: Trouble::broken(failure), after: None };
            }
        };
        let complete = |request: RequestBuilder| {
            let request = request.header(ACCEPT, "application/json").header(CONTENT_TYPE, "application/zstd");
            let request = request.header(CONTENT_LENGTH, total - offset).body(body);
            if offset == 0 {
                return request;
            }
            request.header(CONTENT_RANGE, format!("bytes {offset}-{}/{total}", total - 1))
        };
        let sending = async {
            match self.transport.send_raw(Method::PUT, url.clone(), complete).await {
                Ok(response) => self.judged(self.transport.judge(response).await),
                Err(attempt) => self.judged(attempt),
            }
        };
        tokio::select! {
            step = sending => step,
            () = self.watch(&sent) => UploadStep::Again { trouble: Trouble::broken("the upload makes no progress"), after: None },
        }
    }

    /// Shows the progress. Returns after `STALL_LIMIT` without progress.
    async fn watch(&self, sent: &AtomicU64) {
        let (mut last, mut still) = (u64::MAX, Duration::ZERO);
        while still < STALL_LIMIT {
            let now = sent.load(Ordering::Relaxed);
            still = if now == last { still + LOOK } else { Duration::ZERO };
            last = now;
            (self.tell)(Progress::At(now));
            tokio::time::sleep(LOOK).await;
        }
    }

    fn judged(&self, attempt: Attempt) -> UploadStep {
        match attempt {
            Attempt::Answered(answer) if answer.status.is_success() => UploadStep::Done,
            Attempt::Answered(answer) => match code_of(&answer.body) {
                Some(ErrorCode::UploadInProgress) => UploadStep::Busy,
                Some(ErrorCode::UploadOffset) => {
                    let offset = answer.body.get("offset").and_then(serde_json::Value::as_u64).unwrap_or(0);
                    UploadStep::At(if offset >= self.packed.bytes { 0 } else { offset })
                }
                Some(ErrorCode::ArtifactMismatch) => UploadStep::Mismatch(refused(answer)),
                Some(_) | None => UploadStep::Hopeless(refused(answer)),
            },
            Attempt::Again { trouble, after } => UploadStep::Again { trouble, after },
            Attempt::Strange { why, after } => UploadStep::Again { trouble: Trouble::broken(why), after },
            Attempt::Hopeless(fault) => UploadStep::Hopeless(fault),
        }
    }
}

/// A body with the file's bytes from `sent` on. `sent` grows with each piece that is read.
fn body(file: &File, sent: Arc<AtomicU64>) -> std::io::Result<Body> {
    // Each attempt reads with `read_at`, not at a shared position, because an earlier attempt may not have ended yet.
    let file = file.try_clone()?;
    let pieces = std::iter::from_fn(move || {
        let mut piece = vec![0; PIECE_BYTES];
        match file.read_at(&mut piece, sent.load(Ordering::Relaxed)) {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                sent.fetch_add(count as u64, Ordering::Relaxed);
                Some(Ok(piece))
            }
            Err(error) => Some(Err(error)),
        }
    });
    Ok(Body::wrap_stream(futures_util::stream::iter(pieces)))
}
