//! Packs a directory or a file. The same tree gives the same bytes: sorted, without times and owners, and with modes that
//! only tell whether a file is a program.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::{self, BufWriter, Read, Seek as _, Write},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use ignore::WalkBuilder;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use thiserror::Error;

use super::{Digest, links::stays_inside, unpack::ENTRY_LIMIT};

/// A file in the tree that says what is left out, as `.gitignore` does, and is stronger than that.
pub const IGNORE_FILE: &str = ".singletrackignore";
/// Fast, and nearly as small as the levels above it: the upload is waited for.
const COMPRESSION_LEVEL: i32 = 3;

/// A packed artifact, in a file that has no name and is gone with this.
#[derive(Debug)]
pub struct Packed {
    /// The bytes.
    pub file: File,
    /// Their name.
    pub digest: Digest,
    /// How many they are.
    pub bytes: u64,
    /// How many files, folders and links are in it.
    pub entry_count: usize,
}

/// Why it cannot be packed.
#[derive(Debug, Error)]
pub enum PackError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A link leads out of the directory, where it would lead elsewhere on another machine.
    #[error("{path} is a link that leads out of what is packed, to {target}; leave it out with {IGNORE_FILE}")]
    LinkOut {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// It is a socket, a pipe or a device.
    #[error("{0} is no file, folder or link; leave it out with {IGNORE_FILE}")]
    Special(String),
    /// It was written to meanwhile.
    #[error("{0} changed while it was packed; pack what is finished")]
    Changed(String),
    /// There are too many files.
    #[error("there are more than {ENTRY_LIMIT} files in it; leave some out with {IGNORE_FILE}")]
    TooMany,
    /// The packed file cannot be written.
    #[error("the packed file cannot be written to the temporary folder: {0}")]
    Unwritable(#[source] io::Error),
}

/// Packs a directory without what its `.gitignore` files leave out, or a single file under its own name.
///
/// Only files in the tree itself decide what is left out: neither those of folders above it, since a build's output is
/// usually ignored there, nor the user's own, since the same tree must be the same artifact everywhere.
///
/// # Errors
/// Something in it cannot be packed, or the packed file cannot be written.
pub fn pack(path: &Path) -> Result<Packed, PackError> {
    let found = metadata(path, true)?;
    let (root, entries) = if found.is_dir() {
        // The directory itself, should a link to it be named.
        let root = path.canonicalize().map_err(|error| unreadable(path, error))?;
        let entries = entries(&root)?;
        (root, entries)
    } else {
        let name = path.file_name().ok_or_else(|| PackError::Special(path.display().to_string()))?;
        (path.parent().map(Path::to_path_buf).unwrap_or_default(), vec![PathBuf::from(name)])
    };
    let file = tempfile::tempfile().map_err(PackError::Unwritable)?;
    let sink = Hashing { to: BufWriter::new(file), hasher: Sha256::new(), bytes: 0 };
    let mut encoder = zstd::Encoder::new(sink, COMPRESSION_LEVEL).map_err(PackError::Unwritable)?;
    encoder.include_checksum(true).map_err(PackError::Unwritable)?;
    let mut tar = tar::Builder::new(encoder);
    // Who names a single link means what it leads to.
    let links = if found.is_dir() { links(&root, &entries)? } else { BTreeMap::new() };
    for name in &entries {
        match links.get(name) {
            Some(target) => append_link(&mut tar, &root.join(name), name, target, &links)?,
            None => append(&mut tar, &root.join(name), name, found.is_file())?,
        }
    }
    let sink = tar.into_inner().and_then(zstd::Encoder::finish).map_err(PackError::Unwritable)?;
    let Hashing { to, hasher, bytes } = sink;
    let mut file = to.into_inner().map_err(|error| PackError::Unwritable(error.into_error()))?;
    file.rewind().map_err(PackError::Unwritable)?;
    Ok(Packed { file, digest: Digest::of(hasher), bytes, entry_count: entries.len() })
}

/// What is in the directory and not left out, in the order of its names, folders before what is in them.
fn entries(root: &Path) -> Result<Vec<PathBuf>, PackError> {
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .parents(false)
        .ignore(false)
        .git_global(false)
        .git_exclude(false)
        .git_ignore(true)
        // A tree that was exported from git is ignored the same way as one in it.
        .require_git(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build();
    let mut entries = Vec::new();
    for entry in walk {
        let entry = entry.map_err(|error| unreadable(root, io::Error::other(error)))?;
        let Ok(name) = entry.path().strip_prefix(root) else { continue };
        if name.as_os_str().is_empty() {
            continue;
        }
        if entries.len() == ENTRY_LIMIT {
            return Err(PackError::TooMany);
        }
        entries.push(name.to_path_buf());
    }
    Ok(entries)
}

fn links(root: &Path, entries: &[PathBuf]) -> Result<BTreeMap<PathBuf, PathBuf>, PackError> {
    let mut links = BTreeMap::new();
    for name in entries {
        let path = root.join(name);
        if metadata(&path, false)?.is_symlink() {
            let target = std::fs::read_link(&path).map_err(|error| unreadable(&path, error))?;
            links.insert(name.clone(), target);
        }
    }
    Ok(links)
}

fn append_link(
    tar: &mut tar::Builder<impl Write>,
    path: &Path,
    name: &Path,
    target: &Path,
    links: &BTreeMap<PathBuf, PathBuf>,
) -> Result<(), PackError> {
    if !stays_inside(name, target, links) {
        let (path, target) = (path.display().to_string(), target.display().to_string());
        return Err(PackError::LinkOut { path, target });
    }
    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), name, target).map_err(PackError::Unwritable)
}

fn append(tar: &mut tar::Builder<impl Write>, path: &Path, name: &Path, is_lone: bool) -> Result<(), PackError> {
    let found = metadata(path, is_lone)?;
    if found.is_dir() {
        return tar
            .append_data(&mut header(EntryType::Directory, 0o755, 0), name, io::empty())
            .map_err(PackError::Unwritable);
    }
    // A pipe would be waited for without end.
    let kind = found.file_type();
    if !found.is_file() || kind.is_fifo() || kind.is_socket() {
        return Err(PackError::Special(path.display().to_string()));
    }
    let mode = if found.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut exact = Exact { file: file.take(found.len()), error: None, read: 0 };
    let appended = tar.append_data(&mut header(EntryType::Regular, mode, found.len()), name, &mut exact);
    if let Some(error) = exact.error {
        return Err(unreadable(path, error));
    }
    appended.map_err(PackError::Unwritable)?;
    if exact.read == found.len() { Ok(()) } else { Err(PackError::Changed(path.display().to_string())) }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn metadata(path: &Path, follow: bool) -> Result<Metadata, PackError> {
    let found = if follow { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
    found.map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: io::Error) -> PackError {
    PackError::Unreadable { path: path.display().to_string(), error }
}

/// Counts what is read, and keeps the error: the archive's writer would mix it up with its own.
struct Exact {
    file: io::Take<File>,
    error: Option<io::Error>,
    read: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Ok(count) => {
                self.read += count as u64;
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

struct Hashing<W> {
    to: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.to.write_all(piece)?;
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
