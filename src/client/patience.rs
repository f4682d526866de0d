//! How long a call is retried, and the pauses between the attempts: decision 0005.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// How long a call is retried, in addition to the caller's deadline.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Before the server's first answer. The time is short, because most likely the address is wrong.
    pub first: Duration,
    /// After the server has answered once: most likely the server is being restarted. `None`: only the caller's
    /// deadline counts.
    pub later: Option<Duration>,
}

impl Patience {
    /// For a caller that waits for a deployment with its own deadline.
    pub const DEADLINE: Patience = Patience { first: Duration::from_secs(15), later: None };
    /// For a question that a person or a script asks: long enough for a restart.
    pub const QUESTION: Patience = Patience { first: Duration::from_secs(3), later: Some(Duration::from_secs(15)) };
    /// For `logs --follow`, which has no deadline.
    pub const WATCH: Patience = Patience { first: Duration::from_secs(3), later: Some(Duration::from_secs(300)) };

    /// The same for a caller that gives up after `timeout` anyway.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Patience {
        Patience { first: self.first.min(timeout), later: self.later }
    }
}

/// The pauses between attempts: from 0.2 s to 5 s. A random part makes each pause up to twice as long, so that a
/// thousand clients of a restarted server do not come back at once.
pub fn pauses() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times()
        .with_jitter()
        .build()
}
