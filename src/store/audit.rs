//! The audit log: how it is read, and lines about acts that are no decision about a slot. See decision 0076.
//!
//! A decision's lines are committed with its changes, as [`Changes::audit`](crate::model::Changes). A line never changes, and
//! nothing ever removes one.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::{BoxFuture, StoreError};
use crate::model::{AuditEntry, Caller, DeploymentId, Identity, ProjectName, RequestId};

/// How many lines one call examines at most, where no index narrows the search: some ms of work.
const SPAN: u64 = 20_000;
/// The same for the lines of one project, which an index finds.
const PROJECT_SPAN: u64 = 200_000;
/// How many lines the store in memory keeps.
const MEMORY_LIMIT: usize = 100_000;
/// How far the clocks of the servers of one store may differ. A line's number is given at its commit, and its time before.
const CLOCKS_DIFFER_MS: i64 = 24 * 60 * 60 * 1000;

/// A line to be appended.
#[derive(Clone, Debug)]
pub struct NewAuditLine {
    /// When it happened.
    pub at: Timestamp,
    /// The project that it is about, if it is about one.
    pub project: Option<ProjectName>,
    /// What happened.
    pub action: &'static str,
    /// Who did it; `None` if nobody knows.
    pub caller: Option<Arc<Identity>>,
    /// From where.
    pub address: Option<IpAddr>,
    /// With which request.
    pub request: Option<RequestId>,
    /// The deployment that it is about.
    pub deployment: Option<DeploymentId>,
    /// More about it.
    pub detail: String,
    /// How often it happened.
    pub count: u64,
}

impl NewAuditLine {
    /// The line about an act that happened once.
    pub fn of(project: Option<ProjectName>, entry: AuditEntry) -> Self {
        let AuditEntry { at, action, caller, deployment, detail } = entry;
        let Caller { identity, address, request } = caller;
        NewAuditLine { at, project, action, caller: Some(identity), address, request, deployment, detail, count: 1 }
    }
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// Its number: lines that were committed later have higher ones, as a rule.
    pub number: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The project that it is about.
    pub project: Option<ProjectName>,
    /// What happened.
    pub action: String,
    /// Who did it; `None` in lines of versions that did not note it.
    pub caller: Option<String>,
    /// From where.
    pub address: Option<String>,
    /// With which request.
    pub request: Option<String>,
    /// The deployment that it is about.
    pub deployment: Option<DeploymentId>,
    /// That deployment's number; `None` where the store knows it no longer.
    pub deployment_number: Option<u64>,
    /// More about it.
    pub detail: String,
    /// How often it happened.
    pub count: u64,
}

/// Which lines to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only those with a lower number.
    pub before: Option<u64>,
    /// Only those of this project.
    pub project: Option<ProjectName>,
    /// Only those of this deployment.
    pub deployment: Option<DeploymentId>,
    /// Only those that are not older.
    pub since: Option<Timestamp>,
    /// Only those that are older.
    pub until: Option<Timestamp>,
    /// Only those with this action.
    pub action: Option<String>,
    /// Only those of this caller.
    pub caller: Option<String>,
    /// How many at most.
    pub limit: usize,
}

/// Some lines, the last one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The lines.
    pub lines: Vec<AuditLine>,
    /// Before which number to go on; `None` where no further line fits.
    pub goes_on: Option<u64>,
}

/// The audit log of a store.
pub trait AuditRoom: Send + Sync {
    /// Appends lines, all in one commit.
    fn append(&self, lines: Vec<NewAuditLine>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The next lines. It examines a bounded number of lines, so a page may be short, or empty, and go on.
    fn audit_page(&self, query: AuditQuery) -> BoxFuture<'_, Result<AuditPage, StoreError>>;
}

/// The numbers that one call examines: from the first to before the second one.
pub(super) fn span(query: &AuditQuery, last: u64) -> (u64, u64) {
    let before = query.before.unwrap_or(u64::MAX).min(last.saturating_add(1));
    let length = match (query.deployment, &query.project) {
        (Some(_), _) => before,
        (None, Some(_)) => PROJECT_SPAN,
        (None, None) => SPAN,
    };
    (before.saturating_sub(length), before)
}

/// The page of these lines, which were found from `low` on. `older`: when the line before `low` was written, if there is
/// one.
pub(super) fn page(query: &AuditQuery, lines: Vec<AuditLine>, low: u64, older: Option<Timestamp>) -> AuditPage {
    let is_too_old = |older: Timestamp| {
        query.since.is_some_and(|since| since.as_millisecond() - older.as_millisecond() > CLOCKS_DIFFER_MS)
    };
    let goes_on = if query.limit > 0 && lines.len() >= query.limit {
        lines.last().map(|last| last.number)
    } else {
        older.filter(|older| !is_too_old(*older)).map(|_| low)
    };
    AuditPage { lines, goes_on }
}

/// The lines of the store in memory, which keeps the last ones only.
#[derive(Debug, Default)]
pub(super) struct KeptAudit {
    lines: VecDeque<AuditLine>,
    last: u64,
}

impl KeptAudit {
    pub(super) fn append(&mut self, line: NewAuditLine) {
        let NewAuditLine { at, project, action, caller, address, request, deployment, detail, count } = line;
        self.last += 1;
        self.lines.push_back(AuditLine {
            number: self.last,
            at,
            project,
            action: action.to_owned(),
            caller: caller.map(|caller| caller.to_string()),
            address: address.map(|address| address.to_string()),
            request: request.map(|request| request.to_string()),
            deployment,
            deployment_number: None,
            detail,
            count,
        });
        if self.lines.len() > MEMORY_LIMIT {
            self.lines.pop_front();
        }
    }

    pub(super) fn page(&self, query: &AuditQuery) -> AuditPage {
        let fits = |line: &&AuditLine| {
            query.before.is_none_or(|before| line.number < before)
                && query.project.as_ref().is_none_or(|project| line.project.as_ref() == Some(project))
                && query.deployment.is_none_or(|id| line.deployment == Some(id))
                && query.since.is_none_or(|since| line.at >= since)
                && query.until.is_none_or(|until| line.at < until)
                && query.action.as_ref().is_none_or(|action| line.action == *action)
                && query.caller.as_ref().is_none_or(|caller| line.caller.as_ref() == Some(caller))
        };
        let lines: Vec<_> = self.lines.iter().rev().filter(fits).take(query.limit).cloned().collect();
        page(query, lines, 0, None)
    }
}

/// The columns of a line, in the order in which the engines read them.
macro_rules! audit_columns {
    () => {
        "number, at, project, action, deployment, detail, caller, address, request, coalesce(count, 1), \
         (SELECT d.short_number FROM deployments AS d WHERE d.id = audit.deployment)"
    };
}
pub(super) use audit_columns;
