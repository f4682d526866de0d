//! Walks through a project's history for the deployments that match a client's filter.

use jiff::{SignedDuration, Timestamp};

use super::{
    App,
    error::{ErrorAnswer, echo},
    params::Query,
};
use crate::{
    model::{Deployment, ProjectName, Revision, Status, bounds},
    store::ListQuery,
    wire::ErrorCode,
};

/// How many deployments one request examines. If few match, its page is short, and the next page continues.
const SCAN_LIMIT: usize = 2_000;
/// How many deployments are read at first, before their size is known, and at most; they are in memory together.
const PARTS: (usize, usize) = (8, 250);
/// By how much the clocks of servers may differ. A deployment that is older than the filter allows by this much ends
/// the search, because all before it are too old.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_hours(1);

/// Which deployments match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    status: Option<Status>,
    actor: Option<String>,
    ref_name: Option<String>,
    since: Option<Timestamp>,
}

impl ListFilter {
    /// The query parameters of the filter.
    pub const PARAMETERS: [&'static str; 4] = ["status", "actor", "ref", "since"];

    /// The filter of the query, at the time `now`.
    ///
    /// # Errors
    /// A value is invalid.
    pub fn of(query: &Query<'_>, now: Timestamp) -> Result<Self, ErrorAnswer> {
        Ok(ListFilter {
            status: query.get("status").map(status).transpose()?,
            actor: query.get("actor").map(str::to_owned),
            ref_name: query.get("ref").map(str::to_owned),
            since: query.since()?.map(|since| since.moment(now)),
        })
    }

    /// All that came since then.
    pub fn since(at: Timestamp) -> Self {
        ListFilter { since: Some(at), ..ListFilter::default() }
    }

    /// Whether an index of the store finds the matches without examining other deployments.
    fn is_by_index(&self) -> bool {
        self.actor.is_none() && self.ref_name.is_none() && self.since.is_none()
    }

    fn wants(&self, deployment: &Deployment) -> bool {
        let spec = &deployment.spec;
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        is(&self.actor, &spec.actor)
            && is(&self.ref_name, &spec.ref_name)
            && self.since.is_none_or(|since| deployment.created_at >= since)
    }

    /// Whether every deployment before this one is too old.
    fn ends_at(&self, deployment: &Deployment) -> bool {
        self.since.is_some_and(|since| deployment.created_at.duration_until(since) > CLOCK_SLACK)
    }
}

/// A walk, newest first.
pub struct Scan<'a> {
    app: &'a App,
    project: &'a ProjectName,
    filter: ListFilter,
    left: usize,
    part: usize,
}

/// The result of a walk.
pub struct Found {
    /// The matches.
    pub deployments: Vec<Deployment>,
    /// Where to continue, if fewer than asked for were found and there may be more.
    pub goes_on: Option<Revision>,
}

impl<'a> Scan<'a> {
    /// A walk through the history of `project`.
    pub fn of(app: &'a App, project: &'a ProjectName, filter: ListFilter) -> Self {
        Scan { app, project, filter, left: SCAN_LIMIT, part: PARTS.0 }
    }

    /// Whether one request may examine no more.
    pub fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// The next matches before `before`, at most `wanted`.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn next(&mut self, mut before: Option<Revision>, wanted: usize) -> Result<Found, ErrorAnswer> {
        let mut deployments = Vec::new();
        loop {
            let is_by_index = self.filter.is_by_index();
            let limit = if is_by_index { wanted } else { self.part.min(self.left) };
            let query = ListQuery { status: self.filter.status, before, limit };
            let read = self.app.queue.store().list(self.project.clone(), query).await?;
            if is_by_index {
                return Ok(Found { deployments: read, goes_on: None });
            }
            let (is_last, count) = (read.len() < limit, read.len());
            let mut bytes = 0;
            for deployment in read {
                if self.filter.ends_at(&deployment) {
                    return Ok(Found { deployments, goes_on: None });
                }
                before = Some(deployment.ticket);
                bytes += bounds::size(&deployment.spec.inputs) + bounds::size(&deployment.outputs) + 1024;
                if self.filter.wants(&deployment) {
                    deployments.push(deployment);
                    if deployments.len() == wanted {
                        return Ok(Found { deployments, goes_on: None });
                    }
                }
            }
            self.left -= count;
            if is_last {
                return Ok(Found { deployments, goes_on: None });
            }
            if self.left == 0 {
                return Ok(Found { deployments, goes_on: before });
            }
            self.part = (bounds::PAGE_BYTES / (bytes / count).max(1)).clamp(1, PARTS.1);
        }
    }
}

fn status(text: &str) -> Result<Status, ErrorAnswer> {
    const ALL: [Status; 5] = [Status::Pending, Status::Running, Status::Succeeded, Status::Failed, Status::Cancelled];
    ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| {
        let known = ALL.map(Status::as_str).join(", ");
        ErrorAnswer::new(ErrorCode::InvalidParameter, format!("status is one of {known}, not '{}'", echo(text)))
    })
}
