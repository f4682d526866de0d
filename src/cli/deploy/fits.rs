//! Whether `--timeout` is long enough for the expected duration of a deployment.

use std::time::Duration;

use crate::{cli::screen::words::span, model::Eta, wire::Takes};

/// What is known of a deployment when it is submitted.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownAtSubmit<'a> {
    /// How long until it has the slot.
    pub start: Option<Eta>,
    /// How long its run takes, if `--timeout` counts the run, too.
    pub run: Option<&'a Takes>,
}

/// The warning if `--timeout` is too short. `left` is the rest of `timeout`.
pub(super) fn too_short(expected: KnownAtSubmit<'_>, timeout: Duration, left: Duration) -> Option<String> {
    let wait = Duration::from_secs(expected.start.map_or(0, |start| start.p50_seconds));
    let advice = format!("--timeout {} is shorter: pass a longer one", span(timeout));
    if wait > left {
        return Some(format!("the slot is expected to be free in about {}, and {advice}", span(wait)));
    }
    let Takes { pipeline_timeout_seconds, usual_duration } = expected.run?;
    let usual = Duration::from_secs(usual_duration.map_or(0, |usual| usual.p50_seconds));
    if wait + usual > left {
        let in_line = if wait.is_zero() { String::new() } else { format!(" after about {} in line", span(wait)) };
        return Some(format!("a run takes about {}{in_line}, and {advice}", span(usual)));
    }
    let limit = Duration::from_secs(pipeline_timeout_seconds.filter(|limit| *limit > timeout.as_secs())?);
    Some(format!("the pipeline may run for up to {} by its own timeout, and {advice}", span(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(start: u64, usual: u64, limit: u64) -> Option<String> {
        let eta = |seconds| Some(Eta { p50_seconds: seconds, p90_seconds: seconds * 2 });
        let run = Takes { pipeline_timeout_seconds: Some(limit), usual_duration: eta(usual) };
        let minute = Duration::from_secs(60);
        too_short(KnownAtSubmit { start: eta(start), run: Some(&run) }, minute, minute)
    }

    #[test]
    fn a_timeout_that_holds_all_that_is_expected_is_no_matter() {
        assert_eq!(said(20, 40, 60), None);
        assert_eq!(too_short(KnownAtSubmit { start: None, run: None }, Duration::from_secs(1), Duration::ZERO), None);
    }

    #[test]
    fn a_timeout_that_is_too_short_is_told_with_the_first_thing_that_it_does_not_hold() {
        for (start, usual, limit, says) in [
            (61, 90, 120, "the slot is expected to be free in about 1m01s"),
            (20, 41, 120, "a run takes about 41s after about 20s in line"),
            (0, 61, 120, "a run takes about 1m01s, and"),
            (20, 40, 61, "may run for up to 1m01s by its own timeout"),
        ] {
            let text = said(start, usual, limit).expect(says);
            assert!(text.contains(says) && text.ends_with("--timeout 1m00s is shorter: pass a longer one"), "{text}");
        }
    }
}
