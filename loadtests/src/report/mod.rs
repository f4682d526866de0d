//! The results of a run: figures, latencies, plots, and whether all answers were correct.

pub mod html;
pub mod markdown;
mod plot;
pub mod table;
pub mod times;

use serde::Serialize;

pub use times::{Spread, Times};

use crate::goals::Goal;

/// A whole run, for machines.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub small: bool,
    pub rounds: usize,
    /// Peers that could not be measured, and why.
    pub missing: Vec<Missing>,
    /// Scenarios that could not be carried through, and why.
    pub failures: Vec<String>,
    /// The table of the goals; none of a small run, whose figures mean nothing.
    pub goals: Vec<Goal>,
    pub summaries: Vec<Summary>,
}

/// Where it ran.
#[derive(Serialize)]
pub struct Machine {
    pub cpus: usize,
    pub store: String,
    /// How long a durable write of 4 KiB took before and after everything else.
    pub fsync: Vec<Spread>,
}

/// A peer that could not be measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    pub peer: String,
    pub why: String,
}

/// One round of one scenario on one subject.
#[derive(Default)]
pub struct Outcome {
    pub figures: Vec<(String, f64, &'static str)>,
    pub times: Vec<(String, Times)>,
    pub checks: Vec<Check>,
    pub plots: Vec<Plot>,
}

/// All rounds of one scenario on one subject.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub scenario: String,
    pub subject: String,
    pub about: String,
    pub figures: Vec<Figure>,
    pub spreads: Vec<Spread>,
    pub checks: Vec<Check>,
    /// Of the last round.
    pub plots: Vec<Plot>,
}

/// A number with its unit: the median of all rounds, and the least and the most of them.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub low: f64,
    pub high: f64,
    pub unit: &'static str,
}

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    pub what: String,
    /// What was found instead.
    pub wrong: Option<String>,
}

/// Something to look at.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Plot {
    /// Who held the slot when: client, from, to, in microseconds.
    Timeline { holds: Vec<(usize, u64, u64)> },
    /// How long each one waited, by arrival, in microseconds.
    Waits { waits: Vec<u64> },
}

impl Outcome {
    pub fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push((name.to_owned(), value, unit));
    }

    pub fn times(&mut self, name: &str, times: Times) {
        self.times.push((name.to_owned(), times));
    }

    /// Adds what was measured beside it.
    pub fn join(&mut self, other: Outcome) {
        let Outcome { figures, times, checks, plots } = other;
        self.figures.extend(figures);
        self.times.extend(times);
        self.checks.extend(checks);
        self.plots.extend(plots);
    }

    /// Something must hold; `wrong` says what was found instead.
    pub fn check(&mut self, what: &str, holds: bool, wrong: impl FnOnce() -> String) {
        self.checks.push(Check { what: what.to_owned(), wrong: (!holds).then(wrong) });
    }

    /// The same, where whatever was found is a list of what is wrong.
    pub fn check_none(&mut self, what: &str, wrong: &[String]) {
        self.check(what, wrong.is_empty(), || {
            let more = if wrong.len() > 3 { format!(" and {} more", wrong.len() - 3) } else { String::new() };
            format!("{}{more}", wrong[..wrong.len().min(3)].join("; "))
        });
    }
}

impl Summary {
    /// What these rounds come to.
    pub fn of(scenario: &str, subject: &str, about: &str, rounds: Vec<Outcome>) -> Summary {
        let mut summary = Summary {
            scenario: scenario.to_owned(),
            subject: subject.to_owned(),
            about: about.to_owned(),
            figures: Vec::new(),
            spreads: Vec::new(),
            checks: Vec::new(),
            plots: Vec::new(),
        };
        let mut values: Vec<(String, &'static str, Vec<f64>)> = Vec::new();
        let mut joined: Vec<(String, Times)> = Vec::new();
        for outcome in rounds {
            for (name, value, unit) in outcome.figures {
                match values.iter_mut().find(|(known, ..)| *known == name) {
                    Some((.., values)) => values.push(value),
                    None => values.push((name, unit, vec![value])),
                }
            }
            for (name, times) in outcome.times {
                match joined.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, all)) => all.join(&times),
                    None => joined.push((name, times)),
                }
            }
            for check in outcome.checks {
                // The first round that is wrong is the one that is told.
                match summary.checks.iter_mut().find(|known| known.what == check.what) {
                    Some(known) if known.wrong.is_none() => known.wrong = check.wrong,
                    Some(_) => {}
                    None => summary.checks.push(check),
                }
            }
            summary.plots = outcome.plots;
        }
        summary.figures = values.into_iter().map(|(name, unit, values)| Figure::of(name, unit, values)).collect();
        summary.spreads = joined.into_iter().map(|(name, times)| times.spread(&name)).collect();
        summary
    }

    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    pub fn spread(&self, name: &str) -> Option<&Spread> {
        self.spreads.iter().find(|spread| spread.name == name)
    }
}

impl Figure {
    fn of(name: String, unit: &'static str, mut values: Vec<f64>) -> Figure {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = (at(0), at(values.len().saturating_sub(1)));
        let value = match values.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => at(count / 2),
            count => f64::midpoint(at(count / 2 - 1), at(count / 2)),
        };
        Figure { name, value, low, high, unit }
    }
}

impl Report {
    /// Everything that was wrong: the scenario, the subject, and what was found; and scenarios that have no answer.
    pub fn wrongs(&self) -> Vec<String> {
        let of = |summary: &Summary| {
            let wrong = summary.checks.iter().filter_map(|check| Some((check.what.clone(), check.wrong.clone()?)));
            wrong
                .map(|(what, wrong)| format!("{}, {}: {what}: {wrong}", summary.scenario, summary.subject))
                .collect::<Vec<_>>()
        };
        self.failures.iter().cloned().chain(self.summaries.iter().flat_map(of)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(value: f64, wrong: Option<&str>) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.figure("speed", value, "/s");
        outcome.check("it holds", wrong.is_none(), || wrong.unwrap_or_default().to_owned());
        outcome
    }

    #[test]
    fn a_summary_tells_the_median_and_the_spread() {
        let summary = Summary::of("s", "x", "", vec![round(3.0, None), round(1.0, None), round(9.0, None)]);
        let figure = &summary.figures[0];
        assert_eq!((figure.low, figure.value, figure.high), (1.0, 3.0, 9.0));
        assert_eq!(Summary::of("s", "x", "", vec![round(1.0, None), round(2.0, None)]).value("speed"), Some(1.5));
    }

    #[test]
    fn one_wrong_round_makes_the_whole_wrong() {
        let summary =
            Summary::of("s", "x", "", vec![round(1.0, None), round(1.0, Some("two at once")), round(1.0, None)]);
        assert_eq!(summary.checks[0].wrong.as_deref(), Some("two at once"));
        let machine = Machine { cpus: 1, store: String::new(), fsync: Vec::new() };
        let (missing, goals, failures) = (Vec::new(), Vec::new(), vec!["t: it broke".to_owned()]);
        let report = Report { machine, small: true, rounds: 3, missing, failures, goals, summaries: vec![summary] };
        assert_eq!(report.wrongs(), ["t: it broke", "s, x: it holds: two at once"]);
    }
}
