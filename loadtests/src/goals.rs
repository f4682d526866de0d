//! The goals, how each goal is measured, and whether each goal is met.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    report::{Missing, Summary, table::number},
    scenario::{contention, end_to_end, fan_out, growth, logs, small, starts, throughput, wrapper},
};

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    pub id: &'static str,
    pub what: String,
    /// What was found, in words.
    pub found: String,
    pub wanted: String,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    Met,
    NotMet,
    /// It could not be told, for want of this.
    Unknown(String),
    /// Its scenario was not run.
    NotRun,
}

/// Which side of a limit is good.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(limit) => value >= limit,
            Bound::AtMost(limit) => value <= limit,
        }
    }

    fn words(self, unit: &str) -> String {
        match self {
            Bound::AtLeast(limit) => format!("≥ {}{unit}", number(limit)),
            Bound::AtMost(limit) => format!("≤ {}{unit}", number(limit)),
        }
    }
}

/// What was measured, to be asked for by name.
pub struct Measured<'a> {
    pub summaries: &'a [Summary],
    pub missing: &'a [Missing],
    /// What Singletrack is called on the store of this run.
    pub own: &'a str,
}

impl Measured<'_> {
    fn summary(&self, scenario: &str, subject: &str) -> Option<&Summary> {
        self.summaries.iter().find(|summary| summary.scenario == scenario && summary.subject == subject)
    }

    fn value(&self, scenario: &str, subject: &str, figure: &str) -> Option<f64> {
        self.summary(scenario, subject)?.value(figure).filter(|value| value.is_finite())
    }

    /// Ours as a multiple of a peer's.
    fn ratio(&self, id: &'static str, what: &str, (scenario, figure): (&str, &str), peer: &str, wanted: Bound) -> Goal {
        let what = format!("{what}, as a multiple of {peer}'s");
        let (ours, theirs) = (self.value(scenario, self.own, figure), self.value(scenario, peer, figure));
        let (found, verdict) = match (ours, theirs) {
            (Some(ours), Some(theirs)) if theirs > 0.0 => {
                let ratio = ours / theirs;
                (format!("{} ({} : {})", number(ratio), number(ours), number(theirs)), judge(wanted.holds(ratio)))
            }
            (None, _) => (String::new(), Verdict::NotRun),
            (Some(ours), _) => (number(ours), Verdict::Unknown(self.lacks(peer))),
        };
        Goal { id, what, found, wanted: wanted.words(" ×"), verdict }
    }

    /// A figure of ours by itself.
    fn own(&self, id: &'static str, what: &str, (scenario, figure): (&str, &str), unit: &str, wanted: Bound) -> Goal {
        self.of(id, what, (scenario, self.own, figure), unit, wanted)
    }

    fn of(&self, id: &'static str, what: &str, at: (&str, &str, &str), unit: &str, wanted: Bound) -> Goal {
        let (scenario, subject, figure) = at;
        self.computed(id, what, self.value(scenario, subject, figure), unit, wanted)
    }

    fn computed(&self, id: &'static str, what: &str, value: Option<f64>, unit: &str, wanted: Bound) -> Goal {
        let (found, verdict) = match value {
            Some(value) => (format!("{}{unit}", number(value)), judge(wanted.holds(value))),
            None => (String::new(), Verdict::NotRun),
        };
        Goal { id, what: what.to_owned(), found, wanted: wanted.words(unit), verdict }
    }

    /// The large store's figure as a multiple of the small one's.
    fn grown(&self, what: &str, (scenario, figure): (&str, &str), limit: f64) -> Goal {
        let both: Vec<_> = self.summaries.iter().filter(|summary| summary.scenario == scenario).collect();
        let value = match both[..] {
            [small, large] => small.value(figure).zip(large.value(figure)).map(|(small, large)| large / small),
            _ => None,
        };
        self.computed("P7", what, value, " ×", Bound::AtMost(limit))
    }

    fn lacks(&self, peer: &str) -> String {
        match self.missing.iter().find(|missing| missing.peer == peer) {
            Some(missing) => format!("needs {peer}: {}", missing.why),
            None => format!("needs {peer}: run with --peers"),
        }
    }
}

fn judge(holds: bool) -> Verdict {
    if holds { Verdict::Met } else { Verdict::NotMet }
}

/// All goals. Those against queues on PostgreSQL are for a run with that store.
pub fn of(measured: &Measured<'_>) -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    let m = measured;
    let (many, one) = (throughput::name(64), throughput::name(1));
    let pairs = "pairs/s";
    let (race, hand_off) = (contention::NAME, "overhead per hand-off");
    let submits = m.value(race, m.own, "submits").zip(m.value(race, m.own, "clients"));
    // The first one gets the slot with its first submit.
    let resubmits = submits.map(|(submits, clients)| (submits - clients) / (clients - 1.0));
    let worst = m.value(race, m.own, "worst hand-off").zip(m.value(race, m.own, "median hand-off"));
    let lost = m.value(logs::NAME, m.own, "median submit + finish slower by");
    let on_postgres = m.own.ends_with("postgres");
    let mut goals = vec![
        m.ratio("P1", "pairs/s, 64 clients", (&many, pairs), "etcd", AtLeast(5.0)),
        m.ratio("P1", "pairs/s, 64 clients", (&many, pairs), "postgres-row", AtLeast(3.0)),
        m.ratio("P1", "pairs/s, 64 clients", (&many, pairs), "redis-setnx", AtLeast(1.0)),
        m.ratio("P1", "pairs/s, 1 client", (&one, pairs), "postgres-row", AtLeast(1.0)),
        m.ratio("P1", "server CPU per pair, 64 clients", (&many, "server CPU per pair"), "etcd", AtMost(0.25)),
        m.ratio("P2", "overhead per hand-off", (race, hand_off), "etcd", AtMost(0.3)),
        m.ratio("P2", "overhead per hand-off", (race, hand_off), "redis-blpop", AtMost(1.2)),
        m.own("P2", "inversions", (race, "inversions"), "", AtMost(0.0)),
        m.computed("P2", "re-submits of each one who waits", resubmits, "", AtMost(1.0)),
        m.computed("P2", "worst hand-off : median", worst.map(|(w, m)| w / m), " ×", AtMost(5.0)),
        m.ratio("P3", "a process around true", (wrapper::ONE, "process"), "etcdctl", AtMost(0.2)),
        m.ratio("P3", "a process around true (an aim)", (wrapper::ONE, "process"), "flock", AtMost(1.5)),
        m.ratio(
            "P4",
            "10,000 polls of one, last told",
            (fan_out::POLLS, "last one told after"),
            "nchan-2",
            AtMost(0.6),
        ),
        m.own("P4", "memory per parked poll", (fan_out::POLLS, "memory per parked poll"), " KiB", AtMost(10.0)),
    ];
    let spread = (fan_out::SPREAD_POLLS, "last one told after");
    goals.extend([
        m.ratio("P4", "10,000 polls of 1,000, last told", spread, "nchan-2", AtMost(0.6)),
        m.own(
            "P4",
            "memory per parked poll, 1,000 deployments",
            (fan_out::SPREAD_POLLS, "memory per parked poll"),
            " KiB",
            AtMost(10.0),
        ),
        m.ratio("P5", "deliveries/s to 1,000 streams", (fan_out::STREAMS, "deliveries/s"), "nchan-2", AtLeast(1.5)),
        m.computed("P5", "submits slower under 1,000 lines/s", lost, " %", AtMost(10.0)),
    ]);
    if on_postgres {
        goals.extend(
            ["pg-boss", "graphile_worker"]
                .map(|peer| m.ratio("P6", "jobs/s on PostgreSQL", (end_to_end::FULL, "jobs/s"), peer, AtLeast(2.0))),
        );
    } else {
        goals.push(m.ratio("P6", "jobs/s", (end_to_end::FULL, "jobs/s"), "bullmq", AtLeast(1.5)));
        let other = "singletrack-postgres";
        goals.extend(["pg-boss", "graphile_worker"].map(|peer| {
            let on = Measured { own: other, ..*m };
            on.ratio("P6", "jobs/s on PostgreSQL", (end_to_end::FULL, "jobs/s"), peer, AtLeast(2.0))
        }));
    }
    goals.extend([
        m.ratio("P6", "time to start", (end_to_end::PACED, "median time to start"), "bullmq", AtMost(1.0)),
        m.grown("submit p99, 10^6 finished : 10^3", (growth::FINISHED, "submit, p99"), 1.2),
        m.grown("submit, 10^5 projects : 100", (growth::PROJECTS, "submit, median"), 1.3),
        m.grown("joining a line of 10^4 : 10", (growth::LINE, "joining it, median"), 1.3),
        m.grown("leaving a line of 10^4 : 10", (growth::LINE, "leaving it, median"), 1.3),
        m.of("P8", "binary", (small::NAME, "singletrack", "binary"), " MB", AtMost(20.0)),
        m.of("P8", "idle memory", (small::NAME, "singletrack", "idle memory"), " MiB", AtMost(20.0)),
        m.computed("P8", "ready on 10^6 deployments", m.largest_ready(), " ms", AtMost(200.0)),
    ]);
    for bound in [AtLeast(85.0), AtMost(95.0)] {
        goals.push(m.own("P9", "starts before the p90 that was told", (starts::NAME, starts::BEFORE_P90), " %", bound));
    }
    // A run of one scenario tells of its own goals alone.
    goals.retain(|goal| goal.verdict != Verdict::NotRun);
    goals
}

impl Measured<'_> {
    fn largest_ready(&self) -> Option<f64> {
        self.summaries.iter().rfind(|summary| summary.scenario == growth::FINISHED)?.value("ready after")
    }
}

/// The table.
pub fn print(out: &mut impl Write, goals: &[Goal]) -> io::Result<()> {
    writeln!(out, "\ngoals")?;
    for Goal { id, what, found, wanted, verdict } in goals {
        let verdict = match verdict {
            Verdict::Met => "met".to_owned(),
            Verdict::NotMet => "NOT MET".to_owned(),
            Verdict::Unknown(why) => why.clone(),
            Verdict::NotRun => "not run".to_owned(),
        };
        writeln!(out, "  {id}  {what:<62} {found:>28}   {wanted:<10} {verdict}")?;
    }
    let count = |wanted: &Verdict| goals.iter().filter(|goal| goal.verdict == *wanted).count();
    let (met, not) = (count(&Verdict::Met), count(&Verdict::NotMet));
    writeln!(out, "  {met} met, {not} not met, {} not measured", goals.len() - met - not)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Outcome;

    fn summary(scenario: &str, subject: &str, figure: &str, value: f64) -> Summary {
        let mut outcome = Outcome::default();
        outcome.figure(figure, value, "");
        Summary::of(scenario, subject, "", vec![outcome])
    }

    fn find<'a>(goals: &'a [Goal], id: &str, what: &str) -> &'a Goal {
        goals.iter().find(|goal| goal.id == id && goal.what.starts_with(what)).expect("there is such a goal")
    }

    #[test]
    fn a_ratio_is_met_or_not_and_a_missing_peer_is_named() {
        let many = throughput::name(64);
        let summaries = [
            summary(&many, "singletrack", "pairs/s", 30_000.0),
            summary(&many, "etcd", "pairs/s", 5_000.0),
            summary(&many, "redis-setnx", "pairs/s", 40_000.0),
        ];
        let missing = [Missing { peer: "postgres-row".to_owned(), why: "not installed".to_owned() }];
        let goals = of(&Measured { summaries: &summaries, missing: &missing, own: "singletrack" });
        let of_peer = |peer: &str| find(&goals, "P1", &format!("pairs/s, 64 clients, as a multiple of {peer}"));
        assert_eq!(of_peer("etcd").verdict, Verdict::Met);
        assert_eq!(of_peer("redis-setnx").verdict, Verdict::NotMet);
        assert_eq!(of_peer("postgres-row").verdict, Verdict::Unknown("needs postgres-row: not installed".to_owned()));
    }

    #[test]
    fn growth_compares_the_large_store_with_the_small_one() {
        let two = |small, large| {
            let of = |subject, value| summary(growth::FINISHED, subject, "submit, p99", value);
            let summaries = [of("1000", small), of("1,000,000", large)];
            let goals = super::of(&Measured { summaries: &summaries, missing: &[], own: "singletrack" });
            find(&goals, "P7", "submit p99").verdict.clone()
        };
        assert_eq!(two(100.0, 115.0), Verdict::Met);
        assert_eq!(two(100.0, 125.0), Verdict::NotMet);
    }
}
