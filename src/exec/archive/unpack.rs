//! Unpacks untrusted archives. Only files, folders and links that stay inside are accepted; an archive with anything
//! else is refused whole.
//!
//! The archive is unpacked beside its target and moved there at the end, so nothing of a refused archive is ever seen.
//! Links are made last, so nothing can be written through them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Read, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    },
    path::{Component, Path, PathBuf},
    rc::Rc,
    sync::atomic::{AtomicBool, Ordering},
};

use tar::{Entry, EntryType, PaxExtensions};
use thiserror::Error;

use super::links::stays_inside;

/// Files, folders and links in one artifact; a large front end with all its dependencies has about so many.
pub(super) const ENTRY_LIMIT: usize = 100_000;
/// A path, as the kernel limits it.
pub(super) const PATH_LIMIT: usize = 4095;
/// One name of a path, as file systems limit it.
const NAME_LIMIT: usize = 255;
/// The target of a link.
pub(super) const TARGET_LIMIT: usize = 1024;
/// The records that carry long names.
const EXTENSION_LIMIT: u64 = 64 << 10;
/// The window of the decompression: the size that RFC 8878 asks every decoder to support, and the upper bound of the
/// memory that decompression takes.
const WINDOW_LOG_LIMIT: u32 = 23;
/// How many bytes may be unpacked at any ratio: an empty database of zeros compresses well.
pub(super) const FREE_BYTES: u64 = 64 << 20;
/// Beyond `FREE_BYTES`, an artifact may be at most this many times larger than its packed size. Text seldom passes 20.
pub(super) const RATIO_LIMIT: u64 = 200;
/// The mode of the root if the archive does not contain it: everybody may read, because such an archive restricts
/// nobody.
const ROOT_MODE: u32 = 0o755;
/// An archive ends with this many zero bytes.
const END_BYTES: u64 = 1024;

/// How much may be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Bytes, of the archive after decompression.
    pub max_bytes: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        UnpackLimits { max_bytes: 4 << 30 }
    }
}

/// Why nothing was unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The archive breaks a rule.
    #[error("the artifact is refused: {0}")]
    Refused(String),
    /// A file could not be written.
    #[error("the artifact could not be unpacked: {0}")]
    Io(#[from] io::Error),
    /// The caller asked to stop.
    #[error("unpacking was stopped")]
    Stopped,
}

/// Where a tree is unpacked before it is moved to `target`.
pub fn unpacking_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".unpacking");
    PathBuf::from(name)
}

/// Unpacks into `target`, which must be absent or empty, unless `stop` becomes true. Blocks.
///
/// # Errors
/// Why the archive was refused. Nothing is left on disk then.
pub fn unpack(
    archive: impl Read,
    target: &Path,
    limits: &UnpackLimits,
    stop: &AtomicBool,
) -> Result<usize, UnpackError> {
    let beside = unpacking_path(target);
    DirBuilder::new().mode(0o700).create(&beside)?;
    let (links, folder_modes) = (BTreeMap::new(), BTreeMap::from([(PathBuf::new(), ROOT_MODE)]));
    let unpacked = Unpacking { root: &beside, seen: HashMap::new(), links, folder_modes, stop }
        .run(archive, limits)
        .and_then(|count| fs::rename(&beside, target).map(|()| count).map_err(UnpackError::Io));
    if unpacked.is_err()
        && let Err(error) = fs::remove_dir_all(&beside)
    {
        tracing::warn!(%error, path = %beside.display(), "what was unpacked of a refused artifact stays behind");
    }
    unpacked
}

struct Unpacking<'a> {
    root: &'a Path,
    /// The entries of the tree by their names in lower case: on some file systems `A` and `a` are one file.
    seen: HashMap<Vec<u8>, SeenEntries>,
    links: BTreeMap<PathBuf, PathBuf>,
    /// Applied at the end, because a folder's mode may deny writing even to its owner.
    folder_modes: BTreeMap<PathBuf, u32>,
    stop: &'a AtomicBool,
}

struct SeenEntries {
    path: PathBuf,
    kind: EntryKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    /// A folder that has no entry of its own so far: only the paths of its content name it.
    ImpliedFolder,
    Folder,
    File,
    Link,
}

/// What the extension records before an entry say about it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Unpacking<'_> {
    fn run(mut self, archive: impl Read, limits: &UnpackLimits) -> Result<usize, UnpackError> {
        let meter = Rc::new(RefCell::new(Meter::default()));
        let packed = PackedSide { from: archive, meter: Rc::clone(&meter) };
        let mut decoder = zstd::Decoder::new(packed)?;
        decoder.window_log_max(WINDOW_LOG_LIMIT)?;
        let open = OpenSide { from: decoder, meter: Rc::clone(&meter), max_bytes: limits.max_bytes, stop: self.stop };
        let mut tar = tar::Archive::new(open);
        let unpacked = self.entries(&mut tar).and_then(|()| finish(tar.into_inner(), &meter));
        // The readers above know the real cause; the tar reader reports it in other words.
        match meter.borrow_mut().failure.take() {
            Some(failure) => return Err(failure),
            None => unpacked?,
        }
        self.make_links()?;
        for (folder, mode) in self.folder_modes.iter().rev() {
            fs::set_permissions(self.root.join(folder), Permissions::from_mode(*mode))?;
        }
        Ok(self.seen.len())
    }

    fn entries(&mut self, tar: &mut tar::Archive<impl Read>) -> Result<(), UnpackError> {
        let mut extensions = Extensions::default();
        for entry in tar.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            match entry.header().entry_type() {
                EntryType::GNULongName => extensions.path = Some(long_name(&mut entry)?),
                EntryType::GNULongLink => extensions.target = Some(long_name(&mut entry)?),
                EntryType::XHeader => extensions.read_pax(&extension(&mut entry)?)?,
                // A header for the whole archive: git puts a comment there.
                EntryType::XGlobalHeader => Extensions::default().read_pax(&extension(&mut entry)?)?,
                kind => {
                    let Extensions { path, target } = std::mem::take(&mut extensions);
                    let path = path.unwrap_or_else(|| entry.path_bytes().into_owned());
                    let target = target.or_else(|| entry.link_name_bytes().map(|target| target.into_owned()));
                    self.entry(&mut entry, kind, &path, target)?;
                }
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        kind: EntryType,
        name: &[u8],
        target: Option<Vec<u8>>,
    ) -> Result<(), UnpackError> {
        let path = inner_path(name)?;
        let size = entry.header().entry_size().map_err(damaged)?;
        if path.as_os_str().is_empty() {
            // The root itself, as `tar -C DIR .` writes it.
            if kind != EntryType::Directory {
                return Err(refused(name, "names the root"));
            }
            // The owner always gets every right, because phases run in this folder.
            self.folder_modes.insert(path, mode_of(entry)? | 0o700);
            return Ok(());
        }
        match kind {
            EntryType::Directory if size > 0 => Err(refused(name, "is a folder and has a size")),
            EntryType::Symlink if size > 0 => Err(refused(name, "is a link and has a size")),
            EntryType::Directory => {
                self.place(&path, EntryKind::Folder)?;
                self.folder_modes.insert(path, mode_of(entry)?);
                Ok(())
            }
            EntryType::Symlink => {
                let target = target.unwrap_or_default();
                if target.is_empty() || target.len() > TARGET_LIMIT || target.contains(&0) {
                    return Err(refused(name, "is a link without a target that can be"));
                }
                self.place(&path, EntryKind::Link)?;
                self.links.insert(path, PathBuf::from(OsStr::from_bytes(&target)));
                Ok(())
            }
            EntryType::Regular => {
                self.place(&path, EntryKind::File)?;
                self.write(entry, &path, size)
            }
            EntryType::Link => Err(refused(name, "is a hard link")),
            EntryType::Char | EntryType::Block => Err(refused(name, "is a device")),
            EntryType::Fifo => Err(refused(name, "is a pipe")),
            _ => Err(refused(name, "is neither a file, a folder nor a link")),
        }
    }

    /// Reserves a path in the tree, and makes its parent folders.
    fn place(&mut self, path: &Path, kind: EntryKind) -> Result<(), UnpackError> {
        let mut above = PathBuf::new();
        for component in path.parent().into_iter().flat_map(Path::components) {
            above.push(component);
            self.place_one(&above, EntryKind::ImpliedFolder)?;
        }
        self.place_one(path, kind)
    }

    fn place_one(&mut self, path: &Path, kind: EntryKind) -> Result<(), UnpackError> {
        let name = path.as_os_str().as_bytes();
        if let Some(seen) = self.seen.get_mut(&folded(name)) {
            if seen.path != path {
                return Err(refused(name, "differs from another name only in upper and lower case"));
            }
            match (seen.kind, kind) {
                (EntryKind::Folder | EntryKind::ImpliedFolder, EntryKind::ImpliedFolder) => {}
                (EntryKind::ImpliedFolder, EntryKind::Folder) => seen.kind = EntryKind::Folder,
                (EntryKind::Link, EntryKind::ImpliedFolder) => {
                    return Err(refused(name, "is a link and has files below it"));
                }
                (EntryKind::File, EntryKind::ImpliedFolder) => {
                    return Err(refused(name, "is a file and has files below it"));
                }
                (_, _) => return Err(refused(name, "stands twice")),
            }
            return Ok(());
        }
        if self.seen.len() == ENTRY_LIMIT {
            return Err(UnpackError::Refused(format!("it has more than {ENTRY_LIMIT} files")));
        }
        if matches!(kind, EntryKind::Folder | EntryKind::ImpliedFolder) {
            DirBuilder::new().mode(0o755).create(self.root.join(path))?;
        }
        self.seen.insert(folded(name), SeenEntries { path: path.to_path_buf(), kind });
        Ok(())
    }

    fn write(&self, entry: &mut Entry<'_, impl Read>, path: &Path, size: u64) -> Result<(), UnpackError> {
        let mode = mode_of(entry)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.root.join(path))?;
        let mut buffer = [0; 64 << 10];
        let mut written = 0;
        loop {
            match entry.read(&mut buffer).map_err(damaged)? {
                0 => break,
                count => {
                    file.write_all(&buffer[..count])?;
                    written += count as u64;
                }
            }
        }
        // Set explicitly, because the umask of this process must not matter.
        file.set_permissions(Permissions::from_mode(mode))?;
        let name = path.as_os_str().as_bytes();
        if written == size { Ok(()) } else { Err(refused(name, "is shorter than its size says")) }
    }

    fn make_links(&self) -> Result<(), UnpackError> {
        for (link, target) in &self.links {
            if !stays_inside(link, target, &self.links) {
                return Err(refused(link.as_os_str().as_bytes(), "is a link that leads out, or nowhere"));
            }
        }
        for (link, target) in &self.links {
            symlink(target, self.root.join(link))?;
        }
        Ok(())
    }
}

/// The permission bits without set-uid and set-gid.
fn mode_of(entry: &Entry<'_, impl Read>) -> Result<u32, UnpackError> {
    Ok(entry.header().mode().map_err(damaged)? & 0o777)
}

impl Extensions {
    fn read_pax(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        for extension in PaxExtensions::new(bytes) {
            let extension = extension.map_err(damaged)?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.target = Some(extension.value_bytes().to_vec()),
                // Refused because it gives one file two sizes, and readers differ in the one that they believe.
                b"size" => return Err(UnpackError::Refused("a size stands in an extension".to_owned())),
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(UnpackError::Refused("it has files with holes".to_owned()));
                }
                // Times, owners and comments.
                _ => {}
            }
        }
        Ok(())
    }
}

fn extension(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    if entry.header().entry_size().map_err(damaged)? > EXTENSION_LIMIT {
        return Err(UnpackError::Refused("it has a name that is too long".to_owned()));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(damaged)?;
    Ok(bytes)
}

fn long_name(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    let mut name = extension(entry)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// The path below the root; empty for the root itself.
fn inner_path(name: &[u8]) -> Result<PathBuf, UnpackError> {
    if name.len() > PATH_LIMIT || name.contains(&0) {
        return Err(refused(name, "is no name that a file can have"));
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) if part.len() > NAME_LIMIT => return Err(refused(name, "is too long")),
            Component::Normal(part) => path.push(part),
            Component::ParentDir => return Err(refused(name, "climbs with '..'")),
            Component::RootDir | Component::Prefix(_) => return Err(refused(name, "is an absolute path")),
        }
    }
    Ok(path)
}

/// The name as a file system without upper and lower case has it.
pub(super) fn folded(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(name) => name.to_lowercase().into_bytes(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

fn refused(name: &[u8], why: &str) -> UnpackError {
    const SHOWN: usize = 100;
    let shown: String = String::from_utf8_lossy(name).chars().take(SHOWN).flat_map(char::escape_default).collect();
    UnpackError::Refused(format!("'{shown}' {why}"))
}

fn damaged(error: io::Error) -> UnpackError {
    UnpackError::Refused(format!("it is not a whole tar archive compressed with zstd ({error})"))
}

/// Checks that only zeros follow the last file, up to the end. A truncated archive is noticed here.
fn finish(mut rest: impl Read, meter: &RefCell<Meter>) -> Result<(), UnpackError> {
    let mut buffer = [0; 8 << 10];
    loop {
        let count = rest.read(&mut buffer).map_err(damaged)?;
        if count == 0 {
            break;
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            return Err(UnpackError::Refused("something follows its end".to_owned()));
        }
    }
    if meter.borrow().trailing_zeros < END_BYTES {
        return Err(UnpackError::Refused("its end is missing".to_owned()));
    }
    Ok(())
}

#[derive(Default)]
struct Meter {
    packed_bytes: u64,
    open_bytes: u64,
    trailing_zeros: u64,
    failure: Option<UnpackError>,
}

/// Counts the bytes before decompression, and distinguishes a read error from a damaged archive.
struct PackedSide<R> {
    from: R,
    meter: Rc<RefCell<Meter>>,
}

impl<R: Read> Read for PackedSide<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut meter = self.meter.borrow_mut();
        match self.from.read(buffer) {
            Ok(count) => {
                meter.packed_bytes += count as u64;
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                meter.failure = Some(error.into());
                Err(kind.into())
            }
        }
    }
}

/// Counts the bytes after decompression, and ends an archive that becomes too large.
struct OpenSide<'a, R> {
    from: R,
    meter: Rc<RefCell<Meter>>,
    max_bytes: u64,
    stop: &'a AtomicBool,
}

impl<R: Read> Read for OpenSide<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        let mut meter = self.meter.borrow_mut();
        meter.open_bytes += count as u64;
        match buffer[..count].iter().rev().take_while(|byte| **byte == 0).count() {
            zeros if zeros == count => meter.trailing_zeros += zeros as u64,
            zeros => meter.trailing_zeros = zeros as u64,
        }
        let failure = if self.stop.load(Ordering::Relaxed) {
            UnpackError::Stopped
        } else if meter.open_bytes > self.max_bytes {
            UnpackError::Refused(format!("it unpacks to more than {} bytes", self.max_bytes))
        } else if meter.open_bytes > FREE_BYTES.max(meter.packed_bytes.saturating_mul(RATIO_LIMIT)) {
            UnpackError::Refused(format!("it unpacks to more than {RATIO_LIMIT} times its size"))
        } else {
            return Ok(count);
        };
        meter.failure = Some(failure);
        Err(io::ErrorKind::FileTooLarge.into())
    }
}
