//! The threads that read, each with a connection of its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    fault::store_error,
    open,
    queue::{closed, send_blocking},
};
use crate::{health::or_end_process, store::StoreError};

/// How many threads read: one that answers while another walks a long answer. More would only compete for the cores.
const READER_COUNT: usize = 2;

/// How many questions may wait for a reader: as many as a thousand woken watchers ask at once. The next one waits for
/// room, so that nothing is lost and memory stays bounded.
const QUEUE_LIMIT: usize = 1024;

/// `None` ends the reader that takes it.
type Question = Option<Box<dyn FnOnce(&Connection) + Send>>;

/// The pool.
pub(super) struct Readers {
    queue: Mutex<Option<mpsc::Sender<Question>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    /// Starts the threads. While another thread has `pause` to itself, none of them reads.
    pub(super) fn start(path: &Path, pause: Arc<RwLock<()>>) -> Result<Self, StoreError> {
        let (queue, questions) = mpsc::channel::<Question>(QUEUE_LIMIT);
        let questions = Arc::new(Mutex::new(questions));
        let mut threads = Vec::new();
        for number in 1..=READER_COUNT {
            let db = open::reader_connection(path)?;
            let (questions, pause) = (Arc::clone(&questions), Arc::clone(&pause));
            let thread = thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || or_end_process("store-reader", || answer(&db, &questions, &pause)));
            threads.push(thread.map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))?);
        }
        Ok(Readers { queue: Mutex::new(Some(queue)), threads: Mutex::new(threads) })
    }

    /// Lets one of the threads answer `question`.
    pub(super) fn read<T, F>(&self, question: F) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let question: Question = Some(Box::new(move |db| {
            // The caller may be gone.
            let _ = answer.send(question(db).map_err(|error| store_error(db, &error)));
        }));
        async move {
            queue.ok_or_else(closed)?.send(question).await.map_err(|_| closed())?;
            let unanswered = |_| StoreError::Unavailable("the store could not answer".to_owned());
            answered.await.map_err(unanswered)?
        }
    }

    /// Answers the questions that are queued, and ends.
    pub(super) fn stop(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(queue) = queue {
            (0..READER_COUNT).for_each(|_| send_blocking(&queue, || None));
        }
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reader of the store ended by a panic");
            }
        }
    }
}

fn answer(db: &Connection, questions: &Mutex<mpsc::Receiver<Question>>, pause: &RwLock<()>) {
    loop {
        // One reader waits in the queue, the others for their turn to do so.
        let question = questions.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        match question {
            // The caller is told that there is no answer; the other callers are answered all the same.
            Some(Some(question)) => {
                let _reading = pause.read().unwrap_or_else(PoisonError::into_inner);
                if catch_unwind(AssertUnwindSafe(|| question(db))).is_err() {
                    tracing::error!("a question to the store panicked");
                }
            }
            Some(None) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn questions_that_panic_cost_only_whoever_asks_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("readers.db");
        open::make(&path).unwrap();
        let _writer = open::writer_connection(&path).unwrap();
        let readers = Readers::start(&path, Arc::default()).unwrap();
        for _ in 0..=READER_COUNT {
            let failed = readers.read(|_| -> rusqlite::Result<()> { panic!("on purpose") }).await;
            assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
        }
        let one: i64 = readers.read(|db| db.query_row("SELECT 1", [], |row| row.get(0))).await.unwrap();
        assert_eq!(one, 1);
        readers.stop();
    }
}
