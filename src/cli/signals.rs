//! SIGINT, SIGTERM and SIGHUP: the first one ends what is under way in good order. A second SIGINT, which is a person's,
//! ends it at once.
//!
//! A second SIGTERM or SIGHUP, and either of them beside a SIGINT, says nothing new: CI systems send several at once, and a
//! shell sends SIGHUP again when its terminal is closed. In a CI the end of the process that started us says the same as a
//! SIGTERM, unless SIGHUP is ignored, by which `nohup` asks us to outlive it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::select_all;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    exit::{Exit, Failure},
    parent::Parent,
    screen::print,
};
use crate::exec::process::inherited::is_ignored;

/// What the signals so far ask for, in rising order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// None came.
    #[default]
    Nothing,
    /// To end in good order.
    Stop,
    /// To end at once.
    StopNow,
}

/// Hears of one kind of signal, unless it was ignored when this process was started: by `nohup`, `trap ''`, or a shell
/// that keeps Ctrl-C from its background jobs. Then it stays ignored.
struct Listener(Option<Signal>);

impl Listener {
    fn new(kind: SignalKind) -> io::Result<Self> {
        if is_ignored(kind.as_raw_value()) { Ok(Listener(None)) } else { signal(kind).map(Some).map(Listener) }
    }

    async fn heard(&mut self) {
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

/// Signals that mean nothing to this process, and something to its command.
pub struct PassedOn(Vec<(rustix::process::Signal, Listener)>);

impl PassedOn {
    /// What `protect` passes on.
    pub const BY_PROTECT: [SignalKind; 4] =
        [SignalKind::terminate(), SignalKind::hangup(), SignalKind::user_defined1(), SignalKind::user_defined2()];
    /// What `run` passes on.
    pub const BY_RUN: [SignalKind; 4] =
        [SignalKind::quit(), SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()];

    /// From now on these do not end the process.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn listen(kinds: &[SignalKind]) -> io::Result<Self> {
        let listener = |kind: &SignalKind| {
            let signal =
                rustix::process::Signal::from_named_raw(kind.as_raw_value()).ok_or(io::ErrorKind::InvalidInput)?;
            Ok((signal, Listener::new(*kind)?))
        };
        kinds.iter().map(listener).collect::<io::Result<_>>().map(PassedOn)
    }

    /// The next one that came.
    pub async fn next(&mut self) -> rustix::process::Signal {
        let heard = self.0.iter_mut().map(|(signal, listener)| {
            Box::pin(async move {
                listener.heard().await;
                *signal
            })
        });
        select_all(heard).await.0
    }
}

/// Hears of signals.
pub struct Signals {
    asked: watch::Receiver<Asked>,
    began_with_interrupt: Arc<AtomicBool>,
    owns_command: Arc<AtomicBool>,
}

impl Signals {
    /// From now on signals do not end the process by themselves.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn listen() -> Result<Self, Failure> {
        Signals::and_of(Parent::Unknown, true)
    }

    /// The same for a service, to which SIGHUP says something else.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn of_a_service() -> Result<Self, Failure> {
        Signals::and_of(Parent::Unknown, false)
    }

    /// The same for what a CI job waits for: in a CI it is over when the process that started us has ended.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub fn of_a_job(in_ci: bool) -> Result<Self, Failure> {
        let is_bound = in_ci && !is_ignored(SignalKind::hangup().as_raw_value());
        Signals::and_of(if is_bound { Parent::watch() } else { Parent::Unknown }, true)
    }

    fn and_of(parent: Parent, hang_up_stops: bool) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Fault, format!("signals cannot be listened for: {error}"));
        let mut interrupt = Listener::new(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = Listener::new(SignalKind::terminate()).map_err(failed)?;
        let mut hang_up = match hang_up_stops {
            true => Listener::new(SignalKind::hangup()).map_err(failed)?,
            false => Listener(None),
        };
        let (sender, asked) = watch::channel(Asked::Nothing);
        let owns_command = Arc::new(AtomicBool::new(false));
        let owned = Arc::clone(&owns_command);
        let began_with_interrupt = Arc::new(AtomicBool::new(false));
        let began = Arc::clone(&began_with_interrupt);
        tokio::spawn(async move {
            let mut was_interrupted = false;
            let mut has_parent = true;
            loop {
                let is_interrupt = tokio::select! {
                    () = interrupt.heard() => true,
                    () = terminate.heard() => false,
                    () = hang_up.heard() => false,
                    () = parent.ended(), if has_parent => {
                        has_parent = false;
                        false
                    }
                };
                let asked = if is_interrupt && was_interrupted { Asked::StopNow } else { Asked::Stop };
                was_interrupted |= is_interrupt;
                if *sender.borrow() == Asked::Nothing {
                    began.store(is_interrupt, Ordering::Relaxed);
                }
                sender.send_modify(|before| *before = asked.max(*before));
                if asked == Asked::StopNow && !owned.load(Ordering::Relaxed) {
                    print::erase_line();
                    std::process::exit(i32::from(Exit::Interrupted.code()));
                }
            }
        });
        Ok(Signals { asked, began_with_interrupt, owns_command })
    }

    /// From now on a second SIGINT does not end the process either: there is a command of ours to be ended first.
    pub fn own_command(&self) {
        self.owns_command.store(true, Ordering::Relaxed);
    }

    /// Whether the first signal was a SIGINT.
    pub fn began_with_interrupt(&self) -> bool {
        self.began_with_interrupt.load(Ordering::Relaxed)
    }

    /// Resolves at the first signal.
    pub async fn first(&mut self) {
        self.more_than(Asked::Nothing).await;
    }

    /// Resolves once more is asked for than this, with what that is.
    pub async fn more_than(&mut self, known: Asked) -> Asked {
        match self.asked.wait_for(|asked| *asked > known).await {
            Ok(asked) => *asked,
            // The listening task lives as long as the runtime: without it there are no signals to come.
            Err(_) => std::future::pending().await,
        }
    }
}
