//! `/metrics`: what is counted, which labels there are, and what Prometheus itself makes of it.

mod labels;
mod observed;
mod prometheus;
mod stores;
mod text;

use std::{collections::BTreeSet, time::Duration};

use crate::harness::TestServer;

/// Figures of one scrape.
struct Scraped(String);

impl Scraped {
    async fn of(server: &TestServer) -> Scraped {
        let answer = server.get("/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        Scraped(answer.text)
    }

    /// The value of the one series that is named like this, with these labels among its own.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values = self.values(name, labels);
        assert_eq!(values.len(), 1, "{name} {labels:?} is {values:?} in {}", self.0);
        values[0]
    }

    fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let wanted: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let series = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, labels) = series.split_once('{').unwrap_or((series, ""));
            let has = |wanted: &String| labels.trim_end_matches('}').split(',').any(|label| label == wanted);
            (found == name && wanted.iter().all(has)).then(|| value.parse().unwrap())
        });
        series.collect()
    }

    /// The names of all series.
    fn names(&self) -> BTreeSet<String> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
    }
}

/// Scrapes until something is so: the figures of the store are some seconds old at most.
async fn scraped_until(server: &TestServer, is_so: impl Fn(&Scraped) -> bool) -> Scraped {
    loop {
        let scraped = Scraped::of(server).await;
        if is_so(&scraped) {
            return scraped;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
