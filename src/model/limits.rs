//! The time limits of leases and hand-offs. They come from the configuration, and each decision gets them as a value.

use std::time::Duration;

/// The time limits of leases and hand-offs. Letters in brackets are those that the design uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a lease lasts after the last heartbeat that was answered (L).
    pub lease: Duration,
    /// How often a worker sends a heartbeat (H), a sixth of the lease by default.
    pub heartbeat: Duration,
    /// How long before its deadline a worker that cannot renew its lease begins to stop its child (K).
    pub kill_budget: Duration,
    /// How long the reaper waits past the lease before it frees the slot (D).
    pub lock_delay: Duration,
    /// How long a cancelled command may take to stop after SIGTERM before it is killed (G).
    pub cancel_grace: Duration,
    /// How long the slot is kept for a ticket whose turn has come (T).
    pub reserve: Duration,
    /// How long a ticket lives after its client's last poll ended.
    pub attendance: Duration,
    /// How long a deployment that holds the slot may wait for a worker.
    pub unclaimed: Duration,
    /// The slow poll that stands behind every wake-up (P).
    pub fallback_poll: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            lease: Duration::from_secs(60),
            heartbeat: Duration::from_secs(10),
            kill_budget: Duration::from_secs(10),
            lock_delay: Duration::from_secs(15),
            cancel_grace: Duration::from_secs(30),
            reserve: Duration::from_secs(10),
            attendance: Duration::from_secs(45),
            unclaimed: Duration::from_secs(60),
            fallback_poll: Duration::from_secs(1),
        }
    }
}
