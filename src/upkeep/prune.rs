//! Removes what retention lets go: first whole deployments, then the output of others. See decision 0078.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{age::AgeClock, round::LookRound};
use crate::{
    clock::Now,
    config::{KEY_PROTECTION, RetentionRules},
    model::{ProjectName, Revision},
    store::{
        StoreError,
        upkeep::{AgedDeployment, AgedHistory, KeptAs, KeptDeployments},
    },
};

/// How many deployments are looked at together, and how many are removed in one step.
const PAGE_LIMIT: usize = 200;
pub(super) const REMOVED_AT_ONCE: usize = 16;

/// The rules of a project, as the configuration has them now.
pub type RulesOf = Arc<dyn Fn(&ProjectName) -> RetentionRules + Send + Sync>;

/// What would go, or went, of one project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunedProject {
    /// The project.
    pub project: ProjectName,
    /// How many deployments go whole.
    pub deployments: u64,
    /// The output of how many others goes.
    pub outputs: u64,
    /// How many bytes both take, about.
    pub bytes: u64,
    /// How many of those that are old enough stay, and why. Empty for what went.
    pub stays: BTreeMap<StayReason, u64>,
}

impl PrunedProject {
    fn new(project: ProjectName) -> Self {
        PrunedProject { project, deployments: 0, outputs: 0, bytes: 0, stays: BTreeMap::new() }
    }

    /// Whether anything goes.
    pub fn loses(&self) -> bool {
        self.deployments + self.outputs > 0
    }
}

/// Why a deployment that is old enough stays, with its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StayReason {
    /// It is among the newest ones that are kept.
    Newest,
    /// Retention never removes it.
    Kept(KeptAs),
    /// It is not final.
    Unfinished,
}

/// What would go by the rules, by project. Projects without anything that is old enough are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunePlan(pub Vec<PrunedProject>);

impl PrunePlan {
    /// What would go if ages were judged by this instant.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn of(history: &dyn AgedHistory, rules: &RulesOf, until: Timestamp) -> Result<PrunePlan, StoreError> {
        let mut plan = PrunePlan::default();
        for (row, project) in history.project_rows().await? {
            let Some(mut walks) = Walks::of(history, row, rules(&project), until).await? else { continue };
            let mut pruned = PrunedProject::new(project);
            let (mut gone, mut stays) = (BTreeSet::new(), BTreeMap::new());
            while let Some(page) = walks.deployments.next(history).await? {
                for (deployment, stay) in page {
                    match stay {
                        Some(reason) => _ = stays.insert(deployment.row, reason),
                        None => {
                            pruned.deployments += 1;
                            pruned.bytes += deployment.bytes + deployment.output_bytes;
                            gone.insert(deployment.row);
                        }
                    }
                }
            }
            while let Some(page) = walks.outputs.next(history).await? {
                for (deployment, stay) in page.into_iter().filter(|(it, _)| !gone.contains(&it.row)) {
                    match stay {
                        Some(reason) => _ = stays.insert(deployment.row, reason),
                        None => {
                            pruned.outputs += 1;
                            pruned.bytes += deployment.output_bytes;
                        }
                    }
                }
            }
            stays.into_values().for_each(|reason| *pruned.stays.entry(reason).or_default() += 1);
            if pruned.loses() || !pruned.stays.is_empty() {
                plan.0.push(pruned);
            }
        }
        Ok(plan)
    }
}

/// Removes what goes, of all projects. Answers what went.
pub(super) async fn look(
    look: &mut LookRound<'_>,
    rules: &RulesOf,
    ages: &mut AgeClock,
    now: Now,
) -> Result<Vec<PrunedProject>, StoreError> {
    let (history, mut all) = (look.upkeep.history(), Vec::new());
    let projects = history.project_rows().await?;
    if !projects.iter().any(|(_, project)| rules(project).may_remove()) {
        return Ok(all);
    }
    let until = ages.advance(look.upkeep, now).await?;
    for (row, project) in projects {
        let Some(mut walks) = Walks::of(history, row, rules(&project), until).await? else { continue };
        if walks.keep_all() {
            continue;
        }
        let mut pruned = PrunedProject::new(project);
        while !look.is_over()
            && let Some(page) = walks.deployments.going(history).await?
        {
            for some in page.chunks(REMOVED_AT_ONCE) {
                for deployment in some.iter().filter(|it| it.output_bytes > 0) {
                    remove_output(look, deployment.row).await?;
                }
                if look.is_over() {
                    break;
                }
                let rows = some.iter().map(|it| it.row).collect();
                pruned.deployments += look.write(look.upkeep.remove(rows)).await?;
                pruned.bytes += some.iter().map(|it| it.bytes + it.output_bytes).sum::<u64>();
            }
        }
        while !look.is_over()
            && let Some(page) = walks.outputs.going(history).await?
        {
            for deployment in page {
                remove_output(look, deployment.row).await?;
                pruned.outputs += 1;
                pruned.bytes += deployment.output_bytes;
            }
        }
        if pruned.loses() {
            let PrunedProject { project, deployments, outputs, .. } = &pruned;
            tracing::info!(project.name = %project, deployments, outputs, "retention removed what is old");
            all.push(pruned);
        }
    }
    Ok(all)
}

pub(super) async fn remove_output(look: &mut LookRound<'_>, row: i64) -> Result<(), StoreError> {
    while !look.is_over() && look.write(look.upkeep.remove_output(row)).await? {}
    Ok(())
}

/// The two walks through a project's history, the oldest deployments first.
struct Walks {
    deployments: Walk,
    outputs: Walk,
}

impl Walks {
    /// `None`: the project never loses anything.
    async fn of(
        history: &dyn AgedHistory,
        project: i64,
        rules: RetentionRules,
        until: Timestamp,
    ) -> Result<Option<Walks>, StoreError> {
        if !rules.may_remove() {
            return Ok(None);
        }
        let RetentionRules { output, deployments, keep } = rules;
        let kept = history.kept(project, keep).await?;
        let now = until.as_millisecond();
        let before = |age: Option<std::time::Duration>| {
            let age = SignedDuration::try_from(age?).unwrap_or(SignedDuration::MAX);
            Some(i64::try_from(i128::from(now) - age.as_millis()).unwrap_or(i64::MIN))
        };
        let walk = |is_output, before| Walk {
            project,
            is_output,
            before,
            now,
            kept: kept.clone(),
            after: Revision(0),
            arrived: i64::MIN,
            is_done: false,
        };
        Ok(Some(Walks {
            deployments: walk(false, before(deployments.map(|age| age.max(KEY_PROTECTION)))),
            outputs: walk(true, before(output)),
        }))
    }

    /// Whether the project has so few deployments that all of them are among the newest.
    fn keep_all(&self) -> bool {
        self.deployments.kept.newest_from.is_none()
    }
}

struct Walk {
    project: i64,
    is_output: bool,
    /// What ended before this instant goes; nothing, if it is unset.
    before: Option<i64>,
    now: i64,
    kept: KeptDeployments,
    after: Revision,
    /// When the newest of the deployments so far was submitted. One that ended before that, by a clock that was wrong, is
    /// as old as that.
    arrived: i64,
    is_done: bool,
}

impl Walk {
    /// Some more that are old enough, each with the reason why it stays, if it does; `None` at the end.
    async fn next(
        &mut self,
        history: &dyn AgedHistory,
    ) -> Result<Option<Vec<(AgedDeployment, Option<StayReason>)>>, StoreError> {
        let Some(before) = self.before else { return Ok(None) };
        while !self.is_done {
            let page = match self.is_output {
                true => history.aged_outputs(self.project, self.after, PAGE_LIMIT).await?,
                false => history.aged(self.project, self.after, PAGE_LIMIT).await?,
            };
            self.is_done = page.len() < PAGE_LIMIT;
            let old: Vec<_> = page.into_iter().filter_map(|deployment| self.judge(deployment, before)).collect();
            if !old.is_empty() {
                return Ok(Some(old));
            }
        }
        Ok(None)
    }

    /// Some more that go; `None` at the end.
    async fn going(&mut self, history: &dyn AgedHistory) -> Result<Option<Vec<AgedDeployment>>, StoreError> {
        while let Some(old) = self.next(history).await? {
            // All that follow are among the newest, too.
            self.is_done |= old.last().is_some_and(|(_, stay)| *stay == Some(StayReason::Newest));
            let going: Vec<_> = old.into_iter().filter(|(_, stay)| stay.is_none()).map(|(it, _)| it).collect();
            if !going.is_empty() {
                return Ok(Some(going));
            }
        }
        Ok(None)
    }

    /// `None`: it is too young.
    fn judge(&mut self, deployment: AgedDeployment, before: i64) -> Option<(AgedDeployment, Option<StayReason>)> {
        self.after = deployment.ticket;
        // An instant in the future says nothing.
        if deployment.created_at <= self.now {
            self.arrived = self.arrived.max(deployment.created_at);
            // All that follow arrived later.
            self.is_done |= self.arrived > before;
        }
        let Some(ended_at) = deployment.ended_at else {
            return (self.arrived <= before).then_some((deployment, Some(StayReason::Unfinished)));
        };
        if ended_at.max(self.arrived) > before {
            return None;
        }
        let kept = self.kept.rows.iter().find(|(row, _)| *row == deployment.row);
        let is_newest = self.kept.newest_from.is_none_or(|newest| deployment.ticket >= newest);
        let stay = if is_newest { Some(StayReason::Newest) } else { kept.map(|(_, why)| StayReason::Kept(*why)) };
        Some((deployment, stay))
    }
}
