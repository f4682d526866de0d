//! The journal of a deployment that an agent took: the lease, the reports that are not sent yet, and the end.
//!
//! One file a deployment, one line of JSON an entry, appended only. The claim is on disk before anything runs, and the
//! end before it is reported. Output is written without a sync: it survives the process, but not always the machine.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    exec::lease::Journal,
    model::{DeploymentId, ProjectName, Report, Verdict},
    wire::{FinishRequest, Lease},
};

/// How the files' names end.
const EXTENSION: &str = "journal";
/// How much a journal may hold before output is no longer kept whole: a screenful of it remains at the server anyway.
const KEPT_LIMIT: u64 = 16 << 20;

/// A line of a journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "camelCase")]
enum JournalEntry {
    /// The first one: what was taken.
    Taken(Taken),
    /// A report.
    Report { number: u64, report: Report },
    /// The server has every report up to this number.
    Told { last: u64 },
    /// The end.
    End { finish: FinishRequest },
}

/// What an agent took.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// The project.
    pub project: ProjectName,
    /// The deployment.
    pub deployment: DeploymentId,
    /// Its lease.
    pub lease: Lease,
}

/// The journal of one deployment, for writing.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    file: File,
    written: u64,
}

/// What a journal says.
#[derive(Debug)]
pub struct Record {
    /// What was taken.
    pub taken: Taken,
    /// The reports that were not sent yet, in order, with their numbers.
    pub pending: Vec<(u64, Report)>,
    /// The number of the last report there was.
    pub last: u64,
    /// The end, if the deployment has ended.
    pub end: Option<Verdict>,
}

impl JournalFile {
    /// Begins the journal of a deployment; the journal is on disk when this returns. `None` if the deployment has one already.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn begin(dir: &Path, taken: &Taken) -> io::Result<Option<JournalFile>> {
        let path = path(dir, taken.deployment);
        // The lease is a secret.
        let made = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = match made {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut journal = JournalFile { path, file, written: 0 };
        journal.append(&JournalEntry::Taken(taken.clone()))?;
        journal.file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(Some(journal))
    }

    /// Writes the end; it is on disk when this returns. Runs on this thread: nothing else of the deployment goes on meanwhile,
    /// and the write takes milliseconds.
    pub fn end(&mut self, verdict: &Verdict) {
        let written = self.append(&JournalEntry::End { finish: verdict.clone().into() });
        note(written.and_then(|()| self.file.sync_data()));
    }

    /// Everything has been sent: removes the journal.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a journal could not be removed");
        }
    }

    fn append(&mut self, entry: &JournalEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.written += line.len() as u64;
        self.file.write_all(&line)
    }
}

impl Journal for JournalFile {
    /// When the journal is too large, only a note replaces the output.
    fn report(&mut self, number: u64, report: &Report) {
        let report = match report {
            Report::Log { stream, phase, lines } if self.written > KEPT_LIMIT => Report::Log {
                stream: *stream,
                phase: phase.clone(),
                lines: vec![format!("[singletrack: {} lines were not kept by the agent]", lines.len())],
            },
            report => report.clone(),
        };
        note(self.append(&JournalEntry::Report { number, report }));
    }

    fn told(&mut self, last: u64) {
        note(self.append(&JournalEntry::Told { last }));
    }
}

/// Logs a failed write. The pipeline goes on: the journal matters only if the agent dies, too.
fn note(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::error!(%error, "the journal could not be written");
    }
}

fn path(dir: &Path, deployment: DeploymentId) -> PathBuf {
    dir.join(format!("{deployment}.{EXTENSION}"))
}

/// Whether a deployment has a journal.
pub fn exists(dir: &Path, deployment: DeploymentId) -> bool {
    path(dir, deployment).exists()
}

/// Checks whether journals can be written: a deployment without a journal would have to be given up.
///
/// # Errors
/// They cannot.
pub fn try_to_write(dir: &Path) -> io::Result<()> {
    let path = dir.join("trial");
    let tried = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&[b' '; 4096])?;
        file.sync_all()
    })();
    let removed = fs::remove_file(&path);
    tried.and(removed)
}

/// Every journal that an earlier agent left here, with its content; empty journals are removed.
pub fn left_behind(dir: &Path) -> io::Result<Vec<(JournalFile, Record)>> {
    let mut left = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let bytes = fs::read(&path)?;
        let Some(record) = read(&bytes) else {
            // The first line was never whole, so nothing was ever started under it.
            tracing::warn!(path = %path.display(), "an empty journal is removed");
            fs::remove_file(&path)?;
            continue;
        };
        let mut file = OpenOptions::new().append(true).open(&path)?;
        // A line that was cut off must not be joined with the next one.
        file.write_all(b"\n")?;
        left.push((JournalFile { path, file, written: bytes.len() as u64 }, record));
    }
    Ok(left)
}

fn read(bytes: &[u8]) -> Option<Record> {
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let JournalEntry::Taken(taken) = serde_json::from_slice(lines.next()?).ok()? else { return None };
    let mut record = Record { taken, pending: Vec::new(), last: 0, end: None };
    // A line that cannot be read was cut off by a crash: it does not count.
    for entry in lines.filter_map(|line| serde_json::from_slice(line).ok()) {
        match entry {
            JournalEntry::Taken(_) => {}
            JournalEntry::Report { number, report } => {
                record.last = number;
                record.pending.push((number, report));
            }
            JournalEntry::Told { last } => {
                record.last = record.last.max(last);
                record.pending.retain(|(number, _)| *number > last);
            }
            // An end that only a later version knows is treated as a missing end: the work is over.
            JournalEntry::End { finish } => record.end = Verdict::try_from(finish).ok(),
        }
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Revision;

    fn taken() -> Taken {
        let lease = Lease { secret: "ab".repeat(32), fencing_token: Revision(3), ttl_seconds: 60 };
        Taken { project: "web".parse().unwrap(), deployment: DeploymentId::generate(), lease }
    }

    fn progress(progress: u8) -> Report {
        Report::Progress { progress: Some(progress), message: None }
    }

    #[test]
    fn a_journal_tells_what_is_still_to_be_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = JournalFile::begin(dir.path(), &taken()).unwrap().unwrap();
        for number in 1..=4 {
            journal.report(u64::from(number), &progress(number));
        }
        journal.told(2);
        // The machine stopped in the middle of a line.
        journal.file.write_all(br#"{"entry":"told","la"#).unwrap();
        let (mut journal, record) = left_behind(dir.path()).unwrap().pop().unwrap();
        assert_eq!(record.pending, [(3, progress(3)), (4, progress(4))]);
        assert_eq!((record.last, record.end), (4, None));
        journal.end(&Verdict::Stopped);
        let (journal, record) = left_behind(dir.path()).unwrap().pop().unwrap();
        assert_eq!(record.end, Some(Verdict::Stopped));
        journal.remove();
        assert!(left_behind(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_deployment_has_one_journal_and_one_that_was_never_whole_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let taken = taken();
        assert!(JournalFile::begin(dir.path(), &taken).unwrap().is_some());
        assert!(JournalFile::begin(dir.path(), &taken).unwrap().is_none());
        fs::write(dir.path().join(format!("{}.journal", taken.deployment)), b"{\"entry\":\"ta").unwrap();
        assert!(left_behind(dir.path()).unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
