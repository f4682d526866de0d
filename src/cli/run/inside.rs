//! How a command speaks to the `run` around it: over a socket in a folder that only its user can enter. A line asks, a
//! line answers:
//!
//! | asked | answered |
//! |---|---|
//! | `protect` | `ok`: a cancel waits until this connection closes · `stopping`: too late, the command is being ended |
//! | `fence` | `holds` · `lost` · `unknown` |

use std::{
    cell::Cell,
    convert::Infallible,
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};

use crate::cli::exit::{Exit, Failure};

/// Names the socket to the command.
pub(super) const SOCKET_VARIABLE: &str = "SINGLETRACK_RUN_SOCKET";

/// How many may ask at once: a deploy's parallel steps, with room.
const ASKER_LIMIT: usize = 256;
/// The longest question.
const LINE_LIMIT: u64 = 64;
/// How long the run around us may take to answer: it asks the server, and a stopped one never does.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// The longest path that a socket's address holds, with some room.
const PATH_LIMIT: usize = 100;
/// Where Linux keeps files in memory: to make and remove a few there waits for no disk, as it may in `/tmp`.
const IN_MEMORY: &str = "/dev/shm";

/// How the names of our folders begin.
const FOLDER_PREFIX: &str = "singletrack-run-";
/// How old a folder must be to be swept: one that was just made is not locked yet.
const SWEPT_AFTER: Duration = Duration::from_secs(60);
/// How many of a base's entries are looked at for folders to sweep. What is left is the next run's to find.
const SWEEP_LIMIT: usize = 1000;

/// Whether a run still holds its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotHeld {
    Holds,
    Lost,
    Unknown,
}

impl SlotHeld {
    const ALL: [(SlotHeld, &'static str); 3] =
        [(SlotHeld::Holds, "holds"), (SlotHeld::Lost, "lost"), (SlotHeld::Unknown, "unknown")];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(held, _)| *held == self).map_or("unknown", |(_, word)| word)
    }
}

/// A folder of this run's own, gone with it; the shim removes it, too, for a run that is killed.
pub(super) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    pub(super) fn new() -> Result<Self, Failure> {
        let mut bytes = [0; 8];
        let failed = |why: String| Failure::new(Exit::Fault, format!("no folder for this run can be made: {why}"));
        let no_random = |error| {
            failed(format!("there are no random numbers, neither by getrandom(2) nor in /dev/urandom: {error}"))
        };
        getrandom::fill(&mut bytes).map_err(no_random)?;
        let name = format!("{FOLDER_PREFIX}{}", HEXLOWER.encode(&bytes));
        let named = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_dir());
        let bases = [named("XDG_RUNTIME_DIR"), named("TMPDIR"), Some(IN_MEMORY.into()), Some("/tmp".into())];
        let mut why = "every path is too long".to_owned();
        for path in bases.into_iter().flatten().map(|base| base.join(&name)) {
            if path.as_os_str().len() > PATH_LIMIT {
                continue;
            }
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    path.parent().into_iter().for_each(sweep);
                    return Ok(PrivateFolder(path));
                }
                Err(error) => why = format!("{}: {error}", path.display()),
            }
        }
        Err(failed(why))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders of runs that were killed together with their shims, which would have removed them.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten().take(SWEEP_LIMIT) {
        if entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX) && is_abandoned(&entry.path()) {
            // Another user's stays, and so does one that somebody else removes.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the shim of a run's folder, which keeps the lock in it, is gone.
fn is_abandoned(folder: &Path) -> bool {
    let modified = fs::symlink_metadata(folder).and_then(|metadata| metadata.modified());
    if !modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > SWEPT_AFTER)) {
        return false;
    }
    match File::open(folder.join("lock")) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// What answers the command.
pub(super) struct Door {
    listener: UnixListener,
    protected_count: watch::Sender<usize>,
    /// Whether the command is being ended: then nothing more is protected.
    stopping: Cell<bool>,
}

impl Door {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        Ok(Door { listener, protected_count: watch::Sender::new(0), stopping: Cell::new(false) })
    }

    /// How many protected commands run.
    pub(super) fn protected_count(&self) -> watch::Receiver<usize> {
        self.protected_count.subscribe()
    }

    /// From now on nothing more is protected.
    pub(super) fn stop(&self) {
        self.stopping.set(true);
    }

    /// Answers for as long as it is polled. `check` asks the server.
    pub(super) async fn serve<F: Future<Output = SlotHeld>>(&self, check: impl Fn() -> F) -> Infallible {
        let mut asking = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if asking.len() < ASKER_LIMIT => match accepted {
                    Ok((stream, _)) => asking.push(self.answer(stream, &check)),
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(_) = asking.next() => {}
            }
        }
    }

    async fn answer<F: Future<Output = SlotHeld>>(&self, stream: UnixStream, check: &impl Fn() -> F) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        (&mut stream).take(LINE_LIMIT).read_line(&mut line).await?;
        match line.trim_end() {
            "fence" => stream.write_all(format!("{}\n", check().await.word()).as_bytes()).await,
            "protect" if self.stopping.get() => stream.write_all(b"stopping\n").await,
            "protect" => {
                let _protected = Counted::new(&self.protected_count);
                stream.write_all(b"ok\n").await?;
                // Until its end, however it comes.
                let mut nothing = [0; 16];
                while stream.read(&mut nothing).await? > 0 {}
                Ok(())
            }
            _ => stream.write_all(b"what?\n").await,
        }
    }
}

/// One protected command.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Asks the run around us. The connection is part of the answer: `protect` lasts as long as it.
pub(super) async fn ask(socket: &Path, question: &str) -> io::Result<(String, UnixStream)> {
    let asked = async {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut line = String::new();
        (&mut stream).take(LINE_LIMIT).read_line(&mut line).await?;
        Ok((line.trim_end().to_owned(), stream.into_inner()))
    };
    timeout(ANSWER_LIMIT, asked).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// What the run around us says about its slot.
pub(super) async fn ask_held(socket: &Path) -> io::Result<SlotHeld> {
    let (answer, _) = ask(socket, "fence").await?;
    Ok(SlotHeld::ALL.iter().find(|(_, word)| *word == answer).map_or(SlotHeld::Unknown, |(held, _)| *held))
}
