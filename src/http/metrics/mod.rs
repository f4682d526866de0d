//! Metrics for Prometheus. Each server has its own registry, so that two servers in one process share nothing.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    extract::State,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{App, error::ErrorAnswer, params::Query};
use crate::{
    config::LastReload,
    exec::workspaces,
    health, log,
    model::{Changes, State as Standing},
    store::Commits,
    wire::ErrorCode,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    status: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    name: &'static str,
}

/// One server's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    outcomes: Family<OutcomeLabels, Counter>,
    parked: Gauge,
    commits: Counter,
    transactions: Counter,
    log_bytes: Gauge,
    checks: Family<CheckLabels, Gauge>,
    check_ages: Family<CheckLabels, Gauge>,
    restarts: Family<CheckLabels, Counter>,
    log_drops: Counter,
    unreadable: Counter,
    workspaces_left: Gauge,
    turned_away: Counter,
    last_reload_ok: Gauge,
    last_reload_at: Gauge,
    refusals: Family<RefusalLabels, Counter>,
    certificate_expires_at: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("singletrack");
        let (requests, outcomes, parked) = (Family::default(), Family::default(), Gauge::default());
        let (commits, transactions) = (Counter::default(), Counter::default());
        registry.register("http_requests", "Requests that were answered", requests.clone());
        registry.register("deployments_finished", "Deployments that became final", outcomes.clone());
        registry.register("parked_requests", "Long-polls and streams that are open now", parked.clone());
        registry.register("store_commits", "Commits of the store that made something durable", commits.clone());
        registry.register(
            "store_transactions",
            "Transactions that changed something; several share a commit",
            transactions.clone(),
        );
        let log_bytes = Gauge::default();
        registry.register(
            "store_log_bytes",
            "Commits of a SQLite store that are not in its file yet; above 16 MiB another program reads it for long",
            log_bytes.clone(),
        );
        let (checks, check_ages, restarts) = (Family::default(), Family::default(), Family::default());
        registry.register("check_ok", "1 while this check of /readyz passes, else 0", checks.clone());
        registry.register(
            "check_seconds_since",
            "Seconds since this check last passed; for a task, since its last completed round",
            check_ages.clone(),
        );
        registry.register(
            "task_restarts",
            "How often a background task ended, panicked or stood still, and was started again",
            restarts.clone(),
        );
        let log_drops = Counter::default();
        registry.register("log_lines_dropped", "Lines of the log that could not be written", log_drops.clone());
        let workspaces_left = Gauge::default();
        registry.register("workspaces_left", "Workspaces that could not be removed", workspaces_left.clone());
        let unreadable = Counter::default();
        registry.register(
            "unreadable_rows",
            "Rows of the store that this version cannot read; they are skipped where they stand between others",
            unreadable.clone(),
        );
        let turned_away = Counter::default();
        registry.register(
            "connections_turned_away",
            "Connections that were closed, or not accepted, since there are too many or no descriptors; nobody's silence counts then",
            turned_away.clone(),
        );
        let (last_reload_ok, last_reload_at) = (Gauge::default(), Gauge::default());
        registry.register(
            "config_last_reload_successful",
            "1 if the last reload of the configuration succeeded, else 0; the start counts as one",
            last_reload_ok.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration was last read with success, in Unix seconds",
            last_reload_at.clone(),
        );
        let refusals = Family::default();
        registry.register(
            "refused_requests",
            "Requests that were refused at the door: without a token, with one that is not valid or may not do it, or from another site",
            refusals.clone(),
        );
        let certificate_expires_at = Gauge::default();
        registry.register(
            "tls_certificate_expiry_timestamp_seconds",
            "When the server's own certificate expires, in Unix seconds; 0 without one",
            certificate_expires_at.clone(),
        );
        Metrics {
            certificate_expires_at,
            last_reload_ok,
            last_reload_at,
            refusals,
            turned_away,
            unreadable,
            workspaces_left,
            registry,
            requests,
            outcomes,
            parked,
            commits,
            transactions,
            log_bytes,
            checks,
            check_ages,
            restarts,
            log_drops,
        }
    }
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
    /// Counts an answer. `route` is one of our own routes: paths from clients would fill the memory.
    pub fn count(&self, method: &Method, route: &str, status: StatusCode) {
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            _ => "other",
        };
        let labels = RequestLabels { method, route: route.to_owned(), status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a request that was refused at the door.
    pub fn count_refused(&self, code: ErrorCode) {
        self.refusals.get_or_create(&RefusalLabels { code: code.as_text() }).inc();
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

    /// Copies the store's counts.
    fn note_commits(&self, commits: Commits) {
        self.commits.inner().store(commits.commit_count, Ordering::Relaxed);
        self.transactions.inner().store(commits.transaction_count, Ordering::Relaxed);
    }

    /// Copies the outcome of the last reload.
    fn note_reload(&self, last: LastReload) {
        self.last_reload_ok.set(i64::from(last.is_ok));
        self.last_reload_at.set(last.succeeded_at.as_second());
    }

    /// Copies the process's readiness.
    fn note_health(&self, report: &health::ReadinessReport) {
        for check in &report.checks {
            let labels = CheckLabels { name: check.name };
            self.checks.get_or_create(&labels).set(i64::from(check.ok));
            self.check_ages.get_or_create(&labels).set(check.seconds_since.cast_signed());
            self.restarts.get_or_create(&labels).inner().store(check.restart_count, Ordering::Relaxed);
        }
    }

    /// Counts the deployments that a commit ended.
    pub fn note(&self, changes: &Changes) {
        for step in changes.steps.iter().filter(|step| step.is_state_change()) {
            if let Standing::Finished { outcome, .. } = &step.deployment().state {
                let labels =
                    OutcomeLabels { status: outcome.status().as_str(), code: outcome.error_code().unwrap_or_default() };
                self.outcomes.get_or_create(&labels).inc();
            }
        }
    }
}

/// `GET /metrics`.
pub async fn metrics(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    app.metrics.note_commits(app.queue.store().commits());
    app.metrics.unreadable.inner().store(app.queue.store().unreadable_count(), Ordering::Relaxed);
    app.metrics.workspaces_left.set(workspaces::left_count().cast_signed());
    app.metrics.log_drops.inner().store(log::dropped_count(), Ordering::Relaxed);
    app.metrics.log_bytes.set(app.queue.store().log_bytes().unwrap_or(0).cast_signed());
    let expires_at = app.config().tls.as_ref().map_or(0, |tls| tls.expires_at().as_second());
    app.metrics.certificate_expires_at.set(expires_at);
    app.metrics.note_reload(app.queue.config().last_reload());
    app.metrics.note_health(&app.health.report());
    let mut text = String::new();
    encode(&mut text, &app.metrics.registry)
        .map_err(|_| ErrorAnswer::new(ErrorCode::Internal, "the figures cannot be written"))?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
