//! The upkeep of a store that keeps its history on a disk: finished output is compressed, what retention lets go is
//! removed, and the room is given back. See decisions 0078 and 0079.
//!
//! Each call that writes is one small transaction of its own, and may be repeated. The rules are in `src/upkeep`; the
//! database's triggers forbid whatever must not happen whichever rule says so.

use std::time::Duration;

use super::{
    BoxFuture, StoreError,
    blocks::{Block, StoredEvent},
};
use crate::model::{ProjectName, Revision};

/// A value that the upkeep keeps between its looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpkeepMark {
    /// All deployments up to this row are compressed, or have no output.
    PackedUpTo,
    /// The instant by which ages are judged, in milliseconds since 1970: it goes forward only so fast.
    AgedUntil,
}

impl UpkeepMark {
    /// The word for it in the stores.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            UpkeepMark::PackedUpTo => "packed_up_to",
            UpkeepMark::AgedUntil => "aged_until",
        }
    }
}

/// A deployment by its row, as the compression sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The number of its row.
    pub row: i64,
    /// Whether it is final.
    pub is_final: bool,
    /// Whether it has output that is not compressed yet.
    pub is_unpacked: bool,
}

/// What retention never removes of a project, whatever its age.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptDeployments {
    /// From this ticket on, the deployments are among the newest ones that are kept. `None`: all of them are.
    pub newest_from: Option<Revision>,
    /// Those that stay for another reason, by their rows. The first reason of a row counts.
    pub rows: Vec<(i64, KeptAs)>,
}

/// Why retention never removes a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeptAs {
    /// It is the last success, or the success before it.
    Live,
    /// It started last under the build-number mark.
    Mark,
    /// It ended last.
    LastEnded,
}

impl KeptAs {
    /// By the number that the stores' queries answer.
    pub(super) fn of(number: i64) -> Self {
        match number {
            1 => KeptAs::Mark,
            2 => KeptAs::LastEnded,
            _ => KeptAs::Live,
        }
    }
}

/// A deployment, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgedDeployment {
    /// The number of its row.
    pub row: i64,
    /// Its place in the order of arrival.
    pub ticket: Revision,
    /// When it was submitted, in milliseconds since 1970.
    pub created_at: i64,
    /// When it ended, if it is final.
    pub ended_at: Option<i64>,
    /// How much room it takes without its output, in bytes, about.
    pub bytes: u64,
    /// How much room its output takes, in bytes, about.
    pub output_bytes: u64,
}

/// What the upkeep reads to decide what goes. Nothing of it writes, so it may be asked beside a server that works.
pub trait AgedHistory: Send + Sync {
    /// A value that was kept.
    fn mark(&self, mark: UpkeepMark) -> BoxFuture<'_, Result<Option<i64>, StoreError>>;

    /// The row that arrived last, and when.
    fn newest(&self) -> BoxFuture<'_, Result<Option<(i64, i64)>, StoreError>>;

    /// All projects, each with the number of its row.
    fn project_rows(&self) -> BoxFuture<'_, Result<Vec<(i64, ProjectName)>, StoreError>>;

    /// The rows of the projects that are forgotten, and whose history is not all removed yet.
    fn forgotten_rows(&self) -> BoxFuture<'_, Result<Vec<i64>, StoreError>>;

    /// What a project never loses, where so many of its newest deployments are kept.
    fn kept(&self, project: i64, newest: u32) -> BoxFuture<'_, Result<KeptDeployments, StoreError>>;

    /// Deployments of a project after this ticket, the oldest first.
    fn aged(
        &self,
        project: i64,
        after: Revision,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgedDeployment>, StoreError>>;

    /// The same of those only that have compressed output.
    fn aged_outputs(
        &self,
        project: i64,
        after: Revision,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgedDeployment>, StoreError>>;
}

/// The calls for the upkeep.
pub trait Upkeep: Send + Sync {
    /// What it decides by.
    fn history(&self) -> &dyn AgedHistory;

    /// Whether it is this server's turn: of several, one does it for all, and the others wait for as long after its
    /// last call of this.
    fn take_turn(&self, pause: Duration) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Keeps a value.
    fn set_mark(&self, mark: UpkeepMark, value: i64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Deployments after this row, in the order of their rows, of all projects.
    fn arrivals(&self, after: i64, limit: usize) -> BoxFuture<'_, Result<Vec<Arrival>, StoreError>>;

    /// The first output of a deployment that is not compressed: as much as fits into a block.
    fn unpacked(&self, row: i64) -> BoxFuture<'_, Result<Vec<StoredEvent>, StoreError>>;

    /// Puts a block in place of the rows of its events. `false`, and nothing is changed: these rows are not there, or the
    /// deployment is not final.
    fn pack(&self, row: i64, block: Block) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Notes that all output of the deployment is compressed. `false`: it is not.
    fn finish_packing(&self, row: i64) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Removes some output of a final deployment. `true`: there may be more.
    fn remove_output(&self, row: i64) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Removes final deployments, whose output is removed already, with their events and keys. Answers how many.
    fn remove(&self, rows: Vec<i64>) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Removes the row of a forgotten project. `false`, and nothing is changed: it still has deployments.
    fn drop_forgotten(&self, project: i64) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Gives some room that is no longer needed back to the file system. `true`: there is more.
    fn give_back(&self) -> BoxFuture<'_, Result<bool, StoreError>>;
}
