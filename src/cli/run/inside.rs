//! How a command talks to the `run` around it: over a socket in a folder that only the same user can enter. Each
//! request is a line, and each answer is a line:
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

/// The variable that tells the command the socket's path.
pub(super) const SOCKET_VARIABLE: &str = "SINGLETRACK_RUN_SOCKET";

/// How many requests may be open at once: enough for a deploy's parallel steps, and more.
const ASKER_LIMIT: usize = 256;
/// The longest request, in bytes.
const LINE_LIMIT: u64 = 64;
/// How long the `run` around this command may take to answer. The `run` asks the server first, and a suspended `run`
/// never answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// The longest path for the socket: a little less than a socket's address can hold.
const PATH_LIMIT: usize = 100;
/// Where Linux keeps files in memory. Making and removing files there never waits for a disk; in `/tmp` it may.
const IN_MEMORY: &str = "/dev/shm";

/// The beginning of the names of our folders.
const FOLDER_PREFIX: &str = "singletrack-run-";
/// How old a folder must be before it is swept, because a new folder is not locked yet.
const SWEPT_AFTER: Duration = Duration::from_secs(60);
/// How many entries of the base folder one run examines for folders to sweep. The next runs find the rest.
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

/// This run's own folder, which is removed when the value is dropped. If the run is killed, the shim removes the
/// folder.
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

/// Removes the folders of runs that were killed together with their shims. A shim that still runs removes its folder
/// itself.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten().take(SWEEP_LIMIT) {
        if entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX) && is_abandoned(&entry.path()) {
            // Errors are ignored: a folder of another user stays, and another run may be removing this folder.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the shim of a run's folder has ended. The shim holds the lock in the folder while it runs.
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

/// The socket's server side: answers the command's requests.
pub(super) struct Door {
    listener: UnixListener,
    protected_count: watch::Sender<usize>,
    /// Whether the command is being ended. Then no new protection begins.
    stopping: Cell<bool>,
}

impl Door {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        Ok(Door { listener, protected_count: watch::Sender::new(0), stopping: Cell::new(false) })
    }

    /// The number of protected commands that run now.
    pub(super) fn protected_count(&self) -> watch::Receiver<usize> {
        self.protected_count.subscribe()
    }

    /// From now on no new protection begins.
    pub(super) fn stop(&self) {
        self.stopping.set(true);
    }

    /// Answers requests for as long as this future is polled. `check` asks the server.
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
                // Protection lasts until the connection ends, for whatever reason.
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

/// Sends a request to the `run` around this command. Also returns the connection, because `protect` lasts as long as
/// the connection.
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

/// Asks the `run` around this command whether it still holds its slot.
pub(super) async fn ask_held(socket: &Path) -> io::Result<SlotHeld> {
    let (answer, _) = ask(socket, "fence").await?;
    Ok(SlotHeld::ALL.iter().find(|(_, word)| *word == answer).map_or(SlotHeld::Unknown, |(held, _)| *held))
}
