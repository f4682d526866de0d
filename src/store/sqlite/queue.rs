//! The end of a queue, the same for the writer's and the readers' queues.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{Receiver, Sender, error::TrySendError};

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

/// The same as `blocking_recv_many`, but waits for at most this long.
pub(super) fn receive_within<T>(
    requests: &mut Receiver<T>,
    taken: &mut Vec<T>,
    limit: usize,
    patience: Duration,
) -> Option<usize> {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let until = Instant::now() + patience;
    loop {
        if let Poll::Ready(count) = requests.poll_recv_many(&mut Context::from_waker(&waker), taken, limit) {
            return Some(count);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}
