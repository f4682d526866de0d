//! The figures of the database for the metrics. All servers of the database answer the same.

use super::{
    fault::DatabaseFault,
    rows,
    session::{DatabaseSession, call},
    statements::Sql,
};
use crate::store::{
    agents::ABSENCE_LIMIT,
    columns::millis,
    figures::{HeldSlot, SlotStage, StoreFigures},
    unreadable::Unreadable,
};

pub(super) async fn figures(
    session: &mut DatabaseSession,
    unreadable: &Unreadable,
) -> Result<StoreFigures, DatabaseFault> {
    let mut figures = StoreFigures::default();
    let absence = rows::signed(millis(ABSENCE_LIMIT))?;
    for row in &session.ask(call!(Sql::HeldSlots)).await? {
        if let Some(stage) = SlotStage::of(rows::get(row, 1)?) {
            let since = rows::instant(row, 2)?;
            figures.entry(rows::name(row, 0)?).slot = Some(HeldSlot { stage, since });
        }
    }
    for row in &session.ask(call!(Sql::Lines)).await? {
        let (count, since) = (rows::number(row, 1)?, rows::instant(row, 2)?);
        let project = figures.entry(rows::name(row, 0)?);
        (project.waiting_count, project.waiting_since) = (count, Some(since));
    }
    for row in &session.ask(call!(Sql::Pauses)).await? {
        let project = rows::name(row, 0)?;
        let pause = rows::json_or_none(row, 1).map_err(DatabaseFault::into_store_error);
        let pause = unreadable.skip(pause, || format!("project {project}"));
        figures.entry(project).pause = pause.flatten();
    }
    for row in &session.ask(call!(Sql::AgentCounts, absence)).await? {
        figures.entry(rows::name(row, 0)?).agent_count = rows::number(row, 1)?;
    }
    let size = session.ask(call!(Sql::SchemaSize)).await?;
    figures.size_bytes = size.first().map(|row| rows::number(row, 0)).transpose()?.unwrap_or_default();
    Ok(figures)
}
