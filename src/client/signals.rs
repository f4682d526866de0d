//! SIGINT, SIGTERM and SIGHUP: the first one ends what is under way in good order, the second one at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::exit::{Exit, Failure};

/// Hears of the first signals.
pub struct Signals {
    count: watch::Receiver<u32>,
    owns_command: Arc<AtomicBool>,
}

impl Signals {
    /// From now on signals do not end the process by themselves.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::new(Exit::Fault, format!("signals cannot be listened for: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
        let (sender, count) = watch::channel(0);
        let owns_command = Arc::new(AtomicBool::new(false));
        let owned = Arc::clone(&owns_command);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                sender.send_modify(|count| *count += 1);
                if *sender.borrow() > 1 && !owned.load(Ordering::Relaxed) {
                    std::process::exit(i32::from(Exit::Interrupted.code()));
                }
            }
        });
        Ok(Signals { count, owns_command })
    }

    /// From now on a second signal does not end the process either: there is a command of ours to be ended first.
    pub fn own_command(&self) {
        self.owns_command.store(true, Ordering::Relaxed);
    }

    /// Resolves at the first signal.
    pub async fn first(&mut self) {
        self.nth(1).await;
    }

    /// Resolves once so many signals have come.
    pub async fn nth(&mut self, number: u32) {
        if self.count.wait_for(|count| *count >= number).await.is_err() {
            // The listening task lives as long as the runtime: without it there are no signals to come.
            std::future::pending::<()>().await;
        }
    }
}
