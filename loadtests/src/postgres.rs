//! A temporary PostgreSQL cluster that syncs each commit. Singletrack uses it as a store, and some peers use it, too.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::process::Process;

/// Who owns the databases.
const USER: &str = "load";

/// A running cluster; it ends when it is dropped.
pub struct Cluster {
    port: Port,
    pub version: String,
    // Before its folder: it must be over when that goes.
    process: Process,
    _dir: TempDir,
}

impl Cluster {
    /// Starts one as Debian ships it, but for its number of connections: durable, on the loopback.
    pub fn start() -> Result<Cluster> {
        let binaries = binaries()?;
        let dir = tempfile::Builder::new().prefix("loadtests-pg-").tempdir()?;
        let owner = unprivileged()?;
        if let Some((uid, gid)) = owner {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let program = |name: &str| {
            let mut command = Command::new(binaries.join(name));
            command.current_dir(dir.path()).stdin(Stdio::null());
            if let Some((uid, gid)) = owner {
                command.uid(uid).gid(gid);
            }
            command
        };
        let made = program("initdb")
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .args(["--username", USER])
            .arg(dir.path().join("data"))
            .output()
            .context("cannot run initdb")?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr).trim());
        }
        let port = Port::reserve()?;
        let mut child = program("postgres")
            .arg("-D")
            .arg(dir.path().join("data"))
            .arg("-k")
            .arg(dir.path())
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "max_connections=400"])
            .args(["-p", &port.number().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start postgres")?;
        let mut log = BufReader::new(child.stderr.take().context("it has a standard error")?);
        let process = Process::of(child);
        let mut said = String::new();
        while !said.contains("database system is ready to accept connections") {
            if log.read_line(&mut said)? == 0 {
                bail!("PostgreSQL did not start: {}", said.trim());
            }
        }
        // Whatever else it says must not block it.
        std::thread::spawn(move || _ = log.read_to_end(&mut Vec::new()));
        let version = program("postgres").arg("--version").output()?;
        let version = String::from_utf8_lossy(&version.stdout).split_whitespace().nth(2).unwrap_or("?").to_owned();
        Ok(Cluster { port, version, process, _dir: dir })
    }

    /// The URL of its one database, over TCP; no password is asked for.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres?sslmode=disable", self.port.number())
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// A port of the loopback that is reserved for one server, for as long as this lives: nobody who takes any free port gets it.
/// The server binds it, too, which the kernel allows where both say SO_REUSEADDR, as servers do, and only one of them listens.
pub struct Port {
    number: u16,
    _bound: TcpSocket,
}

impl Port {
    /// Takes a free one.
    pub fn reserve() -> Result<Port> {
        let bound = TcpSocket::new_v4()?;
        bound.set_reuseaddr(true)?;
        bound.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Port { number: bound.local_addr()?.port(), _bound: bound })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Where the newest installed version's programs are; Debian keeps them out of the path.
pub fn binaries() -> Result<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = installed.filter_map(|entry| {
        let version: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let programs = PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
        programs.join("initdb").exists().then_some((version, programs))
    });
    if let Some((_, newest)) = debian.max() {
        return Ok(newest);
    }
    let told = Command::new("pg_config").arg("--bindir").output().ok().filter(|told| told.status.success());
    let told = told.context("PostgreSQL is missing: run scripts/prerequisites")?;
    Ok(Path::new(String::from_utf8(told.stdout)?.trim()).to_owned())
}

/// Who runs the database where we are root, whom PostgreSQL refuses.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !rustix::process::getuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let of = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut numbers = line.split(':').skip(2).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    Ok(Some(of("postgres").or_else(|| of("nobody")).context("an account that is not root's")?))
}
