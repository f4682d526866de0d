//! What a run found: figures, latencies and whether all of it was true.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A whole run, for machines.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub small: bool,
    pub rounds: usize,
    pub outcomes: Vec<Outcome>,
}

/// Where it ran.
#[derive(Serialize)]
pub struct Machine {
    pub cpus: usize,
    pub store: String,
    /// How long a durable write of 4 KiB took, before, in the middle of, and after everything else.
    pub fsync: Vec<Spread>,
}

/// One scenario on one subject.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    pub scenario: String,
    pub subject: String,
    pub figures: Vec<Figure>,
    pub spreads: Vec<Spread>,
    pub checks: Vec<Check>,
}

/// A number with its unit.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
}

/// A distribution of times, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    pub name: String,
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    /// The value at evenly spaced steps towards 100 %, each halving what is left: for curves.
    pub curve: Vec<(f64, u64)>,
}

/// Something that must hold.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub what: String,
    /// What was found instead.
    pub wrong: Option<String>,
}

impl Outcome {
    pub fn new(scenario: impl Into<String>, subject: impl Into<String>) -> Self {
        Outcome { scenario: scenario.into(), subject: subject.into(), ..Outcome::default() }
    }

    pub fn figure(&mut self, name: &str, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.to_owned(), value, unit });
    }

    pub fn spread(&mut self, name: &str, times: &Times) {
        self.spreads.push(times.spread(name));
    }

    /// Something must hold; `wrong` says what was found instead.
    pub fn check(&mut self, what: &str, holds: bool, wrong: impl FnOnce() -> String) {
        self.checks.push(Check { what: what.to_owned(), wrong: (!holds).then(wrong) });
    }

    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }
}

/// Times that are being collected, three digits of each.
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        match Histogram::new(3) {
            Ok(histogram) => Times(histogram),
            Err(error) => unreachable!("three digits are allowed: {error}"),
        }
    }
}

impl Times {
    pub fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        self.0.saturating_record(micros);
    }

    pub fn join(&mut self, other: &Times) {
        // Both grow by themselves, so no value is out of range.
        let _ = self.0.add(&other.0);
    }

    pub fn spread(&self, name: &str) -> Spread {
        let at = |quantile| self.0.value_at_quantile(quantile);
        let curve = self.0.iter_quantiles(2).map(|step| (step.quantile_iterated_to(), step.value_iterated_to()));
        Spread {
            name: name.to_owned(),
            count: self.0.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max(),
            curve: curve.collect(),
        }
    }
}
