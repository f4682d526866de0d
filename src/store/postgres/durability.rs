//! Reports once, at the start, whether answered deployments survive a crash under the database's settings.

use super::facts::Facts;

/// Logs how durable the database's settings are.
pub(super) fn report(facts: &Facts) {
    let Facts { fsync, synchronous_commit, full_page_writes, synchronous_standbys, standby_count, .. } = facts;
    let version = format!("{}.{}", facts.version / 10_000, facts.version % 10_000);
    tracing::info!(
        postgresql.version = version,
        fsync,
        synchronous_commit,
        full_page_writes,
        synchronous_standby_names = synchronous_standbys,
        standby_count,
        "the database's durability"
    );
    for warning in warnings(facts) {
        tracing::warn!("{warning}");
    }
}

/// The warnings for an operator about these settings.
fn warnings(facts: &Facts) -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if facts.timeline.is_none() || facts.system.is_none() {
        warnings.push(
            "the database does not tell which cluster and timeline it is (pg_control_system(), pg_current_wal_lsn()): a \
             fail-over or a restore that loses commits may go unnoticed, and fencing tokens be given twice; see the \
             operator's guide",
        );
    }
    if facts.fsync != "on" {
        warnings.push("the database has fsync off: a power cut can lose and damage everything that was answered");
    }
    if facts.full_page_writes != "on" {
        warnings.push("the database has full_page_writes off: a power cut can damage it");
    }
    match facts.synchronous_commit.as_str() {
        "off" => warnings.push(
            "the database has synchronous_commit off: a crash loses what was answered in the last moments before it",
        ),
        "local" if !facts.synchronous_standbys.is_empty() => warnings.push(
            "the database has synchronous_commit local: a fail-over can lose what was answered, though there are \
             synchronous standbys",
        ),
        _ => {}
    }
    if facts.synchronous_standbys.is_empty() && facts.standby_count > 0 {
        warnings.push(
            "no standby of the database is synchronous: a fail-over can lose what was answered in the moments before \
             it; see synchronous_standby_names",
        );
    }
    if !facts.synchronous_standbys.is_empty() && facts.synchronous_standby_count == 0 {
        warnings.push("no synchronous standby of the database is connected: every commit waits for one");
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_can_lose_an_answer_is_told() {
        let safe = Facts {
            version: 150_003,
            is_standby: false,
            backend: 1,
            encoding: "UTF8".to_owned(),
            database: "deploys".to_owned(),
            system: Some("1".to_owned()),
            timeline: Some(1),
            life: String::new(),
            tables: None,
            lineage: None,
            fsync: "on".to_owned(),
            synchronous_commit: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            synchronous_standbys: String::new(),
            standby_count: 0,
            synchronous_standby_count: 0,
        };
        assert_eq!(warnings(&safe), [""; 0]);
        let off = || "off".to_owned();
        let told = |facts: Facts, word: &str| {
            let warnings = warnings(&facts);
            assert!(warnings.len() == 1 && warnings[0].contains(word), "{warnings:?}");
        };
        told(Facts { fsync: off(), ..safe.clone() }, "fsync");
        told(Facts { full_page_writes: off(), ..safe.clone() }, "full_page_writes");
        told(Facts { timeline: None, ..safe.clone() }, "timeline");
        told(Facts { synchronous_commit: off(), ..safe.clone() }, "synchronous_commit");
        told(Facts { standby_count: 1, ..safe.clone() }, "fail-over");
        let standbys = "FIRST 1 (a)".to_owned();
        told(Facts { synchronous_standbys: standbys.clone(), ..safe.clone() }, "is connected");
        let local = Facts {
            synchronous_standbys: standbys,
            standby_count: 1,
            synchronous_standby_count: 1,
            synchronous_commit: "local".to_owned(),
            ..safe
        };
        told(local, "fail-over");
    }
}
