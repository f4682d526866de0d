//! SIGINT and SIGTERM: the first one ends what is under way in good order, the second one at once.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::exit::Exit;

/// Hears of the first signal.
pub struct Signals(watch::Receiver<bool>);

impl Signals {
    /// From now on signals do not end the process by themselves.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn listen() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if sender.send_replace(true) {
                    std::process::exit(i32::from(Exit::Interrupted.code()));
                }
            }
        });
        Ok(Signals(receiver))
    }

    /// Resolves at the first signal.
    pub async fn first(&mut self) {
        if self.0.wait_for(|came| *came).await.is_err() {
            // The listening task lives as long as the runtime: without it there are no signals to come.
            std::future::pending::<()>().await;
        }
    }
}
