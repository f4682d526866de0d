//! Compresses the output of deployments that are final.
//!
//! Deployments are visited in the order of their rows, each once it is final. Rows that a look before this one had seen
//! already are visited only: a database gives numbers to rows before they can be seen, and whoever still follows the
//! last lines reads them from rows.

use std::collections::BTreeSet;

use super::round::LookRound;
use crate::store::{
    StoreError,
    blocks::Block,
    upkeep::{Arrival, UpkeepMark},
};

/// How many deployments are looked at together.
const PAGE_LIMIT: usize = 500;

/// How far it has come.
#[derive(Debug, Default)]
pub(super) struct Packer {
    /// Every row up to here was visited; `None` before the first look.
    visited_up_to: Option<i64>,
    /// Of those, the rows that were not final yet.
    unfinished: BTreeSet<i64>,
    /// The newest row at the last look.
    seen_up_to: Option<i64>,
    /// What the store knows of it.
    kept_mark: Option<i64>,
}

impl Packer {
    pub(super) async fn look(&mut self, look: &mut LookRound<'_>) -> Result<(), StoreError> {
        let newest = look.upkeep.history().newest().await?.map(|(row, _)| row);
        let Some(settled) = std::mem::replace(&mut self.seen_up_to, newest) else { return Ok(()) };
        if self.visited_up_to.is_none() {
            self.kept_mark = look.upkeep.history().mark(UpkeepMark::PackedUpTo).await?;
            self.visited_up_to = Some(self.kept_mark.unwrap_or(0));
        }
        for row in self.unfinished.clone() {
            let found = look.upkeep.arrivals(row - 1, 1).await?;
            match found.first().filter(|arrival| arrival.row == row) {
                Some(arrival) if !arrival.is_final => continue,
                Some(arrival) if arrival.is_unpacked && !pack(look, row).await? => continue,
                // It is done, or gone.
                Some(_) | None => self.unfinished.remove(&row),
            };
        }
        let mut after = self.visited_up_to.unwrap_or(0);
        while after < settled && !look.is_over() {
            let page = look.upkeep.arrivals(after, PAGE_LIMIT).await?;
            let is_last = page.len() < PAGE_LIMIT;
            for Arrival { row, is_final, is_unpacked } in page.into_iter().filter(|arrival| arrival.row <= settled) {
                if look.is_over() {
                    break;
                }
                if !is_final || (is_unpacked && !pack(look, row).await?) {
                    self.unfinished.insert(row);
                }
                after = row;
                self.visited_up_to = Some(row);
            }
            if is_last {
                break;
            }
            self.keep_mark(look).await?;
        }
        self.keep_mark(look).await
    }

    /// Notes in the store how far it has come, so that a new start need not visit all of a history.
    async fn keep_mark(&mut self, look: &LookRound<'_>) -> Result<(), StoreError> {
        let reached = self.unfinished.first().map_or(self.visited_up_to, |row| Some(row - 1));
        if let Some(reached) = reached.filter(|reached| self.kept_mark.is_none_or(|kept| kept < *reached)) {
            look.upkeep.set_mark(UpkeepMark::PackedUpTo, reached).await?;
            self.kept_mark = Some(reached);
        }
        Ok(())
    }
}

/// Compresses all output of a final deployment, block by block. `false`: some of it is left for a later look.
async fn pack(look: &mut LookRound<'_>, row: i64) -> Result<bool, StoreError> {
    while !look.is_over() {
        let events = look.upkeep.unpacked(row).await?;
        if events.is_empty() {
            return look.write(look.upkeep.finish_packing(row)).await;
        }
        // Some ms of work, which would hold up the requests that this thread serves.
        let made = tokio::task::spawn_blocking(move || Block::of(&events)).await;
        let Ok(Ok(Some(block))) = made else {
            tracing::warn!(?made, row, "output of a deployment cannot be compressed; it stays as it is");
            return Ok(true);
        };
        if !look.write(look.upkeep.pack(row, block)).await? {
            return Ok(false);
        }
    }
    Ok(false)
}
