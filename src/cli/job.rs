//! How a client's CI job ends. If a newer deployment superseded its deployment, the job fails, ends with 0
//! (`--superseded-ok`), or follows the newer one and ends as that one ends (`--follow-successor`).
//! See decision 0057.

use serde_json::Value;

use super::{
    JobEndArgs,
    exit::{Exit, Failure},
    report::{JobOutcome, Reports},
    result,
    screen::{
        print,
        words::{named, who_deploys},
    },
    session::Session,
    signals::Signals,
};
use crate::{
    client::{
        deadline::Deadline,
        follow::{FollowLimits, Follower, How},
        resolve::Ending,
    },
    model::{Mention, ProjectName, Status},
    wire::{Deployment, ErrorCode},
};

/// How many successors are followed in a row: each is newer than the one before, so that there is an end to it anyway.
const SUCCESSORS_LIMIT: u32 = 100;

/// The job of a client that made a deployment.
pub struct CiJob<'a> {
    /// The session.
    pub session: &'a Session,
    /// The project.
    pub project: &'a ProjectName,
    /// How it is to end.
    pub end: &'a JobEndArgs,
    /// Where its end is written down.
    pub reports: &'a Reports<'a>,
    /// How a successor is followed.
    pub how: How,
    /// The time that is left for all of it.
    pub deadline: &'a Deadline,
}

impl CiJob<'_> {
    /// Tells a verdict, and ends as the job is to end. `problem` is the last conflict as the server told it.
    ///
    /// # Errors
    /// Every end that is not a success; the caller reports it.
    pub async fn conclude(
        &self,
        verdict: Ending,
        problem: Option<Value>,
        signals: &mut Signals,
    ) -> Result<Exit, Failure> {
        let (ours, by) = match &verdict {
            Ending::Ended { deployment, .. } => (Some(deployment.clone()), deployment.successor()),
            Ending::Detached(deployment) => (Some(deployment.clone()), None),
            Ending::Overtaken { deployment, by, .. } => (deployment.clone(), Some(by.clone())),
            Ending::Stopped { deployment, .. } => (deployment.clone(), None),
            Ending::Blocked(_) | Ending::Inside(_) | Ending::Refused(_) | Ending::Faulted(_) => (None, None),
        };
        let ended = result::tell(self.session, self.project, verdict, problem);
        self.finish(ours.as_deref(), by, ended, signals).await
    }

    /// The same when the end is already known; `by` is the deployment that superseded ours, if any.
    ///
    /// # Errors
    /// Every end that is not a success; the caller reports it.
    pub async fn finish(
        &self,
        ours: Option<&Deployment>,
        by: Option<Mention>,
        ended: Result<Exit, Failure>,
        signals: &mut Signals,
    ) -> Result<Exit, Failure> {
        let (ended, successor) = self.settle(ours, by, ended, signals).await;
        let outcome =
            JobOutcome { project: self.project, deployment: ours, successor: successor.as_deref(), ended: &ended };
        self.reports.write(Some(&self.session.screen), &outcome);
        ended
    }

    /// How the job ends, and the successor, if one was followed to its end.
    async fn settle(
        &self,
        ours: Option<&Deployment>,
        by: Option<Mention>,
        ended: Result<Exit, Failure>,
        signals: &mut Signals,
    ) -> (Result<Exit, Failure>, Option<Box<Deployment>>) {
        let failure = match ended {
            Err(failure) if failure.exit == Exit::Cancelled => failure,
            ended => return (ended, None),
        };
        match (ours, by) {
            (Some(ours), Some(by)) if self.end.follow_successor => self.follow(ours, by, signals).await,
            (_, by) if self.end.superseded_ok && (by.is_some() || is_outdated(&failure)) => {
                (self.excuse(failure), None)
            }
            _ => (Err(failure), None),
        }
    }

    fn excuse(&self, failure: Failure) -> Result<Exit, Failure> {
        let screen = &self.session.screen;
        screen.clear();
        let title = format!("singletrack: {}", failure.topic().unwrap_or("SUPERSEDED"));
        screen.over(|| print::notice(&title, &format!("{} (no failure with --superseded-ok)", failure.message)));
        self.session.answer(&failure.to_json(), &[])?;
        Ok(Exit::Done)
    }

    async fn follow(
        &self,
        ours: &Deployment,
        by: Mention,
        signals: &mut Signals,
    ) -> (Result<Exit, Failure>, Option<Box<Deployment>>) {
        let (mut former, mut next) = (ours.name(), by);
        for _ in 0..SUCCESSORS_LIMIT {
            let successor = match self.end_of(&former, &next, signals).await {
                Ok(successor) => successor,
                Err(failure) => return (Err(failure), None),
            };
            match successor.successor().filter(|_| successor.status == Status::Cancelled) {
                Some(by) => (former, next) = (successor.name(), by),
                None => return (self.judge(ours, &successor), Some(Box::new(successor))),
            }
        }
        let message = format!("{} was superseded, and so were {SUCCESSORS_LIMIT} successors", ours.name());
        (Err(Failure::new(Exit::Cancelled, message)), None)
    }

    /// The successor as it ended.
    async fn end_of(&self, former: &str, next: &Mention, signals: &mut Signals) -> Result<Deployment, Failure> {
        let (session, project) = (self.session, self.project);
        let watched = async {
            let successor = session.connection.deployment(project, &next.id.into()).await?;
            let (name, whose) = (successor.name(), who_deploys(&successor));
            session.screen.line(&format!("{former} was superseded by {name}, {whose}; following that one"));
            let limits = FollowLimits::default();
            let mut follower = Follower { connection: &session.connection, project, id: next.id, limits, after: 0 };
            let mut show = |update| session.screen.update(project, &update);
            tokio::select! {
                ended = follower.follow(self.how, &mut show) => Ok(ended?),
                never = session.screen.break_silence() => match never {},
            }
        };
        let left = |exit, why: &str| {
            Err(Failure::new(
                exit,
                format!("{why} while it followed {}, which superseded {former} and goes on", next.name()),
            )
            .hint(format!("`singletrack status --project {project} {}` shows its status", next.argument())))
        };
        let ended = tokio::select! {
            biased;
            () = signals.first() => left(Exit::Interrupted, "interrupted"),
            () = self.deadline.passed() => left(Exit::TimedOut, "the deadline passed"),
            ended = watched => ended,
        };
        session.screen.clear();
        ended
    }

    fn judge(&self, ours: &Deployment, successor: &Deployment) -> Result<Exit, Failure> {
        if successor.status == Status::Succeeded
            && let Err(why) = covers(successor, ours)
        {
            return Err(Failure {
                exit: Exit::Cancelled,
                message: format!(
                    "{} was superseded by {}, which succeeded and does not cover it: {why}",
                    ours.name(),
                    named(&successor.mention())
                ),
                hint: Some("deploy again, if it is still wanted".to_owned()),
                reason: None,
                problem: serde_json::to_value(ours).ok(),
            });
        }
        result::tell_onlooker(self.session, successor)
    }
}

fn is_outdated(failure: &Failure) -> bool {
    let Some(problem) = &failure.problem else { return false };
    let code = serde_json::from_value(problem["errorCode"].clone()).ok();
    // Where a person set the mark, nobody knows whether a newer build was deployed.
    code == Some(ErrorCode::Outdated) && problem["mark"]["setBy"].is_null()
}

/// Whether the state that `successor` deployed includes the state of `ours`.
///
/// # Errors
/// Why not.
fn covers(successor: &Deployment, ours: &Deployment) -> Result<(), String> {
    if successor.pipeline != ours.pipeline {
        return Err(format!("it ran the pipeline {}", successor.pipeline));
    }
    if ours.commit.is_some() && successor.commit == ours.commit {
        return Ok(());
    }
    match (successor.order, ours.order) {
        (Some(theirs), Some(own)) if theirs < own => Err(format!("its build number {theirs} is lower than {own}")),
        (Some(_), Some(_)) => Ok(()),
        // Of two without numbers the one that came later is newer, unless it went back on purpose.
        _ if successor.retry_of.is_some() => Err("it ran a former deployment again".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(order: Option<u64>, change: serde_json::Value) -> Deployment {
        let mut value = json!({
            "id": "01998c6e-0000-7000-8000-000000000001", "project": "web", "logicalId": "web", "pipeline": "deploy",
            "status": "SUCCEEDED", "queuePosition": 0, "phase": null, "progress": 100, "message": null, "ref": "main",
            "commit": null, "actor": null, "url": null, "order": order, "dryRun": false, "result": { "outputs": {} },
            "error": null, "supersededBy": null, "retryOf": null, "createdAt": "2026-03-01T12:00:00.000Z",
            "startedAt": null, "endedAt": null, "cancelRequestedAt": null, "lastHeartbeatAt": null, "revision": 1,
        });
        for (name, changed) in change.as_object().into_iter().flatten() {
            value[name] = changed.clone();
        }
        serde_json::from_value(value).expect("a deployment")
    }

    #[test]
    fn a_successor_covers_what_is_not_newer_than_itself() {
        let ours = deployment(Some(7), json!({ "commit": "abc" }));
        let covered = |order, change| covers(&deployment(order, change), &ours);
        assert_eq!(covered(Some(8), json!({})), Ok(()));
        assert_eq!(covered(Some(7), json!({})), Ok(()));
        assert!(covered(Some(6), json!({})).is_err_and(|why| why.contains("6 is lower than 7")));
        assert_eq!(covered(Some(6), json!({ "commit": "abc" })), Ok(()), "the same commit");
        assert_eq!(covered(None, json!({})), Ok(()), "it came later");
        let former = json!({ "retryOf": "01998c6e-0000-7000-8000-000000000002" });
        assert!(covered(None, former).is_err_and(|why| why.contains("former")));
        assert!(covered(Some(8), json!({ "pipeline": "destroy" })).is_err_and(|why| why.contains("destroy")));
    }
}
