//! What this server counts and times as it happens: in memory, after the commit, so that no caller waits for it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{
    labels::{CancelLabels, HANDOFF_SECONDS, REQUEST_SECONDS, ReapLabels, RefusalLabels, RequestLabels, RouteLabels},
    notifications::NotificationMetrics,
    projects::AllProjects,
};
use crate::{
    config::LiveConfig,
    model::{
        Changes, Deployment, DeploymentId, EventBody, ProjectName, Scope, State as Standing, Status, Step,
        outcome_codes,
    },
    notify::NotificationFigure,
    wire::ErrorCode,
};

/// A method in lower case, and what it needs: nothing here looks at that.
type MethodNeeds = (&'static str, &'static [Scope]);

/// How many hand-offs are timed at a time. One is under way in a project at most, and at another server it may end.
const HANDOFFS_LIMIT: usize = 4096;
/// The route of a request that has none of ours.
const NO_ROUTE: &str = "none";
/// The statuses whose series are there from the start, for each route.
const USUAL_STATUSES: [u16; 3] = [200, 500, 503];

/// What one server counts and times.
#[derive(Debug)]
pub struct Metrics {
    pub(super) projects: AllProjects,
    requests: Family<RequestLabels, Counter>,
    request_times: HashMap<&'static str, Histogram>,
    request_time_family: Family<RouteLabels, Histogram, fn() -> Histogram>,
    parked: Gauge,
    handoffs: Histogram,
    /// The deployments for which a slot became free and that no worker has claimed yet.
    awaited: Mutex<HashMap<ProjectName, (DeploymentId, Instant)>>,
    cancels: Family<CancelLabels, Counter>,
    reaps: Family<ReapLabels, Counter>,
    lost_lease_calls: Counter,
    turned_away: Counter,
    refusals: Family<RefusalLabels, Counter>,
    notifications: NotificationMetrics,
}

/// An open long-poll or stream, until dropped.
#[derive(Debug)]
pub struct Parked(Gauge);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Nothing has happened yet. `routes`: the routes, each with its methods and what these need.
    pub fn new(live: LiveConfig, routes: Vec<(&'static str, &'static [MethodNeeds])>) -> Self {
        let request_histogram: fn() -> Histogram = || Histogram::new(REQUEST_SECONDS);
        let request_time_family = Family::new_with_constructor(request_histogram);
        let requests: Family<RequestLabels, Counter> = Family::default();
        let mut request_times = HashMap::new();
        let no_route: (&str, &[MethodNeeds]) = (NO_ROUTE, &[]);
        for (route, methods) in routes.into_iter().chain([no_route]) {
            request_times.insert(route, request_time_family.get_or_create_owned(&RouteLabels { route }));
            for (method, _) in methods {
                let method = method_label(&method.to_ascii_uppercase());
                for status in USUAL_STATUSES {
                    let _ = requests.get_or_create(&RequestLabels { method, route, status });
                }
            }
        }
        let cancels: Family<CancelLabels, Counter> = Family::default();
        for kind in ["requested", "superseded"] {
            let _ = cancels.get_or_create(&CancelLabels { kind });
        }
        let reaps: Family<ReapLabels, Counter> = Family::default();
        for code in ["ABANDONED", "EXPIRED", "UNCLAIMED", "WORKER_LOST"] {
            let _ = reaps.get_or_create(&ReapLabels { code });
        }
        let refusals: Family<RefusalLabels, Counter> = Family::default();
        for code in ErrorCode::ALL.into_iter().filter(|code| is_refusal(*code)) {
            let _ = refusals.get_or_create(&RefusalLabels { code: code.as_text() });
        }
        Metrics {
            projects: AllProjects::new(live),
            requests,
            request_times,
            request_time_family,
            parked: Gauge::default(),
            handoffs: Histogram::new(HANDOFF_SECONDS),
            awaited: Mutex::default(),
            cancels,
            reaps,
            lost_lease_calls: Counter::default(),
            turned_away: Counter::default(),
            refusals,
            notifications: NotificationMetrics::new(),
        }
    }

    /// Counts what became of notifications.
    pub fn note_notification(&self, figure: NotificationFigure) {
        self.notifications.note(figure);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        self.notifications.register(registry);
        registry.register("http_requests", "Requests that were answered", self.requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "How long requests took until their answer began; long-polls and claims wait for as long as their client wants",
            self.request_time_family.clone(),
        );
        registry.register("parked_requests", "Long-polls and streams that are open now", self.parked.clone());
        self.projects.register(registry);
        registry.register(
            "slot_handoff_seconds",
            "How long a slot that became free for a deployment in line stood still until a worker claimed it",
            self.handoffs.clone(),
        );
        registry.register(
            "cancel_requests",
            "Deployments that were asked to stop: on request, or because a newer one takes their place",
            self.cancels.clone(),
        );
        registry.register(
            "deployments_reaped",
            "Deployments that this server ended because their sign of life did not come, or their deadline passed",
            self.reaps.clone(),
        );
        registry.register(
            "lost_lease_calls",
            "Calls of workers that were refused because the lease is not, or no longer, theirs",
            self.lost_lease_calls.clone(),
        );
        registry.register(
            "connections_turned_away",
            "Connections that were closed, or not accepted, since there are too many or no descriptors; nobody's silence counts then",
            self.turned_away.clone(),
        );
        registry.register(
            "refused_requests",
            "Requests that were refused because of who sent them: without a token, with one that is not valid or may not do it, or from another site",
            self.refusals.clone(),
        );
    }

    /// Counts and times an answer. `route` is one of our own routes: paths from clients would fill the memory.
    pub fn count(&self, method: &Method, route: Option<&str>, status: StatusCode, took: Duration) {
        let route = route.unwrap_or(NO_ROUTE);
        let Some((route, time)) = self.request_times.get_key_value(route) else { return };
        time.observe(took.as_secs_f64());
        let method = method_label(method.as_str());
        self.requests.get_or_create(&RequestLabels { method, route, status: status.as_u16() }).inc();
    }

    /// Counts a refusal because of who sent the request.
    pub fn count_refused(&self, code: ErrorCode) {
        self.refusals.get_or_create(&RefusalLabels { code: code.as_text() }).inc();
    }

    /// Counts a submit that found the slot held.
    pub fn count_conflict(&self, project: &ProjectName) {
        self.projects.of(project).conflicts.inc();
    }

    /// Counts a call under a lease that is not, or no longer, the caller's.
    pub fn count_lost_lease(&self) {
        self.lost_lease_calls.inc();
    }

    /// Counts an open long-poll or stream.
    pub fn park(&self) -> Parked {
        self.parked.inc();
        Parked(self.parked.clone())
    }

    /// Counts a connection that was turned away.
    pub fn count_turned_away(&self) {
        self.turned_away.inc();
    }

    /// Counts and times what a commit of this server changed.
    pub fn note(&self, project: &ProjectName, changes: &Changes) {
        // Most commits are signs of life and output.
        if !changes.steps.iter().any(Step::is_state_change) {
            return;
        }
        let series = self.projects.of(project);
        for step in changes.steps.iter().filter(|step| step.is_state_change()) {
            let deployment = step.deployment();
            if step.is_creation() {
                series.submits.inc();
            }
            for event in step.events() {
                match &event.body {
                    EventBody::Cancel { superseded_by, .. } => {
                        let kind = if superseded_by.is_some() { "superseded" } else { "requested" };
                        self.cancels.get_or_create(&CancelLabels { kind }).inc();
                    }
                    EventBody::Status { status: Status::Running } => {
                        series.wait.observe(seconds(deployment.created_at, deployment.started_at));
                    }
                    EventBody::Status { .. } | EventBody::Queue { .. } | EventBody::Phase { .. } => {}
                    EventBody::Progress { .. } | EventBody::Output { .. } | EventBody::Log { .. } => {}
                    EventBody::Gap { .. } | EventBody::Complete => {}
                }
            }
            if let Standing::Finished { outcome, at, .. } = &deployment.state {
                series.count_end(outcome);
                if let Some(started_at) = deployment.started_at {
                    series.duration.observe(seconds(started_at, Some(*at)));
                }
            }
            self.note_handoff(step, deployment);
        }
        for reaped in changes.audit.iter().filter(|line| line.action == "reap") {
            if let Some((_, code)) = outcome_codes().find(|(_, code)| *code == reaped.detail) {
                self.reaps.get_or_create(&ReapLabels { code }).inc();
            }
        }
    }

    /// A hand-off begins when the slot becomes a waiting deployment's, and ends when a worker claims it. A newcomer to a free
    /// slot was not handed anything.
    fn note_handoff(&self, step: &Step, deployment: &Deployment) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, project) = (deployment.id, &deployment.project);
        match &deployment.state {
            Standing::Reserved | Standing::Ready if is_given(step) && !step.is_creation() => {
                if awaited.len() < HANDOFFS_LIMIT || awaited.contains_key(project) {
                    awaited.insert(project.clone(), (id, Instant::now()));
                }
            }
            // Its client came back for it.
            Standing::Reserved | Standing::Ready => {}
            Standing::Running(_) => {
                if let Some((_, since)) = awaited.remove(project).filter(|(of, _)| *of == id) {
                    self.handoffs.observe(since.elapsed().as_secs_f64());
                }
            }
            Standing::Waiting(_) | Standing::Finished { .. } => {
                if awaited.get(project).is_some_and(|(of, _)| *of == id) {
                    awaited.remove(project);
                }
            }
        }
    }
}

/// Whether the step gives the slot to its deployment.
fn is_given(step: &Step) -> bool {
    step.events().iter().any(|event| matches!(event.body, EventBody::Queue { position: 0, .. }))
}

/// How long something took, by the times that people see. The clocks of two servers may differ.
fn seconds(from: Timestamp, to: Option<Timestamp>) -> f64 {
    to.map_or(0.0, |to| to.duration_since(from).as_secs_f64().max(0.0))
}

/// Whether this refusal tells of who sent the request, so that its series is there from the start.
fn is_refusal(code: ErrorCode) -> bool {
    matches!(code.status(), 401 | 403 | 429) || matches!(code, ErrorCode::HolderAlive | ErrorCode::NotFound)
}

fn method_label(method: &str) -> &'static str {
    ["GET", "POST", "PUT", "HEAD"].into_iter().find(|known| *known == method).unwrap_or("other")
}
