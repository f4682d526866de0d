//! Decides a rollback: an earlier success is deployed again, before all others. See decision 0072.

use super::{
    admission::{self, Admission, Rejection, Submission},
    command::Command,
    deployment::Deployment,
    hold::Pause,
    ids::DeploymentId,
    order,
    policy::Policy,
    slot::{Keyed, Slot},
};

/// The outcome of a wish to go back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WentBack {
    /// This deployment was made for it.
    Made(DeploymentId),
    /// This deployment was made for the same wish before, or brings the same success back already.
    Found(DeploymentId),
    /// Another deployment is live than the one that the success was chosen for. Nothing was changed; choose again.
    Changed,
    /// Refused.
    Rejected(Rejection),
}

/// Decides a rollback. `pin` is the pause that comes with it, so that the next push does not undo it. `live` is the deployment that was live when the success to go back to was chosen;
/// `wish.spec.retry_of` is that success. Needs the key's deployment and the whole line.
pub fn go_back(
    slot: &mut Slot,
    keyed: Option<Keyed>,
    wish: Submission,
    live: Option<DeploymentId>,
    pin: Option<Pause>,
    policy: &Policy,
) -> WentBack {
    let mut wish = wish;
    if keyed.is_none() {
        if slot.project().last_success != live {
            return WentBack::Changed;
        }
        if let Some(same) = under_way(slot, wish.spec.retry_of) {
            if let Some(pin) = pin.filter(|_| slot.project().pause.is_none()) {
                slot.pause(pin);
            }
            return WentBack::Found(same);
        }
        // A refusal must not leave the pause behind.
        if let Some(refusal) = wish.refusal.take() {
            return WentBack::Rejected(refusal);
        }
        wish.spec.override_pause = pin.is_some() || slot.hold().is_some();
        if let Some(pin) = pin {
            slot.pause(pin);
        }
    }
    let reason = wish.spec.message.clone();
    // A full line keeps nobody from going back.
    let policy_of_line = Policy { line_limit: u32::MAX, ..policy.to_owned() };
    match admission::submit(slot, keyed, wish, &policy_of_line) {
        Admission::Accepted(id) => {
            go_first(slot, id, policy);
            slot.audit("rollback", Some(id), reason.unwrap_or_default());
            WentBack::Made(id)
        }
        Admission::Replayed(id) => WentBack::Found(id),
        // A rollback is queued, so no conflict is its answer.
        Admission::Conflict { .. } => WentBack::Rejected(Rejection::Unmade),
        Admission::Rejected(rejection) => WentBack::Rejected(rejection),
    }
}

/// The rollback to the same success that is not over, and that nobody has asked to stop.
fn under_way(slot: &Slot, target: Option<DeploymentId>) -> Option<DeploymentId> {
    let all = slot.holder().into_iter().chain(slot.line());
    let mut same = all.filter(|it| it.spec.rollback && it.spec.retry_of == target && it.cancel.is_none());
    same.next().map(|it| it.id)
}

/// Puts a rollback that waits before the older ones, and asks what runs to stop, where the project's rules let a newcomer
/// do that.
fn go_first(slot: &mut Slot, id: DeploymentId, policy: &Policy) {
    let Some(own) = slot.deployment(id).filter(|own| own.is_waiting()).cloned() else { return };
    admission::put_ahead(slot, &own);
    let holder = slot.holder().filter(|holder| order::is_newer(own.age(), holder.age())).cloned();
    if let Some(holder) = holder.filter(|holder| admission::may_preempt(holder, slot, policy)) {
        let (superseded_by, by) = (Some(own.mention()), slot.party());
        let _ = slot.step(holder.id, Command::Cancel { reason: own.spec.message.clone(), superseded_by, by });
    }
}

/// The success to go back to: of `successes`, the last one that ended before `origin` ended. `origin` is the deployment
/// whose content is live: what is live itself, or what it repeats.
pub fn before<'a>(origin: &Deployment, successes: &'a [Deployment]) -> Option<&'a Deployment> {
    successes.iter().filter(|it| it.revision < origin.revision).max_by_key(|it| it.revision)
}
