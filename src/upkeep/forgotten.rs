//! Removes the history of forgotten projects, step by step. Nobody finds it any more, so a step that is not made is made at
//! the next look. See decision 0082.

use super::{
    prune::{REMOVED_AT_ONCE, remove_output},
    round::LookRound,
};
use crate::{model::Revision, store::StoreError};

/// Removes what can be removed now.
pub(super) async fn look(look: &mut LookRound<'_>) -> Result<(), StoreError> {
    let history = look.upkeep.history();
    for project in history.forgotten_rows().await? {
        let (mut after, mut deployments) = (Revision(0), 0);
        while !look.is_over() {
            let page = history.aged(project, after, REMOVED_AT_ONCE).await?;
            let Some(last) = page.last() else { break };
            after = last.ticket;
            // The last row of all is removed once there is a later one, because SQLite would give its number again, and the
            // compression goes by these numbers.
            let newest = history.newest().await?.map(|(row, _)| row);
            let rows: Vec<_> = page.iter().map(|it| it.row).filter(|row| Some(*row) != newest).collect();
            for row in page.iter().filter(|it| it.output_bytes > 0).map(|it| it.row) {
                remove_output(look, row).await?;
            }
            if look.is_over() {
                break;
            }
            deployments += look.write(look.upkeep.remove(rows)).await?;
        }
        if look.is_over() {
            break;
        }
        let is_gone = look.write(look.upkeep.drop_forgotten(project)).await?;
        if deployments > 0 || is_gone {
            tracing::info!(deployments, is_gone, "the history of a forgotten project was removed");
        }
    }
    Ok(())
}
