//! Packs a directory or a file. The same tree gives the same bytes, because entries are sorted and carry no times and
//! owners. Whatever unpacking would refuse is refused here, before anything is uploaded.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    fs::{File, Metadata},
    io::{self, BufWriter, Read, Seek as _, Write},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use ignore::WalkBuilder;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use thiserror::Error;

use super::{
    links::stays_inside,
    unpack::{ENTRY_LIMIT, FREE_BYTES, PATH_LIMIT, RATIO_LIMIT, TARGET_LIMIT, folded},
};
use crate::model::Digest;

/// A file in the tree that lists files to leave out, in the format of `.gitignore`. It overrides `.gitignore`.
pub const IGNORE_FILE: &str = ".singletrackignore";
/// Fast, and nearly as small as the levels above it. Speed matters because the user waits for the upload.
const COMPRESSION_LEVEL: i32 = 3;

/// How many of the left-out files are named.
const NAMED: usize = 5;

/// How a directory is packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PackOptions {
    /// Whether the `.gitignore` files in the directory count as well.
    pub respect_gitignore: bool,
    /// Whether a directory without a single file may be packed.
    pub allow_empty: bool,
}

/// The files and folders of a directory that were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many files and folders; a folder counts as one, with everything in it.
    pub count: usize,
    first: Vec<PathBuf>,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.first.iter().map(|name| name.display().to_string()).collect();
        write!(f, "{}", names.join(", "))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A packed artifact, in a file without a name that vanishes when this is dropped.
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
    /// The files of the directory that are not in the artifact.
    pub left_out: LeftOut,
}

/// Why a directory or file cannot be packed.
#[derive(Debug, Error)]
pub enum PackError {
    /// A file cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A link leads out of the directory. On another machine it would lead elsewhere.
    #[error("{path} is a link that leads out of what is packed, to {target}; leave it out with {IGNORE_FILE}")]
    LinkOut {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// The file is a socket, a pipe or a device.
    #[error("{0} is no file, folder or link; leave it out with {IGNORE_FILE}")]
    Special(String),
    /// The file was written to while it was packed.
    #[error("{0} changed while it was packed; pack what is finished")]
    Changed(String),
    /// There are too many files.
    #[error("there are more than {ENTRY_LIMIT} files in it; leave some out with {IGNORE_FILE}")]
    TooMany,
    /// There is no file in the directory.
    #[error("there is no file to deploy in it{}; pass --allow-empty if that is meant", but_left_out(.0))]
    Empty(LeftOut),
    /// Two names in the directory are the same on some file systems.
    #[error(
        "{one} and {other} differ only in upper and lower case, and are one file on some machines; rename one of them, or \
         leave it out with {IGNORE_FILE}"
    )]
    CaseClash {
        /// One name.
        one: String,
        /// The other.
        other: String,
    },
    /// A path, or the target of a link, is too long.
    #[error("{0} is too long a path; leave it out with {IGNORE_FILE}")]
    TooLong(String),
    /// The directory packs so well that unpacking would take it for a decompression bomb.
    #[error(
        "it packs to less than 1/{RATIO_LIMIT} of its size, which is refused where it is unpacked; pack it with another tool, and deploy that file"
    )]
    TooDense,
    /// The packed file cannot be written.
    #[error("the packed file cannot be written to the temporary folder: {0}")]
    Unwritable(#[source] io::Error),
}

fn but_left_out(left_out: &LeftOut) -> String {
    if left_out.count == 0 { String::new() } else { format!(" (left out: {left_out})") }
}

/// Packs a directory, except the files that its `.singletrackignore` files leave out; or a single file under its own
/// name.
///
/// Only files in the tree itself decide which files are left out. The ignore files of the folders above the tree do not
/// count, because a build's output is usually ignored there. The user's own ignore file does not count, because the
/// same tree must be the same artifact everywhere.
///
/// # Errors
/// Something in it cannot be packed, or the packed file cannot be written.
pub fn pack(path: &Path, options: PackOptions) -> Result<Packed, PackError> {
    let found = metadata(path, true)?;
    let mut left_out = LeftOut::default();
    let (root, entries, links) = if found.is_dir() {
        // Resolve the path, in case it names a link to the directory.
        let root = path.canonicalize().map_err(|error| unreadable(path, error))?;
        let entries = entries(&root, options.respect_gitignore)?;
        let links = links(&root, &entries)?;
        left_out = find_left_out(&root, &entries)?;
        check(&root, &entries, &links)?;
        let is_file = |name: &PathBuf| !std::fs::symlink_metadata(root.join(name)).is_ok_and(|found| found.is_dir());
        if !options.allow_empty && !entries.iter().any(is_file) {
            return Err(PackError::Empty(left_out));
        }
        (root, entries, links)
    } else {
        let name = path.file_name().ok_or_else(|| PackError::Special(path.display().to_string()))?;
        // A single link on the command line stands for its target.
        (path.parent().map(Path::to_path_buf).unwrap_or_default(), vec![PathBuf::from(name)], BTreeMap::new())
    };
    let file = tempfile::tempfile().map_err(PackError::Unwritable)?;
    let sink = Hashing { to: BufWriter::new(file), hasher: Sha256::new(), bytes: 0 };
    let mut encoder = zstd::Encoder::new(sink, COMPRESSION_LEVEL).map_err(PackError::Unwritable)?;
    encoder.include_checksum(true).map_err(PackError::Unwritable)?;
    let mut tar = tar::Builder::new(Counting { to: encoder, bytes: 0 });
    if found.is_dir() {
        append_root(&mut tar, &found)?;
    }
    for name in &entries {
        match links.get(name) {
            Some(target) => append_link(&mut tar, name, target)?,
            None => append(&mut tar, &root.join(name), name, found.is_file())?,
        }
    }
    let Counting { to: encoder, bytes: open_bytes } = tar.into_inner().map_err(PackError::Unwritable)?;
    let Hashing { to, hasher, bytes } = encoder.finish().map_err(PackError::Unwritable)?;
    if open_bytes > FREE_BYTES.max(bytes.saturating_mul(RATIO_LIMIT)) {
        return Err(PackError::TooDense);
    }
    let mut file = to.into_inner().map_err(|error| PackError::Unwritable(error.into_error()))?;
    file.rewind().map_err(PackError::Unwritable)?;
    Ok(Packed { file, digest: Digest::of(hasher), bytes, entry_count: entries.len(), left_out })
}

/// The entries of the directory that are not left out, ordered by name, each folder before its content.
fn entries(root: &Path, respect_gitignore: bool) -> Result<Vec<PathBuf>, PackError> {
    let walk = WalkBuilder::new(root)
        .hidden(false)
        .parents(false)
        .ignore(false)
        .git_global(false)
        .git_exclude(false)
        .git_ignore(respect_gitignore)
        // A tree that was exported from git is ignored the same way as a git work tree.
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

/// The files and folders that are in the directory and not among the entries, except `.git`.
fn find_left_out(root: &Path, entries: &[PathBuf]) -> Result<LeftOut, PackError> {
    let packed: HashSet<&Path> = entries.iter().map(PathBuf::as_path).collect();
    let mut left_out = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        for entry in std::fs::read_dir(&path).map_err(|error| unreadable(&path, error))? {
            let entry = entry.map_err(|error| unreadable(&path, error))?;
            let name = folder.join(entry.file_name());
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match packed.contains(name.as_path()) {
                true if is_folder => folders.push(name),
                true => {}
                false if entry.file_name() == ".git" => {}
                false => left_out.push(name),
            }
        }
    }
    left_out.sort();
    let count = left_out.len();
    left_out.truncate(NAMED);
    Ok(LeftOut { count, first: left_out })
}

/// Checks that unpacking will accept these entries.
fn check(root: &Path, entries: &[PathBuf], links: &BTreeMap<PathBuf, PathBuf>) -> Result<(), PackError> {
    let mut names: HashMap<Vec<u8>, &Path> = HashMap::new();
    for name in entries {
        let bytes = name.as_os_str().as_bytes();
        if bytes.len() > PATH_LIMIT {
            return Err(PackError::TooLong(name.display().to_string()));
        }
        if let Some(other) = names.insert(folded(bytes), name) {
            let (one, other) = (other.display().to_string(), name.display().to_string());
            return Err(PackError::CaseClash { one, other });
        }
    }
    for (name, target) in links {
        let path = root.join(name).display().to_string();
        if target.as_os_str().len() > TARGET_LIMIT {
            return Err(PackError::TooLong(path));
        }
        if !stays_inside(name, target, links) {
            return Err(PackError::LinkOut { path, target: target.display().to_string() });
        }
    }
    Ok(())
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

/// Appends the directory itself: its mode becomes the workspace's mode.
fn append_root(tar: &mut tar::Builder<impl Write>, found: &Metadata) -> Result<(), PackError> {
    let mut root = header(EntryType::Directory, mode(found), 0);
    // As `tar -C DIR .` names it.
    if let Some(name) = root.as_mut_bytes().first_chunk_mut::<2>() {
        *name = *b"./";
    }
    root.set_cksum();
    tar.append(&root, io::empty()).map_err(PackError::Unwritable)
}

fn append_link(tar: &mut tar::Builder<impl Write>, name: &Path, target: &Path) -> Result<(), PackError> {
    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), name, target).map_err(PackError::Unwritable)
}

/// The permission bits: a file that was closed to others stays closed. The set-uid and set-gid bits are dropped,
/// because an artifact must not give the right to run as another user.
fn mode(found: &Metadata) -> u32 {
    found.permissions().mode() & 0o777
}

fn append(tar: &mut tar::Builder<impl Write>, path: &Path, name: &Path, is_lone: bool) -> Result<(), PackError> {
    let found = metadata(path, is_lone)?;
    if found.is_dir() {
        return tar
            .append_data(&mut header(EntryType::Directory, mode(&found), 0), name, io::empty())
            .map_err(PackError::Unwritable);
    }
    // Opening a pipe would block without end.
    let kind = found.file_type();
    if !found.is_file() || kind.is_fifo() || kind.is_socket() {
        return Err(PackError::Special(path.display().to_string()));
    }
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut exact = Exact { file: file.take(found.len()), error: None, read: 0 };
    let appended = tar.append_data(&mut header(EntryType::Regular, mode(&found), found.len()), name, &mut exact);
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

/// Counts the bytes that are read, and keeps a read error, because the archive's writer would report it as an error of
/// its own.
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

struct Counting<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let count = self.to.write(piece)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
