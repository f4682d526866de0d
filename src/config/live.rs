//! The configuration at this moment. Everything reads it here at the moment of use, and a reload replaces it as a whole.
//! See decision 0067.
//!
//! ```text
//! let config = live.now();              // one consistent value for one decision
//! let mut changes = live.changes();     // a wake-up for what waits: subscribe, read, wait
//! live.reload(now)                      // reads the file again; a bad file changes nothing
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Config, ConfigError, ConfigOrigin, Reload, reload::succeed};

/// The present configuration. Clones share it.
#[derive(Clone, Debug)]
pub struct LiveConfig(Arc<LiveState>);

#[derive(Debug)]
struct LiveState {
    present: watch::Sender<Arc<Config>>,
    /// The file that a reload reads. It is locked for the whole reload, so that a later file never loses to an earlier
    /// one.
    origin: Mutex<ConfigOrigin>,
    last: Mutex<LastReload>,
}

/// The last reload, for metrics. The start counts as a successful one.
#[derive(Clone, Copy, Debug)]
pub struct LastReload {
    /// Whether it succeeded.
    pub is_ok: bool,
    /// When one succeeded last.
    pub succeeded_at: Timestamp,
}

impl LiveConfig {
    /// A configuration that was just read from this origin.
    pub fn new(config: Config, origin: ConfigOrigin, now: Timestamp) -> Self {
        LiveConfig(Arc::new(LiveState {
            present: watch::Sender::new(Arc::new(config)),
            origin: Mutex::new(origin),
            last: Mutex::new(LastReload { is_ok: true, succeeded_at: now }),
        }))
    }

    /// A configuration that no file changes.
    pub fn fixed(config: Config) -> Self {
        LiveConfig::new(config, ConfigOrigin::default(), Timestamp::UNIX_EPOCH)
    }

    /// The configuration at this moment. Take it once for one decision, because the next call may answer another one.
    pub fn now(&self) -> Arc<Config> {
        self.0.present.borrow().clone()
    }

    /// Wakes its holder when the configuration was replaced.
    pub fn changes(&self) -> watch::Receiver<Arc<Config>> {
        self.0.present.subscribe()
    }

    /// The last reload.
    pub fn last_reload(&self) -> LastReload {
        *lock(&self.0.last)
    }

    /// Reads the file again and replaces the configuration. Reads the disk, so it blocks.
    ///
    /// # Errors
    /// The file is bad, or does not fit to what runs. Then nothing has changed.
    pub fn reload(&self, now: Timestamp) -> Result<Reload, ConfigError> {
        let mut origin = lock(&self.0.origin);
        let before = self.now();
        let reloaded = origin.read().and_then(|read| {
            let (config, reload) = succeed(&before, read);
            origin.require_fit(Some(&before), &config)?;
            // The certificate in use may expire, and must not keep the rest of the file from being read.
            let new = config.tls.as_ref().filter(|tls| before.tls.as_ref() != Some(*tls));
            if let Some(why) = new.and_then(|tls| tls.outdated(now)) {
                return Err(origin.unfit(why));
            }
            Ok((config, reload))
        });
        match reloaded {
            Ok((config, reload)) => {
                self.0.present.send_if_modified(|present| {
                    let is_new = **present != config;
                    if is_new {
                        *present = Arc::new(config);
                    }
                    is_new
                });
                *lock(&self.0.last) = LastReload { is_ok: true, succeeded_at: now };
                tracing::info!(
                    projects_added = %reload.projects.added.join(", "),
                    projects_removed = %reload.projects.removed.join(", "),
                    projects_changed = %reload.projects.changed.join(", "),
                    keys_changed = %reload.keys.join(", "),
                    "the configuration was read again"
                );
                if !reload.waits_for_restart.is_empty() {
                    let keys = reload.waits_for_restart.join(", ");
                    tracing::warn!(%keys, "these keys differ from what runs and wait for a restart");
                }
                Ok(reload)
            }
            Err(error) => {
                lock(&self.0.last).is_ok = false;
                for problem in error.to_string().lines() {
                    tracing::error!("the configuration was not read again, and nothing has changed: {problem}");
                }
                Err(error)
            }
        }
    }
}

impl Default for LiveConfig {
    fn default() -> Self {
        LiveConfig::fixed(Config::default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one assignment, so a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
