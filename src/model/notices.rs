//! Which of a decision's changes are told to targets outside, by the rules. See decision 0086.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    deployment::{CancelCause, Deployment, FailureCause, Outcome, State, Status},
    event::EventBody,
    ids::ProjectName,
    notification::{NewNotification, NotificationEvent, NotificationId, NotificationRule, PauseDetail},
    slot::Changes,
};

/// The notifications that the rules want of these changes, in the order of the changes.
pub fn notifications<'r>(
    rules: impl Iterator<Item = &'r NotificationRule>,
    project: &ProjectName,
    changes: &Changes,
) -> Vec<NewNotification> {
    let rules: Vec<_> = rules.filter(|rule| rule.projects.iter().any(|glob| glob.matches(project.as_str()))).collect();
    let mut found = Vec::new();
    if rules.is_empty() {
        return found;
    }
    for step in &changes.steps {
        for event in step.events() {
            let EventBody::Status { status } = &event.body else { continue };
            let Some(kind) = kind(*status, step.deployment()) else { continue };
            found.extend(rules.iter().filter_map(|rule| of_deployment(rule, kind, step.deployment(), event.at)));
        }
    }
    for created in changes.steps.iter().filter(|step| step.is_creation()) {
        let last = changes.steps.iter().rev().find(|step| step.deployment().id == created.deployment().id);
        let Some(created) = last.map(|step| step.deployment()) else { continue };
        if created.status() == Status::Pending {
            found.extend(rules.iter().filter_map(|rule| {
                let delay = rule.waits_longer_than?;
                let event = NotificationEvent::Waiting;
                Some(NewNotification { delay, ..of_deployment(rule, event, created, created.created_at)? })
            }));
        }
    }
    if let Some((event, detail, at)) = of_pause(changes) {
        let revision = changes.project.as_ref().map_or(0, |project| project.revision.0).to_be_bytes();
        let detail = serde_json::to_string(&detail).ok();
        found.extend(rules.iter().filter(|rule| rule.events.contains(&event)).map(|rule| NewNotification {
            id: NotificationId::of(&rule.name, event, project, &revision),
            rule: rule.name.clone(),
            event,
            deployment: None,
            detail: detail.clone(),
            at,
            delay: Duration::ZERO,
        }));
    }
    found
}

fn kind(status: Status, after: &Deployment) -> Option<NotificationEvent> {
    match status {
        Status::Pending => None,
        Status::Running => Some(NotificationEvent::Started),
        Status::Succeeded | Status::Failed | Status::Cancelled => {
            let State::Finished { outcome, .. } = &after.state else { return None };
            Some(end(outcome))
        }
    }
}

/// How an end is told.
fn end(outcome: &Outcome) -> NotificationEvent {
    match outcome {
        Outcome::Succeeded => NotificationEvent::Succeeded,
        Outcome::Failed { cause: FailureCause::Released, .. }
        | Outcome::Cancelled { cause: CancelCause::Released, .. } => NotificationEvent::Released,
        Outcome::Failed { .. } => NotificationEvent::Failed,
        Outcome::Cancelled { cause: CancelCause::Superseded { .. }, .. } => NotificationEvent::Superseded,
        Outcome::Cancelled { .. } => NotificationEvent::Cancelled,
    }
}

fn of_deployment(
    rule: &NotificationRule,
    event: NotificationEvent,
    deployment: &Deployment,
    at: Timestamp,
) -> Option<NewNotification> {
    if !rule.events.contains(&event) || (rule.only_started && deployment.started_at.is_none()) {
        return None;
    }
    Some(NewNotification {
        id: NotificationId::of(&rule.name, event, &deployment.project, deployment.id.as_bytes()),
        rule: rule.name.clone(),
        event,
        deployment: Some(deployment.id),
        detail: None,
        at,
        delay: Duration::ZERO,
    })
}

fn of_pause(changes: &Changes) -> Option<(NotificationEvent, PauseDetail, Timestamp)> {
    let project = changes.project.as_ref().filter(|_| changes.is_pause_changed)?;
    if let Some(pause) = &project.pause {
        let (by, actor, reason) = (Some(pause.by.clone()), pause.actor.clone(), Some(pause.reason.clone()));
        return Some((NotificationEvent::Paused, PauseDetail { by, actor, reason, until: pause.until }, pause.at));
    }
    let told = changes.audit.iter().find(|entry| ["resume", "pause_end"].contains(&entry.action))?;
    let by = (told.action == "resume").then(|| told.caller.identity.to_string());
    let reason = Some(told.detail.clone()).filter(|detail| !detail.is_empty());
    Some((NotificationEvent::Resumed, PauseDetail { by, actor: None, reason, until: None }, told.at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Caller, DeploymentId, Loaded, Pause, Place, Policy, Slot, Spec, lifecycle::Entry};

    fn rule(name: &str, projects: &str, events: &[NotificationEvent]) -> NotificationRule {
        NotificationRule {
            name: name.into(),
            projects: vec![projects.parse().expect("a pattern")],
            events: events.iter().copied().collect(),
            waits_longer_than: Some(Duration::from_secs(60)),
            only_started: false,
        }
    }

    fn waiting(project: &ProjectName) -> Changes {
        let mut slot = Slot::of(Loaded::nothing(project), Timestamp::UNIX_EPOCH, &Policy::default());
        let entry = Entry::Waiting {
            place: Place::Queued,
            position: 1,
            blocker: None,
            rank: None,
            overtaker: None,
            hold: None,
        };
        slot.admit(DeploymentId::generate(), project.clone(), Spec::default(), entry);
        slot.into_changes()
    }

    #[test]
    fn only_rules_for_the_project_and_the_event_are_told_and_a_wait_is_told_later() {
        let project: ProjectName = "web-eu".parse().expect("a name");
        let rules = [
            rule("one", "web-*", &NotificationEvent::ALL),
            rule("two", "web-*", &[NotificationEvent::Failed]),
            rule("three", "api", &NotificationEvent::ALL),
        ];
        let found = notifications(rules.iter(), &project, &waiting(&project));
        let told: Vec<_> = found.iter().map(|it| (&*it.rule, it.event, it.delay.as_secs())).collect();
        assert_eq!(told, [("one", NotificationEvent::Waiting, 60)]);
    }

    #[test]
    fn a_pause_and_its_end_are_told_with_who_and_why_and_have_ids_of_their_own() {
        let project: ProjectName = "web".parse().expect("a name");
        let rules = [rule("one", "*", &NotificationEvent::ALL)];
        let mut slot =
            Slot::of(Loaded::nothing(&project), Timestamp::UNIX_EPOCH, &Policy::default()).by(&Caller::server());
        let (by, reason) = ("token:ops".to_owned(), "a freeze".to_owned());
        slot.pause(Pause { at: Timestamp::UNIX_EPOCH, by, actor: None, reason, until: None, pin: None });
        let paused = slot.into_changes();
        let loaded = Loaded { project: paused.project.clone().expect("it was paused"), ..Loaded::nothing(&project) };
        let mut slot = Slot::of(loaded, Timestamp::UNIX_EPOCH, &Policy::default()).by(&Caller::server());
        slot.resume(Some("it is over".to_owned()));
        let resumed = slot.into_changes();
        let told = |changes| notifications(rules.iter(), &project, changes).pop().expect("it is told");
        let (paused, resumed) = (told(&paused), told(&resumed));
        assert_eq!((paused.event, resumed.event), (NotificationEvent::Paused, NotificationEvent::Resumed));
        assert_eq!(paused.detail.as_deref(), Some(r#"{"by":"token:ops","reason":"a freeze"}"#));
        assert_eq!(resumed.detail.as_deref(), Some(r#"{"by":"server","reason":"it is over"}"#));
        assert_ne!(paused.id, resumed.id);
        assert_eq!(NotificationId::parse(paused.id.as_str()), Some(paused.id));
        assert_eq!(NotificationId::parse("a"), None);
    }
}
