//! Servers of other projects: found where their packages put them, and started on free ports with temporary data. A
//! server ends when the process that started it ends, for whatever reason.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{postgres::Port, process::Process};

/// How long a server may take until it accepts connections, or a program until it says that it is ready.
pub const START_LIMIT: Duration = Duration::from_secs(20);
/// How often one that does not accept them yet is tried; none of them tells when it is ready in a way of its own.
const START_PAUSE: Duration = Duration::from_millis(10);
/// Where Debian keeps programs that are not for everyone's path.
const MORE_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What says how to get what is missing.
pub const INSTALL: &str = "run loadtests/peers/install";

/// A running server, its data, and where it listens.
pub struct Daemon {
    // Fields end in this order: the process before its data.
    process: Process,
    _dir: TempDir,
    _ports: [Port; 2],
    pub address: SocketAddr,
}

impl Daemon {
    /// Starts a server. `command` makes it from a directory of its own and the port that it shall listen on.
    pub async fn start(name: &str, command: impl FnOnce(&Path, u16) -> Result<Command>) -> Result<Daemon> {
        Daemon::start_with_two_ports(name, |dir, port, _| command(dir, port)).await
    }

    /// The same for a server that listens on a second port for its own kind.
    pub async fn start_with_two_ports(
        name: &str,
        command: impl FnOnce(&Path, u16, u16) -> Result<Command>,
    ) -> Result<Daemon> {
        let dir = tempfile::Builder::new().prefix(&format!("loadtests-{name}-")).tempdir()?;
        let ports = [Port::reserve()?, Port::reserve()?];
        let [port, second] = [ports[0].number(), ports[1].number()];
        let log = dir.path().join("log");
        let mut command = bound(&command(dir.path(), port, second)?)?;
        command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        let process = Process::of(spawn(command).with_context(|| format!("cannot start {name}"))?);
        let mut daemon =
            Daemon { process, _dir: dir, _ports: ports, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let begun = Instant::now();
        while TcpStream::connect(daemon.address).await.is_err() {
            if daemon.process.is_over() || begun.elapsed() > START_LIMIT {
                let log = fs::read_to_string(log).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("{name} did not start: {}", last.into_iter().rev().collect::<Vec<_>>().join(" / "));
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        Ok(daemon)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Where a program is.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(MORE_FOLDERS.map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is missing: {INSTALL}"))
}

/// The first line that a program prints when it is asked for its version.
pub fn version(program: &Path, flag: &str) -> Result<String> {
    let output = Command::new(program).arg(flag).output()?;
    // nginx says it on its standard error.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The command, bound to end when we end, even if we are killed.
pub fn bound(command: &Command) -> Result<Command> {
    let mut bound = Command::new(program("setpriv")?);
    bound.args(["--pdeathsig", "INT", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    Ok(bound)
}

/// Spawns from a thread that lives as long as we do: the kernel takes the end of the spawning thread for the end of the
/// parent, and the runtime's threads come and go.
pub fn spawn(command: Command) -> Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = mpsc::sync_channel(1);
    spawner.send((command, answer)).map_err(|_| anyhow!("nobody spawns"))?;
    Ok(child.recv()??)
}
