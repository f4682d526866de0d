//! Distributions of times.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

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
    /// The value at quantiles that come twice as near to 1 with each second step: for curves.
    pub curve: Vec<(f64, u64)>,
}

/// Times that are being collected, three digits of each.
#[derive(Clone)]
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
        // It grows by itself, so no value is out of range. (`saturating_record` would not let it grow.)
        let _ = self.0.record(micros);
    }

    pub fn join(&mut self, other: &Times) {
        // Both grow by themselves, so no value is out of range.
        let _ = self.0.add(&other.0);
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this part of all is not above, in microseconds.
    pub fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    pub fn max(&self) -> u64 {
        self.0.max()
    }

    pub fn spread(&self, name: &str) -> Spread {
        let curve = self.0.iter_quantiles(2).map(|step| (step.quantile_iterated_to(), step.value_iterated_to()));
        Spread {
            name: name.to_owned(),
            count: self.count(),
            p50: self.at(0.5),
            p90: self.at(0.9),
            p99: self.at(0.99),
            p999: self.at(0.999),
            max: self.max(),
            curve: curve.collect(),
        }
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<T: IntoIterator<Item = Duration>>(durations: T) -> Self {
        let mut times = Times::default();
        durations.into_iter().for_each(|time| times.add(time));
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_any_length_are_told_to_three_digits() {
        let mut times: Times = (1..=1000).map(Duration::from_millis).collect();
        times.join(&[Duration::from_secs(3600)].into_iter().collect());
        let spread = times.spread("x");
        let near = |told: u64, wanted: f64| (told as f64 / wanted - 1.0).abs() < 0.001;
        assert!(near(spread.p50, 501e3) && near(spread.p99, 991e3) && near(spread.max, 3600e6), "{spread:?}");
        assert_eq!(spread.count, 1001);
        assert!(spread.curve.iter().is_sorted() && spread.curve.len() > 10);
    }
}
