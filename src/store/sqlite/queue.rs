//! The end of a queue, the same for the writer's and the readers' queues.

use std::{thread, time::Duration};

use tokio::sync::mpsc::{Sender, error::TrySendError};

use crate::store::StoreError;

/// The error once no thread serves the queue any more.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

/// Sends behind everything that is queued already; from any thread, also one of an async runtime.
pub(super) fn send_blocking<T>(queue: &Sender<T>, mut message: impl FnMut() -> T) {
    // The queue is being served, so there is room soon.
    while let Err(TrySendError::Full(_)) = queue.try_send(message()) {
        thread::sleep(Duration::from_millis(1));
    }
}
