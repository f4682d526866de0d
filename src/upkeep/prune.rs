//! Removes what retention lets go: first whole deployments, then the output of others. See decision 0078.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{age::AgeClock, round::LookRound};
use crate::{
    clock::Now,
    config::{KEY_PROTECTION, RetentionRules},
    model::{ProjectName, Revision},
    store::{
        StoreError, Upkeep,
        upkeep::{AgedDeployment, KeptDeployments},
    },
};

/// How many deployments are looked at together, and how many are removed in one step.
const PAGE_LIMIT: usize = 200;
const REMOVED_AT_ONCE: usize = 16;

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
}

/// What would go by the rules, by project. Projects that lose nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunePlan(pub Vec<PrunedProject>);

impl PrunePlan {
    /// What would go if ages were judged by this instant.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn of(upkeep: &dyn Upkeep, rules: &RulesOf, until: Timestamp) -> Result<PrunePlan, StoreError> {
        let mut plan = PrunePlan::default();
        for (row, project) in upkeep.project_rows().await? {
            let mut pruned = PrunedProject { project: project.clone(), deployments: 0, outputs: 0, bytes: 0 };
            let Some(mut walks) = Walks::of(upkeep, row, rules(&project), until).await? else { continue };
            let mut gone = std::collections::BTreeSet::new();
            while let Some(page) = walks.deployments.next(upkeep).await? {
                for deployment in page {
                    pruned.deployments += 1;
                    pruned.bytes += deployment.bytes + deployment.output_bytes;
                    gone.insert(deployment.row);
                }
            }
            while let Some(page) = walks.outputs.next(upkeep).await? {
                for deployment in page.into_iter().filter(|it| !gone.contains(&it.row)) {
                    pruned.outputs += 1;
                    pruned.bytes += deployment.output_bytes;
                }
            }
            if pruned.deployments + pruned.outputs > 0 {
                plan.0.push(pruned);
            }
        }
        Ok(plan)
    }
}

/// Removes what goes, of all projects.
pub(super) async fn look(
    look: &mut LookRound<'_>,
    rules: &RulesOf,
    ages: &mut AgeClock,
    now: Now,
) -> Result<(), StoreError> {
    let projects = look.upkeep.project_rows().await?;
    if !projects.iter().any(|(_, project)| rules(project).may_remove()) {
        return Ok(());
    }
    let until = ages.advance(look.upkeep, now).await?;
    for (row, project) in projects {
        let Some(mut walks) = Walks::of(look.upkeep, row, rules(&project), until).await? else { continue };
        let (mut deployments, mut outputs) = (0, 0);
        while !look.is_over()
            && let Some(page) = walks.deployments.next(look.upkeep).await?
        {
            for some in page.chunks(REMOVED_AT_ONCE) {
                for deployment in some.iter().filter(|it| it.output_bytes > 0) {
                    remove_output(look, deployment.row).await?;
                }
                if look.is_over() {
                    break;
                }
                let rows = some.iter().map(|it| it.row).collect();
                deployments += look.write(look.upkeep.remove(rows)).await?;
            }
        }
        while !look.is_over()
            && let Some(page) = walks.outputs.next(look.upkeep).await?
        {
            for deployment in page {
                remove_output(look, deployment.row).await?;
                outputs += 1;
            }
        }
        if deployments + outputs > 0 {
            tracing::info!(project.name = %project, deployments, outputs, "retention removed what is old");
        }
    }
    Ok(())
}

async fn remove_output(look: &mut LookRound<'_>, row: i64) -> Result<(), StoreError> {
    while !look.is_over() && look.write(look.upkeep.remove_output(row)).await? {}
    Ok(())
}

/// The two walks through a project's history, the oldest deployments first.
struct Walks {
    deployments: Walk,
    outputs: Walk,
}

impl Walks {
    /// `None`: the project loses nothing.
    async fn of(
        upkeep: &dyn Upkeep,
        project: i64,
        rules: RetentionRules,
        until: Timestamp,
    ) -> Result<Option<Walks>, StoreError> {
        if !rules.may_remove() {
            return Ok(None);
        }
        let RetentionRules { output, deployments, keep } = rules;
        let kept = upkeep.kept(project, keep).await?;
        if kept.newest_from.is_none() {
            return Ok(None);
        }
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
    /// Some more that go; `None` at the end.
    async fn next(&mut self, upkeep: &dyn Upkeep) -> Result<Option<Vec<AgedDeployment>>, StoreError> {
        let Some(before) = self.before else { return Ok(None) };
        while !self.is_done {
            let page = match self.is_output {
                true => upkeep.aged_outputs(self.project, self.after, PAGE_LIMIT).await?,
                false => upkeep.aged(self.project, self.after, PAGE_LIMIT).await?,
            };
            self.is_done = page.len() < PAGE_LIMIT;
            let going: Vec<_> = page.into_iter().filter(|deployment| self.goes(deployment, before)).collect();
            if !going.is_empty() {
                return Ok(Some(going));
            }
        }
        Ok(None)
    }

    fn goes(&mut self, deployment: &AgedDeployment, before: i64) -> bool {
        self.after = deployment.ticket;
        // An instant in the future says nothing.
        if deployment.created_at <= self.now {
            self.arrived = self.arrived.max(deployment.created_at);
            // All that follow arrived later.
            self.is_done |= self.arrived > before;
        }
        let is_newest = self.kept.newest_from.is_none_or(|newest| deployment.ticket >= newest);
        self.is_done |= is_newest;
        let is_old = deployment.ended_at.is_some_and(|ended_at| ended_at.max(self.arrived) <= before);
        is_old && !is_newest && !self.kept.rows.contains(&deployment.row)
    }
}
