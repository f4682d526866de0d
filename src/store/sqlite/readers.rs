//! The threads that read, each with a connection of its own.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{
    fault::store_error,
    open,
    queue::{closed, send_blocking},
};
use crate::store::StoreError;

/// How many threads read: one that answers while another walks a long answer. More would only compete for the cores.
const READER_COUNT: usize = 2;

/// How many questions may wait for a reader: as many as a thousand woken watchers ask at once. The next one waits to be
/// let in, so that nothing is lost and memory stays bounded.
const QUEUE_LIMIT: usize = 1024;

/// `None` ends the reader that takes it.
type Question = Option<Box<dyn FnOnce(&Connection) + Send>>;

/// The pool.
pub(super) struct Readers {
    queue: Mutex<Option<mpsc::Sender<Question>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let (queue, questions) = mpsc::channel::<Question>(QUEUE_LIMIT);
        let questions = Arc::new(Mutex::new(questions));
        let mut threads = Vec::new();
        for number in 1..=READER_COUNT {
            let db = open::reader_connection(path)?;
            let questions = Arc::clone(&questions);
            let thread =
                thread::Builder::new().name(format!("store-reader-{number}")).spawn(move || answer(&db, &questions));
            threads.push(thread.map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))?);
        }
        Ok(Readers { queue: Mutex::new(Some(queue)), threads: Mutex::new(threads) })
    }

    /// Has one of them answer `question`.
    pub(super) fn read<T, F>(&self, question: F) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let question: Question = Some(Box::new(move |db| {
            // Who asked may be gone.
            let _ = answer.send(question(db));
        }));
        async move {
            queue.ok_or_else(closed)?.send(question).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?.map_err(|error| store_error(&error))
        }
    }

    /// Answers what was asked, and ends.
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

fn answer(db: &Connection, questions: &Mutex<mpsc::Receiver<Question>>) {
    loop {
        // One reader waits in the queue, the others for their turn to do so.
        let question = questions.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        match question {
            Some(Some(question)) => question(db),
            Some(None) | None => return,
        }
    }
}
