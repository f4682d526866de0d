//! The facts that a database tells about itself on connecting. Some are required. Others only add protection, so a
//! managed database that refuses to tell them is used all the same.

use std::sync::atomic::{AtomicU8, Ordering};

use futures_util::future::join_all;
use tokio_postgres::{Client, SimpleQueryMessage, error::SqlState};

use super::{branch::Row, fault::DatabaseFault};
use crate::store::StoreError;

/// The oldest accepted PostgreSQL. `pg_xact_status` and all our statements exist in older versions, but those versions
/// get no fixes any more.
const OLDEST_VERSION: u32 = 140_000;

/// The facts about a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) version: u32,
    pub(super) is_standby: bool,
    pub(super) backend: i64,
    pub(super) encoding: String,
    pub(super) database: String,
    pub(super) fsync: String,
    pub(super) synchronous_commit: String,
    pub(super) full_page_writes: String,
    pub(super) synchronous_standbys: String,
    /// How many standbys stream from it, if we have the right to see that.
    pub(super) standby_count: i64,
    pub(super) synchronous_standby_count: i64,
    /// The identity of its cluster, if it tells.
    pub(super) system: Option<String>,
    /// How often a standby of the cluster was promoted, if it tells.
    pub(super) timeline: Option<i64>,
    /// Changes when the database starts again.
    pub(super) life: String,
    /// The object ids of the database and of our tables, if there are any.
    pub(super) tables: Option<String>,
    /// The row in which our tables say their branch, if there is one.
    pub(super) lineage: Option<Row>,
}

/// The facts that every PostgreSQL tells.
const BASICS: &str = "SELECT current_setting('server_version_num'), pg_is_in_recovery()::int, pg_backend_pid(), \
    current_setting('server_encoding'), current_database(), current_setting('fsync'), \
    current_setting('synchronous_commit'), current_setting('full_page_writes'), \
    current_setting('synchronous_standby_names')";

const SYSTEM: &str = "SELECT system_identifier FROM pg_control_system()";
/// The timeline of the present writes: correct from the moment of a promotion on.
pub(super) const TIMELINE: &str = "CASE WHEN NOT pg_is_in_recovery() \
    THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END";
/// The timeline of the last checkpoint. It changes shortly after a promotion.
const CHECKPOINT_TIMELINE: &str = "SELECT timeline_id FROM pg_control_checkpoint()";
const STANDBYS: &str = "SELECT count(*), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) \
    FROM pg_stat_replication";
/// The second part changes even after a crash that the first process survived, because the crash resets the statistics.
pub(super) const LIFE: &str = "extract(epoch FROM pg_postmaster_start_time()) || ' ' \
    || coalesce(extract(epoch FROM (SELECT stats_reset FROM pg_stat_bgwriter))::text, '')";

/// The questions that some databases refuse. A question that was refused once is not asked again.
#[derive(Debug, Default)]
pub(super) struct Refusals(AtomicU8);

#[derive(Clone, Copy)]
enum Optional {
    System = 1,
    Timeline = 2,
    CheckpointTimeline = 4,
    Standbys = 8,
    Life = 16,
}

impl Refusals {
    fn has(&self, what: Optional) -> bool {
        self.0.load(Ordering::Relaxed) & what as u8 != 0
    }

    fn note(&self, what: Optional) {
        self.0.fetch_or(what as u8, Ordering::Relaxed);
    }

    /// Whether the timeline of the present writes can be asked for.
    pub(super) fn tells_timeline(&self) -> bool {
        !self.has(Optional::Timeline)
    }
}

type Cells = Vec<Option<String>>;

/// Asks all questions, in one flight.
pub(super) async fn read(client: &Client, schema: &str, refusals: &Refusals) -> Result<Facts, DatabaseFault> {
    let timeline = format!("SELECT {TIMELINE}");
    let life = format!("SELECT {LIFE}");
    let tables = format!(
        "SELECT (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || oid \
         FROM pg_class WHERE oid = to_regclass('{schema}.projects')"
    );
    let lineage = format!("SELECT store, branch, era, system, timeline, tables FROM {schema}.lineage");
    let wanted = [
        (BASICS, None),
        (SYSTEM, Some(Optional::System)),
        (&timeline, Some(Optional::Timeline)),
        (CHECKPOINT_TIMELINE, Some(Optional::CheckpointTimeline)),
        (STANDBYS, Some(Optional::Standbys)),
        (&life, Some(Optional::Life)),
        (&tables, None),
        (&lineage, None),
    ];
    let answers = join_all(wanted.map(|(question, optional)| async move {
        if optional.is_some_and(|what| refusals.has(what)) {
            return Ok(None);
        }
        match client.simple_query(question).await {
            Ok(answer) => Ok(first_row(&answer)),
            Err(error) => match (error.code(), optional) {
                (Some(_), Some(what)) => {
                    refusals.note(what);
                    Ok(None)
                }
                // There are no tables before the first start, or their version knew no branches.
                (Some(code), None) if is_absent(code) => Ok(None),
                (Some(_) | None, _) => Err(DatabaseFault::Driver(error)),
            },
        }
    }));
    let mut answers = answers.await.into_iter().collect::<Result<Vec<Option<Cells>>, _>>()?.into_iter();
    let mut next = || answers.next().flatten().unwrap_or_default();
    let basics = next();
    let text = |cells: &Cells, at: usize| cells.get(at).cloned().flatten();
    let number = |cells: &Cells, at: usize| text(cells, at).and_then(|text| text.parse().ok()).unwrap_or(0_i64);
    let plain = |at: usize| text(&basics, at).unwrap_or_default();
    let (system, timeline, checkpoint, standbys, life, tables, lineage) =
        (next(), next(), next(), next(), next(), next(), next());
    if basics.is_empty() {
        return Err(DatabaseFault::Row("the database tells nothing of itself".to_owned()));
    }
    Ok(Facts {
        version: u32::try_from(number(&basics, 0)).unwrap_or(0),
        is_standby: number(&basics, 1) != 0,
        backend: number(&basics, 2),
        encoding: plain(3),
        database: plain(4),
        fsync: plain(5),
        synchronous_commit: plain(6),
        full_page_writes: plain(7),
        synchronous_standbys: plain(8),
        standby_count: number(&standbys, 0),
        synchronous_standby_count: number(&standbys, 1),
        system: text(&system, 0),
        timeline: text(&timeline, 0).or(text(&checkpoint, 0)).and_then(|text| text.parse().ok()),
        life: text(&life, 0).unwrap_or_default(),
        tables: text(&tables, 0),
        lineage: if lineage.is_empty() { None } else { Some(Row::parse(&lineage)?) },
    })
}

impl Facts {
    /// Refuses a database that no server can use.
    pub(super) fn require_fit(&self) -> Result<(), DatabaseFault> {
        let refuse = |why: String| Err(DatabaseFault::Refused(StoreError::Unusable(why)));
        if self.version < OLDEST_VERSION {
            let version = self.version / 10_000;
            return refuse(format!("the database is PostgreSQL {version}; singletrack needs version 14 or later"));
        }
        if self.encoding != "UTF8" {
            let Facts { encoding, database, .. } = self;
            return refuse(format!(
                "the database {database} has the encoding {encoding}, which cannot hold all that people write; make one \
                 in UTF-8: CREATE DATABASE {database}_utf8 ENCODING 'UTF8' LC_COLLATE 'C' \
                 LC_CTYPE 'C' TEMPLATE template0"
            ));
        }
        if self.is_standby {
            // The standby may be promoted, or the URL may name another host, so this is no reason to give up.
            return Err(DatabaseFault::Refused(StoreError::Unavailable(
                "the database is a standby, which cannot be written to; name the primary, or all hosts".to_owned(),
            )));
        }
        Ok(())
    }
}

fn is_absent(code: &SqlState) -> bool {
    // If the right to use the schema is missing, the code that makes the tables reports it.
    [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::INSUFFICIENT_PRIVILEGE].contains(code)
}

pub(super) fn first_row(answer: &[SimpleQueryMessage]) -> Option<Cells> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
        _ => None,
    })
}
