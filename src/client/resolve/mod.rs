//! What to do next on the way from a submit to its end: pure decisions, nothing is sent from here. See decision 0011.
//!
//! The promise it keeps: in the normal case a deploy sends one submit and, when the slot was held, one more with the same
//! body and key; and when the client stops, its deployment is cancelled first, whether it waits or runs.

use super::calls::{Fault, ServerRefusal};
use crate::{
    model::{DeploymentId, Mention, Status},
    wire::{Conflict, Deployment},
};

/// What the user wants when the slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Keep a place in line, and take the slot when the turn comes.
    Wait {
        /// Cancel the deployment that holds the slot, and go before the older ones in line.
        preempt: bool,
    },
    /// Leave the deployment in line at the server, and follow it.
    Queue,
    /// Leave the deployment to the server and end.
    Detach,
    /// Give up.
    Fail {
        /// If the slot is free, leave the deployment to the server and end.
        detach: bool,
    },
}

/// Why we stop before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The deadline passed.
    Deadline,
    /// A signal came.
    Signal,
}

/// What was observed. Each action leads to exactly one observation.
#[derive(Debug)]
pub enum Observation {
    /// The submit was accepted.
    Accepted {
        /// The deployment as it stands.
        deployment: Box<Deployment>,
        /// Whether an earlier request made it.
        replayed: bool,
    },
    /// The slot is held, or the project is.
    Held(Box<Conflict>),
    /// The request to cancel the holder was granted.
    Preempted {
        /// Our ticket.
        ticket: DeploymentId,
    },
    /// The request was refused; the place in line is kept.
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
    /// A newer deployment will supersede ours when it starts, and the client is to leave the line then.
    Overtaken {
        /// Ours.
        id: DeploymentId,
        /// The newer one.
        by: Mention,
    },
    /// The deployment that was followed is final.
    Ended(Box<Deployment>),
    /// Our deployment was asked to stop; its state after that, if the server told it.
    Left(Option<Box<Deployment>>),
    /// The server refused.
    Refused(Box<ServerRefusal>),
    /// No usable answer came.
    Faulted(Fault),
    /// It is time to stop, and the last action has no result yet.
    Stopped(StopReason),
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
    /// Cancel our deployment; if `until_final`, wait a little for its end.
    Leave {
        /// What is ours.
        id: DeploymentId,
        /// Whether its end is of interest.
        until_final: bool,
        /// The newer deployment for which we leave, if it is for one.
        overtaker: Option<Mention>,
    },
    /// That is all.
    Finish(Box<Ending>),
}

/// How it ended.
#[derive(Debug)]
pub enum Ending {
    /// The deployment is final.
    Ended {
        /// As it ended.
        deployment: Box<Deployment>,
        /// Whether an earlier run of the same job made it, and it had ended before we asked.
        replayed: bool,
    },
    /// It is with the server.
    Detached(Box<Deployment>),
    /// The slot is held, and the user does not want to wait.
    Blocked(Box<Conflict>),
    /// We are a command of the deployment that holds the slot: it would wait for us, and we for it.
    Inside(Box<Conflict>),
    /// The client left the line, because a newer deployment would have superseded ours.
    Overtaken {
        /// Ours.
        id: DeploymentId,
        /// The newer one.
        by: Mention,
        /// Ours as it stood last; `None` where that was not told.
        deployment: Option<Box<Deployment>>,
    },
    /// The server refused.
    Refused(Box<ServerRefusal>),
    /// No usable answer came.
    Faulted(Fault),
    /// We stopped.
    Stopped {
        /// Why.
        why: StopReason,
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
    /// The holder whose cancel was requested last: each holder's cancel is requested once.
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
    Stopped { why: StopReason, reached: Reached },
    Inside(Box<Conflict>),
    Overtaken { id: DeploymentId, by: Mention },
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
            Observation::Overtaken { id, by } => self.leave(id, Leaving::Overtaken { id, by }),
            Observation::Ended(deployment) => finish(Ending::Ended { deployment, replayed: false }),
            Observation::Refused(refusal) => finish(Ending::Refused(refusal)),
            Observation::Faulted(fault) => finish(Ending::Faulted(fault)),
            Observation::Stopped(why) => self.stop(why),
            Observation::Left(last) => self.left(last),
        }
    }

    fn accepted(&mut self, deployment: Box<Deployment>, replayed: bool) -> Action {
        if deployment.status.is_final() {
            return finish(Ending::Ended { deployment, replayed });
        }
        match self.wish {
            Wish::Detach | Wish::Fail { detach: true } => finish(Ending::Detached(deployment)),
            Wish::Wait { .. } | Wish::Queue | Wish::Fail { detach: false } => {
                let queued = deployment.queue_position > 0;
                self.stage = Stage::Following { id: deployment.id, queued };
                Action::Follow(deployment.id)
            }
        }
    }

    fn held(&mut self, conflict: Box<Conflict>) -> Action {
        // Another job of the same CI run (`relation: self`) is waited for like any other: it ends without us.
        let holder = conflict.holder_id();
        let is_inside = self.inside.is_some() && self.inside == holder;
        match conflict.ticket {
            None if is_inside => finish(Ending::Inside(conflict)),
            None => finish(Ending::Blocked(conflict)),
            Some(ticket) if is_inside => self.leave(ticket, Leaving::Inside(conflict)),
            Some(ticket) => self.wait(ticket, holder),
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
                finish(Ending::Ended { deployment, replayed: false })
            }
        }
    }

    fn stop(&mut self, why: StopReason) -> Action {
        let reached = match &self.stage {
            Stage::Submitting { ticket: None } => Reached::Nothing,
            Stage::Submitting { ticket: Some(id) } | Stage::InLine { ticket: id } => Reached::Line(*id),
            Stage::Following { id, queued: true } => Reached::Line(*id),
            Stage::Following { id, queued: false } => Reached::Slot(*id),
            // The client is leaving already: the ending stays the same.
            Stage::Leaving(_) => return self.left(None),
        };
        match reached {
            Reached::Nothing => finish(Ending::Stopped { why, reached, deployment: None }),
            Reached::Line(id) => self.leave(id, Leaving::Stopped { why, reached }),
            Reached::Slot(id) => self.leave(id, Leaving::Stopped { why, reached }),
        }
    }

    fn leave(&mut self, id: DeploymentId, why: Leaving) -> Action {
        let until_final = matches!(why, Leaving::Stopped { reached: Reached::Slot(_), .. });
        let overtaker = match &why {
            Leaving::Overtaken { by, .. } => Some(by.clone()),
            Leaving::Stopped { .. } | Leaving::Inside(_) => None,
        };
        self.stage = Stage::Leaving(why);
        Action::Leave { id, until_final, overtaker }
    }

    fn left(&mut self, deployment: Option<Box<Deployment>>) -> Action {
        match std::mem::replace(&mut self.stage, Stage::Submitting { ticket: None }) {
            Stage::Leaving(Leaving::Inside(conflict)) => finish(Ending::Inside(conflict)),
            Stage::Leaving(Leaving::Overtaken { id, by }) => finish(Ending::Overtaken { id, by, deployment }),
            Stage::Leaving(Leaving::Stopped { why, reached }) => finish(Ending::Stopped { why, reached, deployment }),
            Stage::Submitting { .. } | Stage::InLine { .. } | Stage::Following { .. } => {
                finish(Ending::Stopped { why: StopReason::Signal, reached: Reached::Nothing, deployment })
            }
        }
    }
}

fn finish(verdict: Ending) -> Action {
    Action::Finish(Box::new(verdict))
}

#[cfg(test)]
mod tests;
