//! The state of a deployment's rollbacks, as its worker's reports of phases tell it. See decision 0066.
//!
//! It is kept with the deployment while the deployment runs. So it is known however the deployment ends, even if the
//! worker is lost in the middle of a rollback and nobody is left to report how that rollback ended.

use serde::{Deserialize, Serialize};

use super::{bounds, phase::PhaseState};

/// The rollbacks that were begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollbacks {
    /// Those that have not succeeded, in the order in which they were begun, and at most [`bounds::ROLLBACKS`] of them.
    open: Vec<OpenRollback>,
}

/// A rollback that has not succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OpenRollback {
    /// The phase that is rolled back.
    phase: String,
    /// Why the rollback failed; `None` as long as it has not failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// A rollback after which a person must look: it failed, or its end was never reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRollback {
    /// The phase that was not rolled back.
    pub phase: String,
    /// Why, as a sentence.
    pub message: String,
}

/// The words for a phase's rollback.
pub fn rollback_of(phase: &str) -> String {
    format!("the rollback of phase {phase:?}")
}

impl Rollbacks {
    /// The rollbacks after `phase` has reported `state`; `None` as long as no rollback was begun.
    pub(super) fn after(
        known: Option<Rollbacks>,
        phase: &str,
        state: PhaseState,
        message: Option<&str>,
    ) -> Option<Rollbacks> {
        let failure = match state {
            PhaseState::RollingBack | PhaseState::RolledBack => None,
            PhaseState::RollbackFailed => Some(match message {
                Some(message) => bounds::cut(message.to_owned(), bounds::ROLLBACK_TEXT),
                None => format!("{} failed", rollback_of(phase)),
            }),
            PhaseState::Started | PhaseState::Succeeded | PhaseState::Failed | PhaseState::Skipped => return known,
        };
        let Rollbacks { mut open } = known.unwrap_or_default();
        let at = open.iter().position(|rollback| rollback.phase == phase);
        match (at, state) {
            (Some(at), PhaseState::RolledBack) => {
                open.remove(at);
            }
            (None, PhaseState::RolledBack) => {}
            (Some(at), _) => open[at].failure = failure,
            (None, _) if open.len() < bounds::ROLLBACKS => open.push(OpenRollback { phase: phase.to_owned(), failure }),
            // The events tell of each.
            (None, _) => {}
        }
        Some(Rollbacks { open })
    }

    /// The rollbacks of an ended deployment that failed, and those whose end was never reported.
    pub fn failed(&self) -> impl Iterator<Item = FailedRollback> {
        self.open.iter().map(|OpenRollback { phase, failure }| FailedRollback {
            phase: phase.clone(),
            message: failure
                .clone()
                .unwrap_or_else(|| format!("{} was begun, and its end is not known", rollback_of(phase))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reports: &[(&str, PhaseState, Option<&str>)]) -> Option<Vec<(String, String)>> {
        let rollbacks = reports
            .iter()
            .fold(None, |known, (phase, state, message)| Rollbacks::after(known, phase, *state, *message));
        Some(rollbacks?.failed().map(|failed| (failed.phase, failed.message)).collect())
    }

    fn failed(phase: &str, message: &str) -> (String, String) {
        (phase.to_owned(), message.to_owned())
    }

    #[test]
    fn without_a_rollback_there_is_nothing_to_tell() {
        assert_eq!(told(&[]), None);
        let forwards = [PhaseState::Started, PhaseState::Succeeded, PhaseState::Failed, PhaseState::Skipped];
        assert_eq!(told(&forwards.map(|state| ("a", state, None))), None);
    }

    #[test]
    fn rollbacks_that_succeeded_leave_nothing_to_repair() {
        assert_eq!(told(&[("a", PhaseState::RollingBack, None), ("a", PhaseState::RolledBack, None)]), Some(vec![]));
        let again = [
            ("a", PhaseState::RollbackFailed, Some("no")),
            ("a", PhaseState::RollingBack, None),
            ("a", PhaseState::RolledBack, None),
        ];
        assert_eq!(told(&again), Some(vec![]));
    }

    #[test]
    fn each_rollback_that_failed_is_told_with_its_reason() {
        let reports = [
            ("c", PhaseState::RollingBack, None),
            ("c", PhaseState::RollbackFailed, Some("exit 9")),
            ("b", PhaseState::RollingBack, None),
            ("b", PhaseState::RolledBack, None),
            ("a", PhaseState::RollbackFailed, None),
        ];
        let wanted = vec![failed("c", "exit 9"), failed("a", "the rollback of phase \"a\" failed")];
        assert_eq!(told(&reports), Some(wanted));
    }

    #[test]
    fn a_rollback_that_nobody_saw_the_end_of_is_no_success() {
        let wanted = failed("a", "the rollback of phase \"a\" was begun, and its end is not known");
        assert_eq!(told(&[("a", PhaseState::RollingBack, None)]), Some(vec![wanted]));
    }

    #[test]
    fn however_much_a_worker_tells_it_stays_small() {
        let names: Vec<_> = (0..2 * bounds::ROLLBACKS).map(|number| number.to_string()).collect();
        let long = "ä".repeat(2 * bounds::ROLLBACK_TEXT);
        let reports: Vec<_> =
            names.iter().map(|name| (name.as_str(), PhaseState::RollbackFailed, Some(long.as_str()))).collect();
        let told = told(&reports).unwrap();
        assert_eq!(told.len(), bounds::ROLLBACKS);
        assert!(told.iter().all(|(_, message)| message.chars().count() == bounds::ROLLBACK_TEXT));
    }
}
