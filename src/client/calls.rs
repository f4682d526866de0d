//! Typed calls to a server. Each call may be repeated without harm: a submit carries a key, a cancel is idempotent, and
//! a release names its deployment.

use std::{path::Path, sync::Arc, time::Duration};

use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

pub use super::{
    credentials::{Credentials, IdTokenRequest},
    fault::{Fault, ServerRefusal},
    patience::{Patience, pauses},
    token::Token,
    transport::Notice,
};

use super::{
    error::SetupError,
    transport::{Answer, Call, Transport, WAIT_PARAMETER, code_of, refusal, refused},
};
use crate::{
    clock::Clock,
    config::Since,
    model::{DeploymentId, DeploymentName, IdempotencyKey, ProjectName, Status},
    wire::{
        Accepted, CancelBody, Conflict, Deployment, DeploymentList, ErrorCode, FinishRequest, ForgetAnswer,
        HeartbeatAnswer, Lease, OrderAnswer, OrderRequest, PauseAnswer, PauseRequest, Plan, ProjectList, ProjectView,
        RedactAnswer, RedactRequest, ReleaseAnswer, ReleaseRequest, ReloadAnswer, ReportsAnswer, ReportsRequest,
        ResumeRequest, Takes,
    },
};

/// Which of a project's deployments to list. If nothing is set, all of them.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only deployments with this status.
    pub status: Option<Status>,
    /// Only deployments of this actor.
    pub actor: Option<String>,
    /// Only deployments of this branch or tag.
    pub ref_name: Option<String>,
    /// Only deployments submitted since then.
    pub since: Option<Since>,
}

/// The outcome of a submit.
#[derive(Debug)]
pub enum Submitted {
    /// 202.
    Accepted {
        deployment: Box<Deployment>,
        /// Whether an earlier request with the same key created the deployment.
        replayed: bool,
        /// Whether an earlier unanswered attempt of this client may have created the deployment.
        was_in_doubt: bool,
        /// The lease, if the submit claimed it.
        lease: Option<Lease>,
        /// How long the deployment's run takes.
        takes: Takes,
    },
    /// 409: another deployment holds the slot, or the project is held.
    Conflict {
        /// The holder of the slot, and the place in line that is kept.
        conflict: Box<Conflict>,
        /// The whole problem.
        problem: Value,
    },
    /// Any other refusal.
    Refused(Box<ServerRefusal>),
}

/// What a poll of `turn` found.
#[derive(Debug)]
pub enum Turn {
    /// 200: the slot is kept, or the ticket is final.
    Come(Box<Deployment>),
    /// 408: still in line.
    Still {
        /// The deployment of the ticket.
        deployment: Box<Deployment>,
        /// The holder of the slot, and what holds the project, if the server says so.
        conflict: Option<Box<Conflict>>,
    },
}

/// What a poll of `completion` found.
#[derive(Debug)]
pub enum Completion {
    /// 200: final.
    Final(Box<Deployment>),
    /// 408: not final yet.
    Still(Box<Deployment>),
}

/// A page from the events' long-poll, with its events as raw JSON.
#[derive(Debug, Deserialize)]
pub struct RawPage {
    /// The events after the cursor; empty if the window ended without one.
    pub events: Vec<Value>,
    /// The cursor for the next call.
    pub last: u64,
    /// Whether these are the last events.
    pub r#final: bool,
}

/// What a worker's call under a lease needs: the deployment and the lease's secret.
#[derive(Clone, Copy)]
pub struct Worker<'a> {
    pub project: &'a ProjectName,
    pub id: DeploymentId,
    pub secret: &'a str,
}

/// A connection to a server, with the caller's token.
pub struct Connection {
    pub(super) transport: Transport,
}

impl Connection {
    /// A connection to `base`; nothing is sent yet.
    ///
    /// # Errors
    /// The certificate file cannot be used, or the address holds a password.
    pub fn new(
        base: Url,
        credentials: Credentials,
        ca_cert: Option<&Path>,
        patience: Patience,
        notice: Notice,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        Transport::new(base, credentials, ca_cert, patience, notice, clock).map(|transport| Connection { transport })
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        self.transport.server()
    }

    /// The token that is shown, or how to get one, for a process that goes on in this one's place.
    pub fn testament(&self) -> (Option<String>, Option<IdTokenRequest>) {
        self.transport.testament()
    }

    /// Whether a token is sent over an unencrypted connection to another machine.
    pub fn exposes_token(&self) -> bool {
        self.transport.exposes_token()
    }

    /// The fault after which a call is being retried now, if any.
    pub fn trouble(&self) -> Option<String> {
        self.transport.trouble()
    }

    /// Whether the last submit may have reached the server although no answer came.
    pub fn is_in_doubt(&self) -> bool {
        self.transport.is_in_doubt()
    }

    /// Submits. With the same `key`, `body` must be the same bytes.
    ///
    /// # Errors
    /// No usable answer came.
    pub async fn submit(&self, project: &ProjectName, key: &IdempotencyKey, body: &[u8]) -> Result<Submitted, Fault> {
        self.submit_to(project, "deployments", key, body).await
    }

    /// The same by another route of the project that makes deployments.
    ///
    /// # Errors
    /// No usable answer came.
    pub async fn submit_to(
        &self,
        project: &ProjectName,
        route: &str,
        key: &IdempotencyKey,
        body: &[u8],
    ) -> Result<Submitted, Fault> {
        let url = self.project_url(project, &[route]);
        let call = Call { key: Some(key), body: Some(body.to_vec()), ..Call::new(Method::POST, url) };
        let answer = self.transport.send(&call).await?;
        if answer.status.is_success() {
            let (replayed, was_in_doubt) = (answer.replayed, answer.was_in_doubt);
            let accepted = self.transport.read::<Accepted>(answer)?;
            let Accepted { deployment, lease, takes } = *accepted;
            let deployment = Box::new(deployment);
            return Ok(Submitted::Accepted { deployment, replayed, was_in_doubt, lease, takes });
        }
        // Of a held project, a conflict names no holder where the slot is free.
        let is_conflict = ["deploymentId", "ticket"].into_iter().any(|member| answer.body.get(member).is_some());
        if answer.status == StatusCode::CONFLICT && is_conflict {
            let problem = answer.body.clone();
            return Ok(Submitted::Conflict { conflict: self.transport.read(answer)?, problem });
        }
        Ok(Submitted::Refused(Box::new(refusal(answer))))
    }

    /// Asks what a submit would do. `flags` are query flags; they say what else the client would do.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn plan(
        &self,
        project: &ProjectName,
        key: Option<&IdempotencyKey>,
        body: &[u8],
        flags: &[&str],
    ) -> Result<(Plan, Value), Fault> {
        let mut url = self.project_url(project, &["deployments"]);
        url.query_pairs_mut().append_pair("dryRun", "true").extend_pairs(flags.iter().map(|flag| (flag, "true")));
        let call = Call { key, body: Some(body.to_vec()), ..Call::new(Method::POST, url) };
        let answer = self.succeed(&call).await?;
        let whole = answer.body.clone();
        Ok((*self.transport.read(answer)?, whole))
    }

    /// Asks whether the slot is kept for a ticket. The server parks the call for up to `window`.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn turn(&self, project: &ProjectName, id: DeploymentId, window: Duration) -> Result<Turn, Fault> {
        let answer = self.park(project, id, "turn", window, ErrorCode::StillWaiting).await?;
        if answer.status.is_success() {
            return Ok(Turn::Come(self.transport.read(answer)?));
        }
        let conflict: Option<Box<Conflict>> = serde_json::from_value(answer.body.clone()).ok();
        // Without both, the slot is being handed on right now.
        let conflict = conflict.filter(|conflict| conflict.blocker.is_some() || conflict.hold.is_some());
        Ok(Turn::Still { deployment: self.transport.member(answer, "deployment")?, conflict })
    }

    /// Asks whether a deployment is final. The server parks the call for up to `window`.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn completion(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        window: Duration,
    ) -> Result<Completion, Fault> {
        let answer = self.park(project, id, "completion", window, ErrorCode::StillRunning).await?;
        if answer.status.is_success() {
            return Ok(Completion::Final(self.transport.read(answer)?));
        }
        Ok(Completion::Still(self.transport.member(answer, "deployment")?))
    }

    /// The events after `after`. The server parks the call for up to `window`. Each event stays raw JSON, so that one
    /// event of an unknown kind does not lose the others. An answer that is not from Singletrack is a fault at once,
    /// without a retry.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn events(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        after: u64,
        window: Duration,
    ) -> Result<RawPage, Fault> {
        self.events_from(project, id, &[("after", after.to_string())], window).await
    }

    /// The last existing events, without waiting for more: from the last `tail` lines of output on, or since `since`.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn last_events(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        tail: Option<u64>,
        since: Option<Since>,
    ) -> Result<RawPage, Fault> {
        let tail = tail.map(|tail| ("tail", tail.to_string()));
        let since = since.map(|since| ("since", since.to_string()));
        let start: Vec<_> = tail.into_iter().chain(since).collect();
        self.events_from(project, id, &start, Duration::ZERO).await
    }

    async fn events_from(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        start: &[(&str, String)],
        window: Duration,
    ) -> Result<RawPage, Fault> {
        let mut url = self.deployment_url(project, id, &["events"]);
        url.query_pairs_mut().extend_pairs(start).append_pair(WAIT_PARAMETER, &window.as_secs().to_string());
        let answer = self.succeed(&Call { window, is_optional: true, ..Call::new(Method::GET, url) }).await?;
        self.transport.read(answer).map(|page| *page)
    }

    /// Opens the event stream after `after`. One attempt, because the reader must handle a stream's end anyway. `None`:
    /// the deployment has ended, and all its events were read.
    ///
    /// # Errors
    /// There is no stream.
    pub async fn event_stream(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        after: u64,
    ) -> Result<Option<Response>, Fault> {
        self.transport.open_stream(self.deployment_url(project, id, &["events"]), after).await
    }

    /// Asks for a deployment to be stopped. The `bool` says whether this changed something.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn cancel(
        &self,
        project: &ProjectName,
        name: &DeploymentName,
        body: &CancelBody,
    ) -> Result<(Deployment, bool), Fault> {
        let url = self.named_url(project, name, &["cancel"]);
        let call = Call { body: Some(to_json(body)), ..Call::new(Method::POST, url) };
        let answer = self.succeed(&call).await?;
        let changed = answer.status == StatusCode::ACCEPTED;
        Ok((*self.transport.read(answer)?, changed))
    }

    /// Takes a leaked secret out of what is recorded of a deployment.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn redact(
        &self,
        project: &ProjectName,
        name: &DeploymentName,
        body: &RedactRequest,
    ) -> Result<RedactAnswer, Fault> {
        let url = self.named_url(project, name, &["redact"]);
        let answer = self.succeed(&Call { body: Some(to_json(body)), ..Call::new(Method::POST, url) }).await?;
        self.transport.read(answer).map(|redacted| *redacted)
    }

    /// A deployment.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn deployment(&self, project: &ProjectName, name: &DeploymentName) -> Result<Deployment, Fault> {
        let answer = self.succeed(&Call::new(Method::GET, self.named_url(project, name, &[]))).await?;
        self.transport.read(answer).map(|deployment| *deployment)
    }

    /// A page of the deployments that match the filter, newest first.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn deployments(
        &self,
        project: &ProjectName,
        wanted: &Filter,
        limit: u64,
        cursor: Option<&str>,
    ) -> Result<DeploymentList, Fault> {
        let mut url = self.project_url(project, &["deployments"]);
        let wanted = [
            ("status", wanted.status.map(|status| status.as_str().to_owned())),
            ("actor", wanted.actor.clone()),
            ("ref", wanted.ref_name.clone()),
            ("since", wanted.since.map(|since| since.to_string())),
            ("cursor", cursor.map(str::to_owned)),
        ];
        let wanted = wanted.into_iter().filter_map(|(name, value)| Some((name, value?)));
        url.query_pairs_mut().append_pair("limit", &limit.to_string()).extend_pairs(wanted);
        let answer = self.succeed(&Call::new(Method::GET, url)).await?;
        self.transport.read(answer).map(|list| *list)
    }

    /// A project with its slot and line.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn project(&self, project: &ProjectName) -> Result<ProjectView, Fault> {
        let answer = self.succeed(&Call::new(Method::GET, self.project_url(project, &[]))).await?;
        self.transport.read(answer).map(|view| *view)
    }

    /// A page of projects, by name.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn projects(&self, limit: u64, cursor: Option<&str>) -> Result<ProjectList, Fault> {
        let mut url = self.url(&["v1", "projects"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        let answer = self.succeed(&Call::new(Method::GET, url)).await?;
        self.transport.read(answer).map(|list| *list)
    }

    /// Forces the slot free.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn release(&self, project: &ProjectName, body: &ReleaseRequest) -> Result<ReleaseAnswer, Fault> {
        let url = self.project_url(project, &["release"]);
        let call = Call { body: Some(to_json(body)), ..Call::new(Method::POST, url) };
        let answer = self.succeed(&call).await?;
        self.transport.read(answer).map(|released| *released)
    }

    /// Holds a project.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn pause(&self, project: &ProjectName, body: &PauseRequest) -> Result<PauseAnswer, Fault> {
        let url = self.project_url(project, &["pause"]);
        let answer = self.succeed(&Call { body: Some(to_json(body)), ..Call::new(Method::POST, url) }).await?;
        self.transport.read(answer).map(|paused| *paused)
    }

    /// Ends the pause of a project.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn resume(&self, project: &ProjectName, body: &ResumeRequest) -> Result<PauseAnswer, Fault> {
        let url = self.project_url(project, &["resume"]);
        let answer = self.succeed(&Call { body: Some(to_json(body)), ..Call::new(Method::POST, url) }).await?;
        self.transport.read(answer).map(|resumed| *resumed)
    }

    /// Sets the mark of a project, or removes it.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn set_order(&self, project: &ProjectName, body: &OrderRequest) -> Result<OrderAnswer, Fault> {
        let url = self.project_url(project, &["order"]);
        let answer = self.succeed(&Call { body: Some(to_json(body)), ..Call::new(Method::PUT, url) }).await?;
        self.transport.read(answer).map(|marked| *marked)
    }

    /// Forgets a project.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn forget(&self, project: &ProjectName, reason: Option<&str>) -> Result<ForgetAnswer, Fault> {
        let mut url = self.project_url(project, &[]);
        if let Some(reason) = reason {
            url.query_pairs_mut().append_pair("reason", reason);
        }
        let answer = self.succeed(&Call::new(Method::DELETE, url)).await?;
        self.transport.read(answer).map(|forgotten| *forgotten)
    }

    /// Has the server read its configuration again.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses, or the file is wrong.
    pub async fn reload(&self) -> Result<ReloadAnswer, Fault> {
        let answer = self.succeed(&Call::new(Method::POST, self.url(&["v1", "admin", "reload"]))).await?;
        self.transport.read(answer).map(|reloaded| *reloaded)
    }

    /// Renews a lease. The server parks the call for up to `window`, so that a cancel can be its answer. `limit` is how
    /// much longer the answer may take. One attempt.
    ///
    /// # Errors
    /// No usable answer came, or the lease is lost.
    pub async fn heartbeat(
        &self,
        worker: Worker<'_>,
        window: Duration,
        limit: Duration,
    ) -> Result<HeartbeatAnswer, Fault> {
        let mut url = self.deployment_url(worker.project, worker.id, &["heartbeat"]);
        url.query_pairs_mut().append_pair(WAIT_PARAMETER, &window.as_secs().to_string());
        let call = Call { window, limit, lease: Some(worker.secret), ..Call::new(Method::POST, url) };
        self.once(&call).await
    }

    /// Sends reports. One attempt.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn reports(&self, worker: Worker<'_>, body: &ReportsRequest) -> Result<ReportsAnswer, Fault> {
        let url = self.deployment_url(worker.project, worker.id, &["reports"]);
        self.once(&Call { body: Some(to_json(body)), lease: Some(worker.secret), ..Call::new(Method::POST, url) }).await
    }

    /// Reports the outcome of a deployment. One attempt.
    ///
    /// # Errors
    /// No usable answer came, or the lease is lost.
    pub async fn finish(&self, worker: Worker<'_>, body: &FinishRequest) -> Result<Deployment, Fault> {
        let url = self.deployment_url(worker.project, worker.id, &["finish"]);
        self.once(&Call { body: Some(to_json(body)), lease: Some(worker.secret), ..Call::new(Method::POST, url) }).await
    }

    async fn once<T: serde::de::DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Fault> {
        let answer = self.transport.send_once(call).await?;
        if !answer.status.is_success() {
            return Err(refused(answer));
        }
        self.transport.read(answer).map(|body| *body)
    }

    async fn park(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        route: &str,
        window: Duration,
        still: ErrorCode,
    ) -> Result<Answer, Fault> {
        let mut url = self.deployment_url(project, id, &[route]);
        url.query_pairs_mut().append_pair(WAIT_PARAMETER, &window.as_secs().to_string());
        let answer = self.transport.send(&Call { window, ..Call::new(Method::GET, url) }).await?;
        if answer.status.is_success() || code_of(&answer.body) == Some(still) {
            return Ok(answer);
        }
        Err(refused(answer))
    }

    pub(super) async fn succeed(&self, call: &Call<'_>) -> Result<Answer, Fault> {
        let answer = self.transport.send(call).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(refused(answer)) }
    }

    pub(super) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.transport.base.clone();
        // Only a URL without a host cannot have a path, and the command line refuses such URLs.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn project_url(&self, project: &ProjectName, rest: &[&str]) -> Url {
        let mut segments = vec!["v1", "projects", project.as_str()];
        segments.extend(rest);
        self.url(&segments)
    }

    fn deployment_url(&self, project: &ProjectName, id: DeploymentId, rest: &[&str]) -> Url {
        self.named_url(project, &id.into(), rest)
    }

    fn named_url(&self, project: &ProjectName, name: &DeploymentName, rest: &[&str]) -> Url {
        // If the number is of another project, the server refuses it.
        let name = if name.is_of(project) { name.which.to_string() } else { name.to_string() };
        let mut segments = vec!["deployments", name.as_str()];
        segments.extend(rest);
        self.project_url(project, &segments)
    }
}

fn to_json(body: &impl serde::Serialize) -> Vec<u8> {
    // Serializing cannot fail: these are our own types, and no map in them has keys that are not strings.
    serde_json::to_vec(body).unwrap_or_default()
}
