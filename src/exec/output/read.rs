//! Reads a phase's output. Reading waits only for the command itself.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use super::{phase::PhaseOutput, stream_log::StreamLog};
use crate::exec::report::Stream;

/// How long the beginning of a line waits for its end before it is shown as it is.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

impl PhaseOutput {
    /// Reads one stream to its end.
    pub async fn read(self, stream: Stream, mut pipe: impl AsyncRead + Unpin) {
        let heard_at = Arc::clone(&self.heard_at);
        let mut log = StreamLog::new(self, stream);
        // As many bytes as a pipe holds, so that a flood is read in few calls.
        let mut chunk = vec![0; 64 * 1024];
        let mut flush_at = None;
        loop {
            let due = async {
                match flush_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let count = tokio::select! {
                // Read data first, because its end may be there already.
                biased;
                read = pipe.read(&mut chunk) => read,
                () = due => {
                    log.flush();
                    flush_at = None;
                    continue;
                }
            };
            let Ok(count @ 1..) = count else { break };
            *heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let line_ended = log.push(&chunk[..count]);
            let waits_since_before = flush_at.filter(|_| !line_ended);
            flush_at = log.is_waiting().then(|| waits_since_before.unwrap_or(Instant::now() + FLUSH_AFTER));
        }
        log.finish();
    }
}
