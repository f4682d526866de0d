//! The `[limits]` table. Limits that contradict each other are refused here, with a sentence that says why. Otherwise
//! the server would lose healthy deployments, and no user could find the cause.

use super::{duration::format_duration, reader::ConfigTable};
use crate::model::Limits;

pub(super) fn read(mut section: ConfigTable<'_>) -> Limits {
    let default = Limits::default();
    let lease = section.duration("lease").unwrap_or(default.lease);
    let limits = Limits {
        lease,
        heartbeat: section.duration("heartbeat").unwrap_or(lease / 6),
        kill_budget: section.duration("kill_budget").unwrap_or(default.kill_budget),
        lock_delay: section.duration("lock_delay").unwrap_or(default.lock_delay),
        cancel_grace: section.duration("cancel_grace").unwrap_or(default.cancel_grace),
        reserve: section.duration("reserve").unwrap_or(default.reserve),
        attendance: section.duration("attendance").unwrap_or(default.attendance),
        unclaimed: section.duration("unclaimed").unwrap_or(default.unclaimed),
        fallback_poll: section.duration("fallback_poll").unwrap_or(default.fallback_poll),
    };
    for (key, contradiction) in contradictions(&limits) {
        section.document.problem(section.span_of(key), format!("`{}` {contradiction}", section.path_of(key)));
    }
    section.finish();
    limits
}

/// Each rule that the limits break, with the key that is most likely wrong.
fn contradictions(limits: &Limits) -> Vec<(&'static str, String)> {
    let lease = format_duration(limits.lease);
    let heartbeat = format_duration(limits.heartbeat);
    let kill_budget = format_duration(limits.kill_budget);
    let mut found = Vec::new();
    if limits.heartbeat * 3 > limits.lease {
        found.push((
            "heartbeat",
            format!("({heartbeat}) must fit three times into the lease ({lease}), or one lost heartbeat ends a healthy deployment"),
        ));
    }
    if limits.kill_budget >= limits.lease {
        found.push((
            "kill_budget",
            format!("({kill_budget}) must be shorter than the lease ({lease}): it is the lease's last part, in which a worker without answers stops its command"),
        ));
    } else if limits.kill_budget + limits.heartbeat * 2 > limits.lease {
        // The shim begins to stop the command at deadline − K, so two heartbeats must have had their chance before.
        found.push((
            "kill_budget",
            format!("({kill_budget}) and two heartbeats ({heartbeat} each) must fit into the lease ({lease}), or a late answer stops a healthy command"),
        ));
    }
    if limits.fallback_poll >= limits.attendance {
        found.push((
            "fallback_poll",
            "must be shorter than attendance, or clients that still wait count as gone".to_owned(),
        ));
    }
    found
}
