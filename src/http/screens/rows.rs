//! The rows of all projects, each rendered once after its project changed, for all who look.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::OnceCell, time::Instant};

use super::row::Row;
use crate::{
    http::{App, error::ErrorAnswer, guard::VisibleProjects},
    model::ProjectName,
};

/// How old a row may be that shows a silence, a forecast or a hold: these change by time alone.
const FRESH: Duration = Duration::from_secs(5);
/// How many names of projects are read at once.
const NAMES_AT_ONCE: usize = 500;

/// The rows by project.
#[derive(Default)]
pub struct Rows {
    known: Mutex<BTreeMap<ProjectName, Arc<RowSlot>>>,
    names: tokio::sync::Mutex<Option<Names>>,
    refreshing: tokio::sync::Mutex<Option<Instant>>,
}

/// The names of all projects that were there when the board had this floor.
struct Names {
    floor: u64,
    read_at: Instant,
    names: BTreeSet<ProjectName>,
}

struct RowSlot {
    /// The number of the project's last change when this was made.
    number: u64,
    made_at: Instant,
    row: OnceCell<Option<Arc<Row>>>,
}

impl Rows {
    /// A project's row, as it is after its last change; `None` if the project is not there.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn row(&self, app: &App, name: &ProjectName) -> Result<Option<Arc<Row>>, ErrorAnswer> {
        self.row_not_older(app, name, None).await
    }

    async fn row_not_older(
        &self,
        app: &App,
        name: &ProjectName,
        limit: Option<Duration>,
    ) -> Result<Option<Arc<Row>>, ErrorAnswer> {
        // The number first: a change between this and the read makes another slot.
        let number = app.watch.board().number_of(name);
        let slot = {
            let mut known = self.known();
            let is_usable = |slot: &&Arc<RowSlot>| {
                slot.number == number && limit.is_none_or(|limit| slot.made_at.elapsed() < limit)
            };
            match known.get(name).filter(is_usable) {
                Some(slot) => slot.clone(),
                None => {
                    let slot = Arc::new(RowSlot { number, made_at: Instant::now(), row: OnceCell::new() });
                    known.insert(name.clone(), slot.clone());
                    slot
                }
            }
        };
        let read = || async { Ok::<_, ErrorAnswer>(Row::read(app, name).await?.map(Arc::new)) };
        slot.row.get_or_try_init(read).await.cloned()
    }

    /// The rows of all projects that the caller may see.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn all(
        &self,
        app: &App,
        visible: &VisibleProjects,
    ) -> Result<BTreeMap<ProjectName, Arc<Row>>, ErrorAnswer> {
        let mut names: BTreeSet<_> = match visible.only() {
            Some(only) => only,
            None => self.names(app).await?.into_iter().filter(|name| visible.sees(name)).collect(),
        };
        names.extend(app.config().projects.keys().filter(|name| visible.sees(name)).cloned());
        let mut rows = BTreeMap::new();
        // Where another server may change a project, a hint can be late.
        let limit = app.queue.store().is_shared().then_some(FRESH);
        for name in names {
            if let Some(row) = self.row_not_older(app, &name, limit).await? {
                rows.insert(name, row);
            }
        }
        Ok(rows)
    }

    /// Renders the rows again that change by time alone, at most every few seconds, whoever asks. One that has changed is
    /// told to all who watch.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn refresh(&self, app: &App) -> Result<(), ErrorAnswer> {
        // Whoever comes while another one does it goes on.
        let Ok(mut refreshed_at) = self.refreshing.try_lock() else { return Ok(()) };
        if refreshed_at.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        *refreshed_at = Some(Instant::now());
        let held: Vec<_> = {
            let known = self.known();
            let rows = known.iter().filter_map(|(name, slot)| Some((name.clone(), slot.row.get()?.clone()?)));
            rows.filter(|(_, row)| row.changes_by_time()).collect()
        };
        for (name, before) in held {
            let now = Row::read(app, &name).await?;
            if now.as_ref().is_none_or(|row| !row.is_like(&before)) {
                app.watch.board().touch(name);
            }
        }
        Ok(())
    }

    async fn names(&self, app: &App) -> Result<BTreeSet<ProjectName>, ErrorAnswer> {
        let mut known = self.names.lock().await;
        let board = app.watch.board();
        let floor = board.floor();
        let is_usable = |names: &&Names| {
            names.floor == floor && (!app.queue.store().is_shared() || names.read_at.elapsed() < FRESH)
        };
        let mut names = match known.as_ref().filter(is_usable) {
            Some(names) => names.names.clone(),
            None => {
                let read = read_names(app).await?;
                *known = Some(Names { floor, read_at: Instant::now(), names: read.clone() });
                read
            }
        };
        // Those that came since then.
        names.extend(board.names());
        Ok(names)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ProjectName, Arc<RowSlot>>> {
        // Every change of it is one insertion.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_names(app: &App) -> Result<BTreeSet<ProjectName>, ErrorAnswer> {
    let mut names = BTreeSet::new();
    let mut after = None;
    loop {
        let read = app.queue.store().projects(after, NAMES_AT_ONCE).await?;
        let is_last = read.len() < NAMES_AT_ONCE;
        after = read.last().map(|(name, _)| name.clone());
        names.extend(read.into_iter().map(|(name, _)| name));
        if is_last {
            return Ok(names);
        }
    }
}
