//! The identity of this server among the servers of one store, kept over a restart: it settles the runs that it was
//! running when it died, and only those.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _, Seek as _, Write as _},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use uuid::Uuid;

use crate::{model::LeaseHolder, private};

/// The name under which the one server of a store holds leases.
const ONLY_SERVER: &str = "server";
/// The file in the work directory that holds the server's identity.
const FILE_NAME: &str = "server-id";

/// The name under which a server's worker holds leases. As long as this value lives, no other server has the same name.
#[derive(Debug)]
pub(super) struct ServerIdentity {
    pub(super) holder: LeaseHolder,
    _lock: Option<File>,
}

impl ServerIdentity {
    /// For a server that is the only one on its store.
    pub(super) fn only() -> Self {
        ServerIdentity { holder: LeaseHolder::worker(ONLY_SERVER), _lock: None }
    }

    /// For one of several servers. The identity is kept in the work directory, together with the workspaces of its
    /// runs.
    ///
    /// # Errors
    /// The directory cannot be used, or another server uses it at this moment.
    pub(super) fn of(work_dir: &Path) -> io::Result<Self> {
        private::work_dir(work_dir)?;
        let mut file =
            private::file().read(true).write(true).create(true).truncate(false).open(work_dir.join(FILE_NAME))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::new(
                    ErrorKind::ResourceBusy,
                    "another server uses it; give each server a --work-dir of its own",
                ));
            }
            Err(errno) => return Err(errno.into()),
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A file that a full disk left half written is no identity. The former runs then end with their leases.
        let id = match Uuid::try_parse(text.trim()) {
            Ok(id) => id,
            Err(_) => {
                let id = Uuid::now_v7();
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{id}")?;
                file.sync_all()?;
                id
            }
        };
        Ok(ServerIdentity { holder: LeaseHolder::worker(format!("{ONLY_SERVER}-{id}")), _lock: Some(file) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_identity_outlives_its_server_and_is_had_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let work_dir = directory.path().join("work");
        let first = ServerIdentity::of(&work_dir).unwrap();
        assert_eq!(ServerIdentity::of(&work_dir).unwrap_err().kind(), ErrorKind::ResourceBusy);
        let name = first.holder.clone();
        drop(first);
        assert_eq!(ServerIdentity::of(&work_dir).unwrap().holder, name);
        assert_ne!(ServerIdentity::of(&directory.path().join("other")).unwrap().holder, name);
        fs::write(work_dir.join(FILE_NAME), "half").unwrap();
        assert_ne!(ServerIdentity::of(&work_dir).unwrap().holder, name);
    }
}
