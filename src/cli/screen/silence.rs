//! The lines that break a silence: CI systems end a job that prints nothing for ten minutes, and people wonder sooner.

use std::time::Duration;

use jiff::Timestamp;

use super::words::{between, span};
use crate::clock::{BootInstant, Now};

/// After so long without a line there is one.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What is known of the phase that runs, and when something was heard last.
#[derive(Clone, Debug)]
pub struct Silence {
    /// Its name, and when it began by the server's clock.
    phase: Option<(String, Timestamp)>,
    /// The last line of output or other event of the deployment.
    heard_at: BootInstant,
    /// The last line that was printed, for whichever reason.
    printed_at: BootInstant,
}

impl Silence {
    /// Silence from now on.
    pub fn from(now: BootInstant) -> Self {
        Silence { phase: None, heard_at: now, printed_at: now }
    }

    /// The deployment has said something.
    pub fn heard(&mut self, now: BootInstant) {
        (self.heard_at, self.printed_at) = (now, now);
    }

    /// A phase has begun.
    pub fn phase_began(&mut self, name: &str, at: Timestamp) {
        self.phase = Some((name.to_owned(), at));
    }

    /// The phase is over; how long it took, where its begin was heard.
    pub fn phase_ended(&mut self, name: &str, at: Timestamp) -> Option<Duration> {
        let (_, began) = self.phase.take_if(|(running, _)| running == name)?;
        Some(between(began, at))
    }

    /// How long until a line is due.
    pub fn left(&self, now: BootInstant) -> Duration {
        LIMIT.saturating_sub(now.since(self.printed_at))
    }

    /// The line that is due, if one is: which phase runs for how long, and how long nothing was heard.
    pub fn line(&mut self, now: Now) -> Option<String> {
        if !self.left(now.boot).is_zero() {
            return None;
        }
        self.printed_at = now.boot;
        let quiet = span(now.boot.since(self.heard_at));
        Some(match &self.phase {
            Some((name, since)) => {
                format!("phase {name}: running for {}, no output for {quiet}", span(between(*since, now.wall)))
            }
            None => format!("no news of the deployment for {quiet}; still following it"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_broken_once_a_minute_with_what_runs_and_how_long() {
        let boot = |seconds| BootInstant::from_start(Duration::from_secs(seconds));
        let wall = |seconds: u64| Timestamp::from_second(1_800_000_000 + seconds as i64).expect("a time");
        let now = |seconds| Now { wall: wall(seconds), boot: boot(seconds) };
        let mut silence = Silence::from(boot(0));
        silence.phase_began("build", wall(10));
        silence.heard(boot(20));
        assert_eq!(silence.left(boot(50)), Duration::from_secs(30));
        assert_eq!(silence.line(now(79)), None);
        assert_eq!(silence.line(now(80)).as_deref(), Some("phase build: running for 1m10s, no output for 1m00s"));
        assert_eq!(silence.line(now(81)), None, "it was said");
        assert_eq!(silence.line(now(140)).as_deref(), Some("phase build: running for 2m10s, no output for 2m00s"));
        silence.heard(boot(150));
        assert_eq!(silence.line(now(209)), None);
        assert_eq!(silence.phase_ended("build", wall(209)), Some(Duration::from_secs(199)));
        assert_eq!(silence.phase_ended("build", wall(209)), None);
        let words = silence.line(now(210)).expect("it is due");
        assert!(words.starts_with("no news of the deployment for 1m00s"), "{words}");
    }
}
