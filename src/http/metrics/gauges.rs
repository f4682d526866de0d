//! The gauges that are set when somebody asks: what the process knows of itself.

use std::sync::atomic::Ordering;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::labels::CheckLabels;
use crate::{
    exec::workspaces,
    health::{self, Health},
    log,
    queue::Queue,
};

/// Figures that are copied at each scrape.
#[derive(Clone, Debug, Default)]
pub struct CopiedFigures {
    commits: Counter,
    transactions: Counter,
    log_bytes: Gauge,
    checks: Family<CheckLabels, Gauge>,
    check_ages: Family<CheckLabels, Gauge>,
    restarts: Family<CheckLabels, Counter>,
    log_drops: Counter,
    unreadable: Counter,
    workspaces_left: Gauge,
    last_reload_ok: Gauge,
    last_reload_at: Gauge,
    certificate_expires_at: Gauge,
}

impl CopiedFigures {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("store_commits", "Commits of the store that made something durable", self.commits.clone());
        registry.register(
            "store_transactions",
            "Transactions that changed something; several share a commit",
            self.transactions.clone(),
        );
        registry.register(
            "store_log_bytes",
            "Commits of a SQLite store that are not in its file yet; above 16 MiB another program reads it for long",
            self.log_bytes.clone(),
        );
        registry.register("check_ok", "1 while this check of /readyz passes, else 0", self.checks.clone());
        registry.register(
            "check_seconds_since",
            "Seconds since this check last passed; for a task, since its last completed round",
            self.check_ages.clone(),
        );
        registry.register(
            "task_restarts",
            "How often a background task ended, panicked or stood still, and was started again",
            self.restarts.clone(),
        );
        registry.register("log_lines_dropped", "Lines of the log that could not be written", self.log_drops.clone());
        registry.register("workspaces_left", "Workspaces that could not be removed", self.workspaces_left.clone());
        registry.register(
            "unreadable_rows",
            "Rows of the store that this version cannot read; they are skipped where they stand between others",
            self.unreadable.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "1 if the last reload of the configuration succeeded, else 0; the start counts as one",
            self.last_reload_ok.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration was last read with success, in Unix seconds",
            self.last_reload_at.clone(),
        );
        registry.register(
            "tls_certificate_expiry_timestamp_seconds",
            "When the server's own certificate expires, in Unix seconds; 0 without one",
            self.certificate_expires_at.clone(),
        );
    }

    /// Copies everything as it is now.
    pub fn copy(&self, queue: &Queue, health: &Health) {
        let (store, config) = (queue.store(), queue.config());
        let commits = store.commits();
        self.commits.inner().store(commits.commit_count, Ordering::Relaxed);
        self.transactions.inner().store(commits.transaction_count, Ordering::Relaxed);
        self.unreadable.inner().store(store.unreadable_count(), Ordering::Relaxed);
        self.log_bytes.set(store.log_bytes().unwrap_or(0).cast_signed());
        self.workspaces_left.set(workspaces::left_count().cast_signed());
        self.log_drops.inner().store(log::dropped_count(), Ordering::Relaxed);
        let expires_at = config.now().tls.as_ref().map_or(0, |tls| tls.expires_at().as_second());
        self.certificate_expires_at.set(expires_at);
        let last = config.last_reload();
        self.last_reload_ok.set(i64::from(last.is_ok));
        self.last_reload_at.set(last.succeeded_at.as_second());
        self.copy_health(&health.report());
    }

    fn copy_health(&self, report: &health::ReadinessReport) {
        for check in &report.checks {
            let labels = CheckLabels { name: check.name };
            self.checks.get_or_create(&labels).set(i64::from(check.ok));
            self.check_ages.get_or_create(&labels).set(check.seconds_since.cast_signed());
            self.restarts.get_or_create(&labels).inner().store(check.restart_count, Ordering::Relaxed);
        }
    }
}
