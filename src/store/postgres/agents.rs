//! Agents' calls for work, which all servers of the database see alike. Each call is noted when it comes, and when it
//! ends early. See decisions 0017 and 0063.

use std::time::Duration;

use tokio_postgres::Row;

use super::{
    fault::DatabaseFault,
    rows,
    session::{DatabaseSession, call},
    statements::Sql,
};
use crate::{
    model::ProjectName,
    store::{
        AgentCall, KnownAgent,
        agents::{ABSENCE_LIMIT, KNOWN_LIMIT, REMEMBERED_LIMIT},
        columns::millis,
    },
};

/// Notes a call, unless it is known to have ended already. Returns whether its agent was absent before, for some of its
/// projects.
pub(super) async fn came(session: &mut DatabaseSession, agent: &AgentCall) -> Result<bool, DatabaseFault> {
    let (projects, pipelines) = offers(agent)?;
    let count = i64::try_from(projects.len()).unwrap_or(i64::MAX);
    let (window, absence) = (rows::signed(millis(agent.window))?, rows::signed(millis(ABSENCE_LIMIT))?);
    let noted = session
        .write(call!(Sql::AgentCame, agent.worker.clone(), projects, pipelines, agent.id, window, absence))
        .await?;
    let row = noted.first().ok_or(DatabaseFault::Mistaken("the database tells nothing of an agent"))?;
    let (known_count, near_count): (i64, i64) = (rows::get(row, 0)?, rows::get(row, 1)?);
    if known_count < count {
        // Only agents that are new make the table grow.
        let limit = i64::try_from(REMEMBERED_LIMIT).unwrap_or(i64::MAX);
        session.write(call!(Sql::ForgetAgents, limit)).await?;
    }
    Ok(near_count < count)
}

/// Notes that a call ended before its window did, even if its coming is noted only after this.
pub(super) async fn left(session: &mut DatabaseSession, agent: &AgentCall) -> Result<(), DatabaseFault> {
    let (projects, pipelines) = offers(agent)?;
    session.write(call!(Sql::AgentLeft, agent.worker.clone(), projects, pipelines, agent.id)).await.map(|_| ())
}

/// The projects of a call, and the pipelines that it offers for each.
fn offers(agent: &AgentCall) -> Result<(Vec<String>, Vec<String>), DatabaseFault> {
    let offers = agent.offers.iter().map(|(project, pipelines)| {
        let pipelines =
            serde_json::to_string(pipelines).map_err(|_| DatabaseFault::Mistaken("an offer has no JSON form"))?;
        Ok((project.as_str().to_owned(), pipelines))
    });
    offers.collect()
}

/// A project's agents, those with the most recent call first.
pub(super) async fn of(session: &mut DatabaseSession, project: &ProjectName) -> Result<Vec<KnownAgent>, DatabaseFault> {
    let limit = i64::try_from(KNOWN_LIMIT).unwrap_or(i64::MAX);
    let found = session.ask(call!(Sql::Agents, project.as_str().to_owned(), limit)).await?;
    let known = |row: &Row| {
        Ok(KnownAgent {
            worker: rows::get(row, 0)?,
            pipelines: rows::json(row, 1)?,
            last_seen_at: rows::instant(row, 2)?,
            is_parked: rows::get(row, 3)?,
            gone_for: Duration::from_millis(rows::number(row, 4)?),
        })
    };
    found.iter().map(known).collect()
}
