//! What is looked for when somebody asks for the figures: the store's figures, at most once in a few seconds, however many
//! ask, and never for long. A store that does not answer keeps its last figures, and their age tells so.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{sync::Mutex, task::JoinHandle, time::timeout};

use super::{
    gauges::CopiedFigures,
    observed::Metrics,
    process::ProcessCollector,
    projects::{FloatGauge, ProjectSeries},
    text::TextFormat,
};
use crate::{
    health::Health,
    model::{Hold, Policy, ProjectName},
    queue::Queue,
    store::{ProjectFigures, Store, StoreError, StoreFigures},
    version::BUILD,
};

/// How long figures of the store are good enough.
const FIGURES_AGE: Duration = Duration::from_secs(5);
/// How long a scrape waits for new ones. A reading that takes longer goes on, and the next scrape has its answer.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// Everything that `/metrics` shows.
#[derive(Debug)]
pub struct Scrape {
    registry: Registry,
    metrics: Arc<Metrics>,
    copied: CopiedFigures,
    size: FloatGauge,
    /// Only a store in a file knows how much room is left for it.
    free: Option<FloatGauge>,
    age: FloatGauge,
    known: Mutex<KnownFigures>,
}

type ReadFigures = Result<StoreFigures, StoreError>;

/// The last figures of the store, and the reading that is under way.
#[derive(Debug, Default)]
struct KnownFigures {
    last: Option<(Instant, StoreFigures)>,
    begun_at: Option<Instant>,
    reading: Option<JoinHandle<ReadFigures>>,
}

impl Scrape {
    pub fn new(metrics: Arc<Metrics>, store: &dyn Store) -> Self {
        let mut root = Registry::default();
        root.register_collector(Box::new(ProcessCollector::new()));
        let registry = root.sub_registry_with_prefix("singletrack");
        // A gauge that is 1, as everywhere: only OpenMetrics knows an info.
        let build: Family<[(&str, &str); 3], Gauge> = Family::default();
        let labels = [("version", BUILD.version), ("commit", BUILD.commit), ("built_at", BUILD.built_at)];
        build.get_or_create(&labels).set(1);
        registry.register("build_info", "1, with the build of this server", build);
        metrics.register(registry);
        let copied = CopiedFigures::default();
        copied.register(registry);
        registry.register(
            "store_commit_duration_seconds",
            "How long the store's commits took until they were durable",
            store.commit_times(),
        );
        let (size, free, age) = (FloatGauge::default(), FloatGauge::default(), FloatGauge::default());
        registry.register("store_size_bytes", "How much room the store takes", size.clone());
        let free = (!store.is_shared()).then_some(free);
        if let Some(free) = &free {
            registry.register("store_free_bytes", "How much room is left where the store's file is", free.clone());
        }
        registry.register(
            "store_figures_age_seconds",
            "How old the figures of the whole store are: they are read at a scrape, at most every 5 seconds",
            age.clone(),
        );
        for gauge in [&size, &age].into_iter().chain(&free) {
            gauge.set(f64::NAN);
        }
        Scrape { registry: root, metrics, copied, size, free, age, known: Mutex::default() }
    }

    /// Looks at everything that is not counted as it happens.
    pub async fn look(&self, queue: &Queue, health: &Health) {
        self.copied.copy(queue, health);
        let mut known = self.known.lock().await;
        known.refresh(queue).await;
        if let Some((read_at, figures)) = &known.last {
            self.age.set(read_at.elapsed().as_secs_f64());
            self.show(figures, queue);
        }
    }

    /// The figures as they were looked at last. Reads the process's files.
    pub fn text(&self, format: TextFormat) -> Option<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry).ok()?;
        Some(format.of_open_metrics(text))
    }

    fn show(&self, figures: &StoreFigures, queue: &Queue) {
        let (now, config) = (queue.clock().wall(), queue.config().now());
        self.size.set(figures.size_bytes as f64);
        if let (Some(gauge), Some(bytes)) = (&self.free, figures.free_bytes) {
            gauge.set(bytes as f64);
        }
        let nothing = ProjectFigures::default();
        let policy = |name: &ProjectName| config.projects.get(name).map(|project| &project.policy);
        let mut others: BTreeMap<&ProjectName, &ProjectFigures> =
            config.projects.keys().map(|name| (name, &nothing)).chain(&figures.projects).collect();
        for (project, series) in self.metrics.projects.all() {
            let members = match &project {
                Some(name) => others.remove_entry(name).into_iter().collect(),
                None => std::mem::take(&mut others),
            };
            let shown = members.into_iter().map(|(name, figures)| ShownFigures::of(figures, policy(name), now));
            let shown: Vec<_> = shown.collect();
            series.show(&shown);
        }
    }
}

impl KnownFigures {
    /// Reads the figures anew where they are too old. There is never a second reading beside one that hangs.
    async fn refresh(&mut self, queue: &Queue) {
        let is_due = self.begun_at.is_none_or(|begun_at| begun_at.elapsed() >= FIGURES_AGE);
        if self.reading.is_none() && !is_due {
            return;
        }
        // A scrape that finds a reading that hangs does not wait for it again.
        let limit = if self.reading.is_some() && !is_due { Duration::ZERO } else { READ_LIMIT };
        let begun_at = Instant::now();
        if is_due {
            self.begun_at = Some(begun_at);
        }
        let reading = self.reading.get_or_insert_with(|| {
            let (store, now) = (queue.store().clone(), queue.clock().now());
            tokio::spawn(async move { store.figures(now).await })
        });
        let Ok(read) = timeout(limit, reading).await else { return };
        self.reading = None;
        match read {
            Ok(Ok(figures)) => self.last = Some((begun_at, figures)),
            Ok(Err(error)) => tracing::debug!(%error, "the store tells no figures for the metrics"),
            Err(error) => tracing::error!(%error, "the reading of the store's figures failed"),
        }
    }
}

/// The figures of one project at the moment of the scrape.
struct ShownFigures<'a> {
    figures: &'a ProjectFigures,
    held_for: f64,
    waited_for: f64,
    hold: Option<Hold>,
}

impl<'a> ShownFigures<'a> {
    fn of(figures: &'a ProjectFigures, policy: Option<&Policy>, now: Timestamp) -> Self {
        let age = |since: Timestamp| now.duration_since(since).as_secs_f64().max(0.0);
        let usual = Policy::default();
        ShownFigures {
            figures,
            held_for: figures.slot.map_or(0.0, |slot| age(slot.since)),
            waited_for: figures.waiting_since.map_or(0.0, age),
            hold: Hold::of(policy.unwrap_or(&usual), figures.pause.as_ref(), now),
        }
    }
}

impl ProjectSeries {
    /// Sets the gauges by the projects of this label.
    fn show(&self, projects: &[ShownFigures<'_>]) {
        let count = |is_one: &dyn Fn(&ShownFigures<'_>) -> bool| projects.iter().filter(|it| is_one(it)).count() as f64;
        let longest = |time: fn(&ShownFigures<'_>) -> f64| projects.iter().map(time).fold(0.0, f64::max);
        for (stage, gauge) in &self.slots {
            gauge.set(count(&|it| it.figures.slot.is_some_and(|slot| slot.stage == *stage)));
        }
        for (kind, gauge) in &self.holds {
            gauge.set(count(&|it| it.hold.as_ref().is_some_and(|hold| hold.kind == *kind)));
        }
        self.slot_age.set(longest(|it| it.held_for));
        self.longest_wait.set(longest(|it| it.waited_for));
        self.line.set(projects.iter().map(|it| it.figures.waiting_count).sum::<u64>() as f64);
        self.agents.set(projects.iter().map(|it| it.figures.agent_count).sum::<u64>() as f64);
    }
}
