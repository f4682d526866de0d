//! Which copy of the store a file is, so that an older copy that is put in its place is noticed.
//!
//! ```text
//! test.db           row:  branch, epoch            a log that begins raises the epoch, in its first commit
//! test.db.lineage   line: branch, epoch, floor     written after that commit, before its answer
//!
//! at the start      the row is behind the line, or of another branch, or there is no line: the revisions leap
//! ```
//!
//! A log begins when all of the former log is in the file. So a copy of the file of an idle or a stopped server is
//! behind as soon as something is decided after the copy was made. Such a copy does not know the later commits, and
//! must not hand out again the fencing tokens that were handed out in them. (Decision 0050.)

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use uuid::Uuid;

use super::{
    open::{beside, is_all_moved},
    schema,
};
use crate::{
    private,
    store::{
        StoreError,
        copy::{NUMBER_LEAP, REVISION_LEAP},
    },
};

/// The ending of the name of the file beside the store's file.
pub(super) const SUFFIX: &str = ".lineage";

const ROW: &str = "SELECT branch, epoch, is_backup FROM lineage";
const HAS_TABLE: &str = "SELECT count(*) FROM sqlite_schema WHERE name = 'lineage'";

/// Where a branch of the store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BranchStanding {
    branch: Uuid,
    epoch: i64,
    /// New projects begin above it.
    floor: i64,
}

/// The row in the store's file.
#[derive(Clone, Copy, Debug)]
struct LineageRow {
    branch: Uuid,
    epoch: i64,
    is_backup: bool,
}

/// The step that must be done before the store is used.
#[derive(Debug, PartialEq, Eq)]
enum NeededStep {
    Nothing,
    /// The store is new.
    Beginning,
    /// Something may have been forgotten, for this reason.
    Leap(&'static str),
}

/// Compares the row in the file with the line beside it.
fn needed(row: Option<&LineageRow>, known: Option<&BranchStanding>) -> NeededStep {
    match (row, known) {
        (None, None) => NeededStep::Beginning,
        (None, Some(_)) => NeededStep::Leap("another store was in this place before"),
        (Some(row), _) if row.is_backup => NeededStep::Leap("it is a backup that was put in this place"),
        (Some(_), None) => {
            NeededStep::Leap("nothing beside it says that it is the newest copy, as after a move to another place")
        }
        (Some(row), Some(known)) if row.branch != known.branch => {
            NeededStep::Leap("it is a copy from before or beside a restore")
        }
        (Some(row), Some(known)) if row.epoch < known.epoch => NeededStep::Leap("it is an older copy"),
        (Some(_), Some(_)) => NeededStep::Nothing,
    }
}

/// The store's standing, and the file beside it that says the same.
#[derive(Debug)]
pub(super) struct Lineage {
    standing: BranchStanding,
    line: Option<File>,
}

impl Lineage {
    /// Finds out which copy the file is that `db` has open to write, and makes the revisions leap where it is no longer
    /// the newest.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with what to do about it.
    pub(super) fn settle(db: &mut Connection, path: &Path) -> Result<Lineage, StoreError> {
        let failed = |error: rusqlite::Error| schema::unreadable(&error, &path.display().to_string());
        let known = read_line(path);
        let row = row(db).map_err(failed)?;
        let standing = match (needed(row.as_ref(), known.as_ref()), row) {
            (NeededStep::Nothing, Some(LineageRow { branch, epoch, .. })) => {
                BranchStanding { branch, epoch, floor: floor(db).map_err(failed)? }
            }
            (NeededStep::Nothing | NeededStep::Beginning, _) => begin(db).map_err(failed)?,
            (NeededStep::Leap(why), _) => {
                let standing = leap(db, known, why).map_err(failed)?;
                // Otherwise the line beside the file would be ahead of the file, and the log would be taken for another
                // file's.
                if !is_all_moved(db).map_err(failed)? {
                    return Err(StoreError::Unusable(format!(
                        "another program reads {}, which must be brought up to date first ({why}); close it, and start again",
                        path.display()
                    )));
                }
                tracing::warn!(
                    path = %path.display(),
                    revision_floor = standing.floor,
                    "the store's file may have forgotten what was done last ({why}): its revisions leap, so that no fencing \
                     token is given twice"
                );
                standing
            }
        };
        let mut lineage = Lineage { standing, line: open_line(path) };
        lineage.write_line();
        Ok(lineage)
    }

    /// The epoch of the log that begins next.
    pub(super) fn next_epoch(&self) -> i64 {
        self.standing.epoch + 1
    }

    /// The next epoch has begun: that is committed.
    pub(super) fn began(&mut self) {
        self.standing.epoch += 1;
        self.write_line();
    }

    /// Makes the line beside the file survive a loss of power.
    pub(super) fn sync(&self) {
        if let Some(Err(error)) = self.line.as_ref().map(File::sync_data) {
            tracing::warn!(%error, "the file beside the store's that tells older copies of it could not be synchronised");
        }
    }

    /// The line is not synchronised: when a copy is put back, the line is seen all the same, and after a loss of power
    /// the file is ahead of the line, never behind.
    fn write_line(&mut self) {
        let Some(line) = &self.line else { return };
        let text = self.standing.line();
        let written = line.write_all_at(text.as_bytes(), 0).and_then(|()| line.set_len(text.len() as u64));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot write the file beside the store's that tells older copies of it");
        }
    }
}

impl BranchStanding {
    /// Always of the same length, so that it is overwritten in place.
    fn line(&self) -> String {
        format!("{} {:020} {:020}\n", self.branch.simple(), self.epoch, self.floor)
    }

    fn parse(text: &str) -> Option<BranchStanding> {
        let mut words = text.split_whitespace();
        let branch = Uuid::try_parse(words.next()?).ok()?;
        let (epoch, floor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (words.next().is_none() && epoch > 0 && floor >= 0).then_some(BranchStanding { branch, epoch, floor })
    }
}

/// The line beside the store's file, if it can be read.
fn read_line(path: &Path) -> Option<BranchStanding> {
    let place = beside(path, SUFFIX);
    match fs::read_to_string(&place) {
        Ok(text) => {
            let known = BranchStanding::parse(&text);
            if known.is_none() {
                tracing::warn!(path = %place.display(), "this file cannot be understood, and is written anew");
            }
            known
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%error, path = %place.display(), "cannot read this file");
            None
        }
    }
}

fn open_line(path: &Path) -> Option<File> {
    let place = beside(path, SUFFIX);
    let opened = private::file().write(true).create(true).truncate(false).open(&place);
    opened
        .inspect_err(|error| {
            tracing::warn!(%error, path = %place.display(), "cannot make this file: the next start makes the revisions leap");
        })
        .ok()
}

fn row(db: &Connection) -> rusqlite::Result<Option<LineageRow>> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(LineageRow { branch: Uuid::from_bytes(row.get(0)?), epoch: row.get(1)?, is_backup: row.get(2)? })
    };
    db.query_row(ROW, [], read).optional()
}

/// New projects begin above this revision.
pub(super) fn floor(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT revision FROM revision_floor", [], |row| row.get(0))
}

fn begin(db: &Connection) -> rusqlite::Result<BranchStanding> {
    let standing = BranchStanding { branch: Uuid::now_v7(), epoch: 1, floor: floor(db)? };
    write_row(db, &standing)?;
    Ok(standing)
}

fn write_row(db: &Connection, standing: &BranchStanding) -> rusqlite::Result<()> {
    let write = "INSERT INTO lineage (number, branch, epoch, is_backup) VALUES (1, ?1, ?2, 0) \
        ON CONFLICT DO UPDATE SET branch = ?1, epoch = ?2, is_backup = 0";
    db.execute(write, params![standing.branch.as_bytes(), standing.epoch]).map(|_| ())
}

/// Raises all revisions above those that any known copy can have handed out.
fn leap(db: &mut Connection, known: Option<BranchStanding>, why: &str) -> rusqlite::Result<BranchStanding> {
    let leap = db.transaction()?;
    let (before, own) = (floor(&leap)?, row(&leap)?);
    let floor = before.max(known.map_or(0, |known| known.floor)) + REVISION_LEAP;
    let epoch = own.map_or(0, |row| row.epoch).max(known.map_or(0, |known| known.epoch)) + 1;
    let standing = BranchStanding { branch: Uuid::now_v7(), epoch, floor };
    leap.execute("UPDATE projects SET revision = revision + ?1", [floor - before])?;
    leap.execute("UPDATE projects SET deployment_count = deployment_count + ?1", [NUMBER_LEAP])?;
    leap.execute("UPDATE revision_floor SET revision = ?1", [floor])?;
    let detail = format!(
        "the store's file may have forgotten what was done last ({why}): the project's revision and its count of deployments leapt"
    );
    leap.execute(
        "INSERT INTO audit (at, project, action, detail) \
         SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER), name, 'leap', ?1 FROM projects WHERE name NOT LIKE '/%'",
        [detail],
    )?;
    write_row(&leap, &standing)?;
    leap.commit()?;
    Ok(standing)
}

/// Marks a copy as a backup. A copy of an older version has no place for the mark.
pub(super) fn mark_backup(db: &Connection) -> rusqlite::Result<()> {
    if db.query_row(HAS_TABLE, [], |row| row.get::<_, i64>(0))? > 0 {
        db.execute("UPDATE lineage SET is_backup = 1", [])?;
    }
    Ok(())
}

/// Makes a copy that will stand at `path` the newest store. Answers the line to write beside it.
pub(super) fn restore(db: &mut Connection, path: &Path) -> rusqlite::Result<BranchStanding> {
    leap(db, read_line(path), "it was restored")
}

/// Writes the line beside a store that was restored.
pub(super) fn write_beside(path: &Path, standing: BranchStanding) {
    let mut lineage = Lineage { standing, line: open_line(path) };
    lineage.write_line();
    lineage.sync();
}

/// Refuses a file that was put beside the log of another file, because that log would be played into it.
///
/// # Errors
/// [`StoreError::Unusable`] with what to do about it.
pub(super) fn require_own_log(path: &Path) -> Result<(), StoreError> {
    let log = beside(path, "-wal");
    if !has_commits(&log) {
        return Ok(());
    }
    // The row of the file without its log. While a log is in use, that is the epoch before the log's, or the log's own.
    let Some(alone) = row_alone(path) else { return Ok(()) };
    let is_foreign =
        |known: BranchStanding| alone.branch != known.branch || alone.epoch.saturating_add(1) < known.epoch;
    if !alone.is_backup && !read_line(path).is_some_and(is_foreign) {
        return Ok(());
    }
    Err(StoreError::Unusable(format!(
        "{} is a backup or an older copy, and {log} is the log of the file that was there before; move {log} away (and {}), \
         and start again",
        path.display(),
        beside(path, "-shm").display(),
        log = log.display(),
    )))
}

/// Whether a log has a header: an empty one, or one of zeros, holds nothing.
fn has_commits(log: &Path) -> bool {
    let mut header = [0; 32];
    let read = File::open(log).and_then(|mut log| log.read_exact(&mut header));
    read.is_ok() && header.iter().any(|byte| *byte != 0)
}

/// The row of the file alone, whatever lies beside it; `None` where it cannot be read so.
fn row_alone(path: &Path) -> Option<LineageRow> {
    let mut address = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => address.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => address.push(char::from(*byte)),
            byte => address.push_str(&format!("%{byte:02x}")),
        }
    }
    address.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(address, flags).and_then(|db| row(&db)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_known_to_be_the_newest_copy_leaps() {
        let known = BranchStanding { branch: Uuid::from_u128(1), epoch: 7, floor: 0 };
        let row = |branch, epoch, is_backup| LineageRow { branch: Uuid::from_u128(branch), epoch, is_backup };
        let leaps = |row: Option<LineageRow>, known: Option<&BranchStanding>| {
            matches!(needed(row.as_ref(), known), NeededStep::Leap(_))
        };
        assert_eq!(needed(None, None), NeededStep::Beginning);
        assert_eq!(needed(Some(&row(1, 7, false)), Some(&known)), NeededStep::Nothing);
        assert_eq!(needed(Some(&row(1, 8, false)), Some(&known)), NeededStep::Nothing, "the power was lost in between");
        assert!(leaps(Some(row(1, 6, false)), Some(&known)));
        assert!(leaps(Some(row(2, 9, false)), Some(&known)));
        assert!(leaps(Some(row(1, 7, true)), Some(&known)));
        assert!(leaps(Some(row(1, 7, false)), None));
        assert!(leaps(None, Some(&known)));
    }

    #[test]
    fn what_stands_beside_is_read_as_it_was_written_and_nothing_else_is() {
        let standing = BranchStanding { branch: Uuid::from_u128(1), epoch: 7, floor: 20_000_000 };
        assert_eq!(BranchStanding::parse(&standing.line()), Some(standing));
        assert_eq!(standing.line().len(), BranchStanding { epoch: i64::MAX, floor: i64::MAX, ..standing }.line().len());
        for broken in ["", "x 1 0", "00000000000000000000000000000001 0 0", "00000000000000000000000000000001 1"] {
            assert_eq!(BranchStanding::parse(broken), None, "{broken}");
        }
    }
}
