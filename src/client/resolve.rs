//! What to do next on the way from a submit to its end: pure decisions, nothing is sent from here.
//!
//! The promise it keeps: in the normal case a deploy sends one submit and, when the slot was held, one more with the same
//! body and key; and whatever of ours stands in line or runs when we stop is cancelled first.

use super::connection::{Fault, Refusal};
use crate::{
    api::{Conflict, Deployment},
    model::{DeploymentId, Status},
};

/// What the user wants when the slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Keep a place in line, and come back for the slot.
    Wait {
        /// Cancel who holds the slot, and those in line before us.
        preempt: bool,
    },
    /// Leave it in line with the server, and follow it.
    Queue,
    /// Leave it with the server and go.
    Detach,
    /// Give up.
    Fail {
        /// If the slot is free, leave it with the server and go.
        detach: bool,
    },
}

/// Why we stop before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The deadline passed.
    Deadline,
    /// A signal came.
    Signal,
}

/// What was seen. Each action of ours leads to exactly one.
#[derive(Debug)]
pub enum Observation {
    /// The submit was accepted.
    Accepted {
        /// The deployment as it stands.
        deployment: Box<Deployment>,
        /// Whether an earlier request made it.
        replayed: bool,
    },
    /// The slot is held.
    Held(Box<Conflict>),
    /// The request to cancel the holder was granted.
    Preempted {
        /// Our ticket.
        ticket: DeploymentId,
    },
    /// It was not; the place in line is still ours.
    PreemptRefused {
        /// Our ticket.
        ticket: DeploymentId,
    },
    /// The ticket's turn has come, or the ticket is final.
    TurnCame(Box<Deployment>),
    /// Still in line.
    StillWaiting {
        /// Our ticket.
        ticket: DeploymentId,
        /// Who holds the slot now, where the server says so.
        holder: Option<DeploymentId>,
    },
    /// The deployment that was followed is final.
    Ended(Box<Deployment>),
    /// What was ours was asked to stop; how it stands then, where that was told.
    Left(Option<Box<Deployment>>),
    /// The server said no.
    Refused(Box<Refusal>),
    /// There was no answer to go by.
    Faulted(Fault),
    /// It is time to stop, and the last action has not led to anything.
    Stopped(Stop),
}

/// What to do.
#[derive(Debug)]
#[must_use = "an action that is not taken leaves the deployment alone"]
pub enum Action {
    /// Send the submit, the same each time.
    Submit,
    /// Ask for `target` to be cancelled in favour of our ticket.
    Preempt {
        /// Who is in the way.
        target: DeploymentId,
        /// Our ticket.
        ticket: DeploymentId,
    },
    /// Park at the server until our turn comes.
    AwaitTurn(DeploymentId),
    /// Follow our deployment to its end.
    Follow(DeploymentId),
    /// Cancel what is ours; if `until_final`, wait a little for its end.
    Leave {
        /// What is ours.
        id: DeploymentId,
        /// Whether its end is of interest.
        until_final: bool,
    },
    /// That is all.
    Finish(Box<Verdict>),
}

/// How it ended.
#[derive(Debug)]
pub enum Verdict {
    /// The deployment is final.
    Ended {
        /// As it ended.
        deployment: Box<Deployment>,
        /// Whether an earlier run of the same job made it, and it had ended before we asked.
        replayed: bool,
    },
    /// It is with the server.
    Detached(Box<Deployment>),
    /// The slot is held and waiting is not wished for.
    Blocked(Box<Conflict>),
    /// We are a command of the deployment that holds the slot: it would wait for us, and we for it.
    Inside(Box<Conflict>),
    /// The server said no.
    Refused(Box<Refusal>),
    /// There was no answer to go by.
    Faulted(Fault),
    /// We stopped.
    Stopped {
        /// Why.
        why: Stop,
        /// How far it had come.
        reached: Reached,
        /// What was ours, as it stood last; `None` where that was not told.
        deployment: Option<Box<Deployment>>,
    },
}

/// How far a deploy had come when it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The first submit was not answered.
    Nothing,
    /// In line.
    Line(DeploymentId),
    /// It held the slot.
    Slot(DeploymentId),
}

/// Where we are, and what was wished for.
#[derive(Debug)]
pub struct Resolver {
    wish: Wish,
    /// The deployment whose command we are, if we are one: it cannot end before we do.
    inside: Option<DeploymentId>,
    stage: Stage,
    /// Whom we asked to be cancelled last: each holder is asked for once.
    asked_for: Option<DeploymentId>,
}

#[derive(Debug)]
enum Stage {
    Submitting { ticket: Option<DeploymentId> },
    InLine { ticket: DeploymentId },
    Following { id: DeploymentId, queued: bool },
    Leaving(Leaving),
}

/// Why we leave.
#[derive(Debug)]
enum Leaving {
    Stopped { why: Stop, reached: Reached },
    Inside(Box<Conflict>),
}

impl Resolver {
    /// The begin: the first thing to do is a submit.
    pub fn new(wish: Wish, inside: Option<DeploymentId>) -> (Self, Action) {
        (Resolver { wish, inside, stage: Stage::Submitting { ticket: None }, asked_for: None }, Action::Submit)
    }

    /// What to do after `seen`.
    pub fn next(&mut self, seen: Observation) -> Action {
        match seen {
            Observation::Accepted { deployment, replayed } => self.accepted(deployment, replayed),
            Observation::Held(conflict) => self.held(conflict),
            Observation::Preempted { ticket } | Observation::PreemptRefused { ticket } => self.wait(ticket, None),
            Observation::StillWaiting { ticket, holder } => self.wait(ticket, holder),
            Observation::TurnCame(deployment) => self.turn_came(deployment),
            Observation::Ended(deployment) => finish(Verdict::Ended { deployment, replayed: false }),
            Observation::Refused(refusal) => finish(Verdict::Refused(refusal)),
            Observation::Faulted(fault) => finish(Verdict::Faulted(fault)),
            Observation::Stopped(why) => self.stop(why),
            Observation::Left(last) => self.left(last),
        }
    }

    fn accepted(&mut self, deployment: Box<Deployment>, replayed: bool) -> Action {
        if deployment.status.is_final() {
            return finish(Verdict::Ended { deployment, replayed });
        }
        match self.wish {
            Wish::Detach | Wish::Fail { detach: true } => finish(Verdict::Detached(deployment)),
            Wish::Wait { .. } | Wish::Queue | Wish::Fail { detach: false } => {
                let queued = deployment.queue_position > 0;
                self.stage = Stage::Following { id: deployment.id, queued };
                Action::Follow(deployment.id)
            }
        }
    }

    fn held(&mut self, conflict: Box<Conflict>) -> Action {
        // Another job of the same CI run (`relation: self`) is waited for like any other: it ends without us.
        let is_inside = self.inside == Some(conflict.deployment_id);
        match conflict.ticket {
            None if is_inside => finish(Verdict::Inside(conflict)),
            None => finish(Verdict::Blocked(conflict)),
            Some(ticket) if is_inside => self.leave(ticket, Leaving::Inside(conflict)),
            Some(ticket) => self.wait(ticket, Some(conflict.deployment_id)),
        }
    }

    /// In line, behind `holder` as far as that is known.
    fn wait(&mut self, ticket: DeploymentId, holder: Option<DeploymentId>) -> Action {
        self.stage = Stage::InLine { ticket };
        match (self.wish, holder) {
            (Wish::Wait { preempt: true }, Some(target)) if self.asked_for != Some(target) && target != ticket => {
                self.asked_for = Some(target);
                Action::Preempt { target, ticket }
            }
            (Wish::Wait { .. } | Wish::Queue | Wish::Detach | Wish::Fail { .. }, _) => Action::AwaitTurn(ticket),
        }
    }

    fn turn_came(&mut self, deployment: Box<Deployment>) -> Action {
        match deployment.status {
            Status::Pending if deployment.queue_position > 0 => self.wait(deployment.id, None),
            Status::Pending => {
                self.stage = Stage::Submitting { ticket: Some(deployment.id) };
                Action::Submit
            }
            Status::Running => {
                self.stage = Stage::Following { id: deployment.id, queued: false };
                Action::Follow(deployment.id)
            }
            Status::Succeeded | Status::Failed | Status::Cancelled => {
                finish(Verdict::Ended { deployment, replayed: false })
            }
        }
    }

    fn stop(&mut self, why: Stop) -> Action {
        let reached = match &self.stage {
            Stage::Submitting { ticket: None } => Reached::Nothing,
            Stage::Submitting { ticket: Some(id) } | Stage::InLine { ticket: id } => Reached::Line(*id),
            Stage::Following { id, queued: true } => Reached::Line(*id),
            Stage::Following { id, queued: false } => Reached::Slot(*id),
            // Leaving already: it ends as it was going to.
            Stage::Leaving(_) => return self.left(None),
        };
        match reached {
            Reached::Nothing => finish(Verdict::Stopped { why, reached, deployment: None }),
            Reached::Line(id) => self.leave(id, Leaving::Stopped { why, reached }),
            Reached::Slot(id) => self.leave(id, Leaving::Stopped { why, reached }),
        }
    }

    fn leave(&mut self, id: DeploymentId, why: Leaving) -> Action {
        let until_final = matches!(why, Leaving::Stopped { reached: Reached::Slot(_), .. });
        self.stage = Stage::Leaving(why);
        Action::Leave { id, until_final }
    }

    fn left(&mut self, deployment: Option<Box<Deployment>>) -> Action {
        match std::mem::replace(&mut self.stage, Stage::Submitting { ticket: None }) {
            Stage::Leaving(Leaving::Inside(conflict)) => finish(Verdict::Inside(conflict)),
            Stage::Leaving(Leaving::Stopped { why, reached }) => finish(Verdict::Stopped { why, reached, deployment }),
            Stage::Submitting { .. } | Stage::InLine { .. } | Stage::Following { .. } => {
                finish(Verdict::Stopped { why: Stop::Signal, reached: Reached::Nothing, deployment })
            }
        }
    }
}

fn finish(verdict: Verdict) -> Action {
    Action::Finish(Box::new(verdict))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OURS: &str = "01998c6e-0000-7000-8000-000000000001";
    const HOLDER: &str = "01998c6e-0000-7000-8000-00000000000a";
    const NEXT_HOLDER: &str = "01998c6e-0000-7000-8000-00000000000b";

    fn id(text: &str) -> DeploymentId {
        text.parse().expect("a test's id")
    }

    fn deployment(status: &str, queue_position: u64) -> Box<Deployment> {
        let deployment = json!({
            "id": OURS, "project": "web", "logicalId": "web", "pipeline": "deploy", "status": status,
            "queuePosition": queue_position, "phase": null, "progress": 0, "message": null, "ref": null,
            "commit": null, "actor": null, "url": null, "order": null, "dryRun": false, "result": null,
            "error": null, "supersededBy": null, "retryOf": null, "createdAt": "2026-01-01T00:00:00.000Z",
            "startedAt": null, "endedAt": null, "cancelRequestedAt": null, "lastHeartbeatAt": null, "revision": 1,
        });
        Box::new(serde_json::from_value(deployment).expect("a test's deployment"))
    }

    fn held(holder: &str, ticket: bool, relation: &str) -> Observation {
        let mut conflict = json!({
            "deploymentId": holder, "relation": relation, "blocking": {
                "actor": "alice", "ref": "main", "commit": null, "url": null, "pipeline": "deploy",
                "status": "RUNNING", "phase": null, "progress": 0, "startedAt": null, "lastHeartbeatAt": null,
                "cancelRequestedAt": null, "liveness": "alive", "eta": null,
            },
        });
        if ticket {
            conflict["ticket"] = json!(OURS);
            conflict["queuePosition"] = json!(1);
        }
        Observation::Held(Box::new(serde_json::from_value(conflict).expect("a test's conflict")))
    }

    fn accepted(status: &str, queue_position: u64) -> Observation {
        Observation::Accepted { deployment: deployment(status, queue_position), replayed: false }
    }

    fn still(holder: &str) -> Observation {
        Observation::StillWaiting { ticket: id(OURS), holder: Some(id(holder)) }
    }

    fn refused() -> Observation {
        let body = json!({"errorCode": "PROJECT_PAUSED"});
        let code = Some(crate::api::ErrorCode::ProjectPaused);
        Observation::Refused(Box::new(Refusal {
            status: 409,
            code,
            with_token: false,
            message: "paused".to_owned(),
            body,
        }))
    }

    /// A word for each action, so that a whole conversation is one line.
    fn word(action: &Action) -> String {
        match action {
            Action::Submit => "submit".to_owned(),
            Action::Preempt { target, ticket } => {
                assert_eq!(*ticket, id(OURS));
                format!("preempt {}", if *target == id(HOLDER) { "holder" } else { "next" })
            }
            Action::AwaitTurn(ticket) => {
                assert_eq!(*ticket, id(OURS));
                "turn".to_owned()
            }
            Action::Follow(_) => "follow".to_owned(),
            Action::Leave { id: ours, until_final } => {
                assert_eq!(*ours, id(OURS));
                if *until_final { "leave+wait" } else { "leave" }.to_owned()
            }
            Action::Finish(verdict) => match &**verdict {
                Verdict::Ended { deployment, replayed } => {
                    format!("end {}{}", deployment.status.as_str(), if *replayed { " replayed" } else { "" })
                }
                Verdict::Detached(_) => "end detached".to_owned(),
                Verdict::Blocked(_) => "end blocked".to_owned(),
                Verdict::Inside(_) => "end inside".to_owned(),
                Verdict::Refused(_) => "end refused".to_owned(),
                Verdict::Faulted(_) => "end fault".to_owned(),
                Verdict::Stopped { why, reached, .. } => {
                    let reached = match reached {
                        Reached::Nothing => "nothing",
                        Reached::Line(_) => "line",
                        Reached::Slot(_) => "slot",
                    };
                    format!("end {why:?} at {reached}")
                }
            },
        }
    }

    fn conversation(wish: Wish, seen: Vec<Observation>) -> String {
        conversation_inside(None, wish, seen)
    }

    fn conversation_inside(inside: Option<DeploymentId>, wish: Wish, seen: Vec<Observation>) -> String {
        let (mut resolver, first) = Resolver::new(wish, inside);
        let mut words = vec![word(&first)];
        words.extend(seen.into_iter().map(|seen| word(&resolver.next(seen))));
        words.join(" · ")
    }

    const WAIT: Wish = Wish::Wait { preempt: false };
    const FAIL: Wish = Wish::Fail { detach: false };
    const TAKE: Wish = Wish::Wait { preempt: true };

    #[test]
    fn each_conversation_goes_its_way() {
        use Observation as O;
        let ours = || id(OURS);
        for (name, wish, seen, expected) in [
            (
                "the slot is free",
                WAIT,
                vec![accepted("PENDING", 0), O::Ended(deployment("SUCCEEDED", 0))],
                "submit · follow · end SUCCEEDED",
            ),
            (
                "the slot is held: one more submit, no third",
                WAIT,
                vec![
                    held(HOLDER, true, "other"),
                    still(HOLDER),
                    still(NEXT_HOLDER),
                    O::TurnCame(deployment("PENDING", 0)),
                    accepted("PENDING", 0),
                    O::Ended(deployment("FAILED", 0)),
                ],
                "submit · turn · turn · turn · submit · follow · end FAILED",
            ),
            (
                "the slot that was kept is lost to a slow network: back in line on the same ticket",
                WAIT,
                vec![
                    held(HOLDER, true, "other"),
                    O::TurnCame(deployment("PENDING", 0)),
                    held(NEXT_HOLDER, true, "other"),
                    O::TurnCame(deployment("CANCELLED", 0)),
                ],
                "submit · turn · submit · turn · end CANCELLED",
            ),
            (
                "the predecessor is cancelled",
                TAKE,
                vec![
                    held(HOLDER, true, "other"),
                    O::Preempted { ticket: ours() },
                    still(HOLDER),
                    O::TurnCame(deployment("PENDING", 0)),
                    accepted("RUNNING", 0),
                    O::Ended(deployment("SUCCEEDED", 0)),
                ],
                "submit · preempt holder · turn · turn · submit · follow · end SUCCEEDED",
            ),
            (
                "the policy lets the predecessor finish, but the next holder is asked for again",
                TAKE,
                vec![
                    held(HOLDER, true, "other"),
                    O::PreemptRefused { ticket: ours() },
                    still(HOLDER),
                    still(NEXT_HOLDER),
                    O::PreemptRefused { ticket: ours() },
                ],
                "submit · preempt holder · turn · turn · preempt next · turn",
            ),
            (
                "without a wish to wait the first conflict is the end",
                FAIL,
                vec![held(HOLDER, false, "other")],
                "submit · end blocked",
            ),
            (
                "another job of the same CI run is waited for",
                WAIT,
                vec![held(HOLDER, true, "self"), still(HOLDER)],
                "submit · turn · turn",
            ),
            (
                "handed over to a free slot",
                Wish::Fail { detach: true },
                vec![accepted("PENDING", 0)],
                "submit · end detached",
            ),
            ("handed over", Wish::Detach, vec![accepted("PENDING", 3)], "submit · end detached"),
            (
                "queued and followed",
                Wish::Queue,
                vec![accepted("PENDING", 3), O::Ended(deployment("SUCCEEDED", 0))],
                "submit · follow · end SUCCEEDED",
            ),
            (
                "an earlier run of the job did it already",
                WAIT,
                vec![O::Accepted { deployment: deployment("SUCCEEDED", 0), replayed: true }],
                "submit · end SUCCEEDED replayed",
            ),
            (
                "superseded in line",
                WAIT,
                vec![held(HOLDER, true, "other"), O::TurnCame(deployment("CANCELLED", 0))],
                "submit · turn · end CANCELLED",
            ),
            ("refused", WAIT, vec![refused()], "submit · end refused"),
            (
                "refused at the re-submit",
                WAIT,
                vec![held(HOLDER, true, "other"), O::TurnCame(deployment("PENDING", 0)), refused()],
                "submit · turn · submit · end refused",
            ),
            (
                "the answer to the re-submit was lost and the deployment runs already",
                WAIT,
                vec![held(HOLDER, true, "other"), O::TurnCame(deployment("RUNNING", 0))],
                "submit · turn · follow",
            ),
        ] {
            assert_eq!(conversation(wish, seen), expected, "{name}");
        }
    }

    #[test]
    fn a_command_never_waits_for_the_deployment_that_runs_it() {
        let inside = Some(id(HOLDER));
        let seen = vec![held(HOLDER, true, "other"), Observation::Left(None)];
        assert_eq!(conversation_inside(inside, WAIT, seen), "submit · leave · end inside");
        let seen = vec![held(HOLDER, true, "other"), Observation::Left(None)];
        assert_eq!(conversation_inside(inside, TAKE, seen), "submit · leave · end inside");
        let seen = vec![held(HOLDER, false, "other")];
        assert_eq!(conversation_inside(inside, FAIL, seen), "submit · end inside");
        let seen = vec![held(NEXT_HOLDER, true, "other")];
        assert_eq!(conversation_inside(inside, WAIT, seen), "submit · turn");
    }

    #[test]
    fn whoever_stops_leaves_nothing_behind() {
        use Observation as O;
        let at = O::Stopped;
        for (name, wish, seen, expected) in [
            ("before any answer", WAIT, vec![at(Stop::Signal)], "submit · end Signal at nothing"),
            (
                "in line",
                WAIT,
                vec![held(HOLDER, true, "other"), at(Stop::Deadline), O::Left(None)],
                "submit · turn · leave · end Deadline at line",
            ),
            (
                "with the slot kept, before the re-submit is answered",
                WAIT,
                vec![
                    held(HOLDER, true, "other"),
                    O::TurnCame(deployment("PENDING", 0)),
                    at(Stop::Signal),
                    O::Left(None),
                ],
                "submit · turn · submit · leave · end Signal at line",
            ),
            (
                "running",
                WAIT,
                vec![accepted("RUNNING", 0), at(Stop::Deadline), O::Left(Some(deployment("CANCELLED", 0)))],
                "submit · follow · leave+wait · end Deadline at slot",
            ),
            (
                "queued",
                Wish::Queue,
                vec![accepted("PENDING", 2), at(Stop::Deadline), O::Left(None)],
                "submit · follow · leave · end Deadline at line",
            ),
            (
                "while it leaves",
                WAIT,
                vec![accepted("RUNNING", 0), at(Stop::Deadline), at(Stop::Signal)],
                "submit · follow · leave+wait · end Deadline at slot",
            ),
        ] {
            assert_eq!(conversation(wish, seen), expected, "{name}");
        }
    }
}
