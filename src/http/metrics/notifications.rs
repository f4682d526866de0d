//! The metrics of notifications. Each series is there from the start.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{config::TargetKind, notify::NotificationFigure};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// How many notifications were sent, were not, and wait.
#[derive(Debug, Default)]
pub(super) struct NotificationMetrics {
    sent: Family<KindLabels, Counter>,
    failed: Family<KindLabels, Counter>,
    dead: Family<KindLabels, Counter>,
    pending: Gauge,
    dead_letters: Gauge,
}

impl NotificationMetrics {
    pub(super) fn new() -> Self {
        let metrics = NotificationMetrics::default();
        for kind in TargetKind::ALL {
            for family in [&metrics.sent, &metrics.failed, &metrics.dead] {
                drop(family.get_or_create(&KindLabels { kind: kind.as_str() }));
            }
        }
        metrics
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let NotificationMetrics { sent, failed, dead, pending, dead_letters } = self;
        registry.register("notifications_sent", "Notifications that their target took", sent.clone());
        registry.register("notifications_failed", "Attempts to send a notification that failed", failed.clone());
        registry.register("notifications_dead", "Notifications that were given up", dead.clone());
        registry.register(
            "notifications_pending",
            "Notifications that are to be sent, as of the last look; 0 on a server without rules",
            pending.clone(),
        );
        registry.register(
            "notifications_dead_letters",
            "Notifications that were given up and are kept, as of the last look; 0 on a server without rules",
            dead_letters.clone(),
        );
    }

    pub(super) fn note(&self, figure: NotificationFigure) {
        let count = |family: &Family<KindLabels, Counter>, kind: TargetKind| {
            family.get_or_create(&KindLabels { kind: kind.as_str() }).inc();
        };
        match figure {
            NotificationFigure::Sent(kind) => count(&self.sent, kind),
            NotificationFigure::Failed(kind) => count(&self.failed, kind),
            NotificationFigure::Dead(kind) => count(&self.dead, kind),
            NotificationFigure::Counts(counts) => {
                self.pending.set(i64::try_from(counts.pending_count).unwrap_or(i64::MAX));
                self.dead_letters.set(i64::try_from(counts.dead_count).unwrap_or(i64::MAX));
            }
        }
    }
}
