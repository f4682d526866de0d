//! The series of projects. Only configured projects have a label of their own, and only so many of them: all other projects
//! share one. A project's series are all there from the start, and go when a reload takes the project away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, atomic::AtomicU64},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::labels::{
    DURATION_SECONDS, HoldLabels, LABELLED_PROJECTS, OTHER_PROJECTS, OutcomeLabels, ProjectLabels, SlotLabels,
    WAIT_SECONDS,
};
use crate::{
    config::{Config, LiveConfig},
    model::{HoldKind, Outcome, ProjectName, outcome_codes},
    store::SlotStage,
};

/// A gauge of something that may be unknown, which is NaN.
pub type FloatGauge = Gauge<f64, AtomicU64>;
type Histograms = Family<ProjectLabels, Histogram, fn() -> Histogram>;

/// The families of series that have a project.
#[derive(Clone, Debug)]
struct ProjectFamilies {
    submits: Family<ProjectLabels, Counter>,
    conflicts: Family<ProjectLabels, Counter>,
    outcomes: Family<OutcomeLabels, Counter>,
    waits: Histograms,
    durations: Histograms,
    slots: Family<SlotLabels, FloatGauge>,
    slot_ages: Family<ProjectLabels, FloatGauge>,
    lines: Family<ProjectLabels, FloatGauge>,
    longest_waits: Family<ProjectLabels, FloatGauge>,
    holds: Family<HoldLabels, FloatGauge>,
    agents: Family<ProjectLabels, FloatGauge>,
}

/// The series of one label.
#[derive(Debug)]
pub struct ProjectSeries {
    label: String,
    pub submits: Counter,
    pub conflicts: Counter,
    outcomes: BTreeMap<(&'static str, &'static str), Counter>,
    pub wait: Histogram,
    pub duration: Histogram,
    pub slots: BTreeMap<SlotStage, FloatGauge>,
    pub slot_age: FloatGauge,
    pub line: FloatGauge,
    pub longest_wait: FloatGauge,
    pub holds: Vec<(HoldKind, FloatGauge)>,
    pub agents: FloatGauge,
}

/// The series of all projects.
#[derive(Debug)]
pub struct AllProjects {
    live: LiveConfig,
    families: ProjectFamilies,
    known: RwLock<KnownProjects>,
}

#[derive(Clone, Debug)]
struct KnownProjects {
    /// The configuration to which the labels belong.
    config: Arc<Config>,
    labelled: BTreeMap<ProjectName, Arc<ProjectSeries>>,
    others: Arc<ProjectSeries>,
}

/// The kinds of holds, with the words for them.
const HOLDS: [(HoldKind, &str); 3] =
    [(HoldKind::Pause, "pause"), (HoldKind::Freeze, "freeze"), (HoldKind::Configuration, "configuration")];

impl AllProjects {
    pub fn new(live: LiveConfig) -> Self {
        let families = ProjectFamilies::new();
        let others = Arc::new(families.of(OTHER_PROJECTS.to_owned()));
        let nothing = KnownProjects { config: live.now(), labelled: BTreeMap::new(), others };
        let known = RwLock::new(nothing.renewed(&families, live.now()));
        AllProjects { live, families, known }
    }

    pub fn register(&self, registry: &mut Registry) {
        self.families.register(registry);
    }

    /// The series to which this project belongs.
    pub fn of(&self, project: &ProjectName) -> Arc<ProjectSeries> {
        let known = self.known();
        known.labelled.get(project).unwrap_or(&known.others).clone()
    }

    /// All series, with their projects; the series of all others last, without one.
    pub fn all(&self) -> Vec<(Option<ProjectName>, Arc<ProjectSeries>)> {
        let known = self.known();
        let labelled = known.labelled.iter().map(|(name, series)| (Some(name.clone()), series.clone()));
        labelled.chain([(None, known.others.clone())]).collect()
    }

    /// The labels of the present configuration.
    fn known(&self) -> impl std::ops::Deref<Target = KnownProjects> {
        let config = self.live.now();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&known.config, &config) {
            return known;
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&known.config, &config) {
            *known = known.renewed(&self.families, config);
        }
        drop(known);
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownProjects {
    /// The labels of another configuration. A project that is still configured keeps its label and its counts.
    fn renewed(&self, families: &ProjectFamilies, config: Arc<Config>) -> KnownProjects {
        let kept: BTreeSet<_> = self.labelled.keys().filter(|name| config.projects.contains_key(*name)).collect();
        let new = config.projects.keys().filter(|name| !kept.contains(name)).take(LABELLED_PROJECTS - kept.len());
        let names: BTreeSet<_> = kept.iter().copied().chain(new).cloned().collect();
        self.labelled.iter().filter(|(name, _)| !names.contains(*name)).for_each(|(_, gone)| families.remove(gone));
        let series = |name: ProjectName| {
            let known = self.labelled.get(&name).cloned();
            let series = known.unwrap_or_else(|| Arc::new(families.of(name.as_str().to_owned())));
            (name, series)
        };
        KnownProjects { labelled: names.into_iter().map(series).collect(), config, others: self.others.clone() }
    }
}

impl ProjectFamilies {
    fn new() -> Self {
        let waits: fn() -> Histogram = || Histogram::new(WAIT_SECONDS);
        let durations: fn() -> Histogram = || Histogram::new(DURATION_SECONDS);
        ProjectFamilies {
            submits: Family::default(),
            conflicts: Family::default(),
            outcomes: Family::default(),
            waits: Family::new_with_constructor(waits),
            durations: Family::new_with_constructor(durations),
            slots: Family::default(),
            slot_ages: Family::default(),
            lines: Family::default(),
            longest_waits: Family::default(),
            holds: Family::default(),
            agents: Family::default(),
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("deployments_submitted", "Deployments that were admitted", self.submits.clone());
        registry.register(
            "submit_conflicts",
            "Submits that found the slot held, whether they kept a place in line or not",
            self.conflicts.clone(),
        );
        registry.register("deployments_finished", "Deployments that became final", self.outcomes.clone());
        registry.register(
            "deployment_wait_seconds",
            "How long deployments waited from their submit to their start",
            self.waits.clone(),
        );
        registry.register(
            "deployment_duration_seconds",
            "How long deployments ran from their start to their end",
            self.durations.clone(),
        );
        registry.register(
            "slots_held",
            "Slots that are held, by how far their holder is; of the whole store",
            self.slots.clone(),
        );
        registry.register(
            "slot_held_seconds",
            "Since when the slot is held: since its holder started, else since the slot is kept for it; 0 while it is free",
            self.slot_ages.clone(),
        );
        registry.register("line_length", "Deployments that wait in line; of the whole store", self.lines.clone());
        registry.register(
            "line_longest_wait_seconds",
            "How long the deployment in line has waited that was submitted first; 0 while nobody waits",
            self.longest_waits.clone(),
        );
        registry.register(
            "projects_held",
            "Projects whose slot is given to nobody, by what holds them: a pause, a freeze window, or the configuration",
            self.holds.clone(),
        );
        registry.register("agents", "Agents that ask for work, at whichever server", self.agents.clone());
    }

    /// The series of a label, made where they are not there yet.
    fn of(&self, label: String) -> ProjectSeries {
        let labels = ProjectLabels { project: label.clone() };
        let unknown = |gauge: FloatGauge| {
            gauge.set(f64::NAN);
            gauge
        };
        let outcome = |(status, code): (&'static str, &'static str)| {
            let labels = OutcomeLabels { status, code, project: label.clone() };
            ((status, code), self.outcomes.get_or_create_owned(&labels))
        };
        let slot = |stage: SlotStage| {
            let labels = SlotLabels { project: label.clone(), state: stage.as_str() };
            (stage, unknown(self.slots.get_or_create_owned(&labels)))
        };
        let hold = |(kind, word)| {
            let labels = HoldLabels { project: label.clone(), kind: word };
            (kind, unknown(self.holds.get_or_create_owned(&labels)))
        };
        ProjectSeries {
            submits: self.submits.get_or_create_owned(&labels),
            conflicts: self.conflicts.get_or_create_owned(&labels),
            outcomes: outcome_codes().map(outcome).collect(),
            wait: self.waits.get_or_create_owned(&labels),
            duration: self.durations.get_or_create_owned(&labels),
            slots: SlotStage::ALL.into_iter().map(slot).collect(),
            slot_age: unknown(self.slot_ages.get_or_create_owned(&labels)),
            line: unknown(self.lines.get_or_create_owned(&labels)),
            longest_wait: unknown(self.longest_waits.get_or_create_owned(&labels)),
            holds: HOLDS.into_iter().map(hold).collect(),
            agents: unknown(self.agents.get_or_create_owned(&labels)),
            label,
        }
    }

    /// Removes the series of a label.
    fn remove(&self, gone: &ProjectSeries) {
        let labels = ProjectLabels { project: gone.label.clone() };
        self.submits.remove(&labels);
        self.conflicts.remove(&labels);
        self.waits.remove(&labels);
        self.durations.remove(&labels);
        self.slot_ages.remove(&labels);
        self.lines.remove(&labels);
        self.longest_waits.remove(&labels);
        self.agents.remove(&labels);
        for (status, code) in gone.outcomes.keys() {
            self.outcomes.remove(&OutcomeLabels { status, code, project: gone.label.clone() });
        }
        for stage in SlotStage::ALL {
            self.slots.remove(&SlotLabels { project: gone.label.clone(), state: stage.as_str() });
        }
        for (_, kind) in HOLDS {
            self.holds.remove(&HoldLabels { project: gone.label.clone(), kind });
        }
    }
}

impl ProjectSeries {
    /// Counts a deployment that became final.
    pub fn count_end(&self, outcome: &Outcome) {
        let labels = (outcome.status().as_str(), outcome.error_code().unwrap_or_default());
        // Every outcome has a series.
        if let Some(count) = self.outcomes.get(&labels) {
            count.inc();
        }
    }
}
