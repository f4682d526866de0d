//! The server under test: the release binary, a process of its own with a store of its own.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{http::Http, process::Process};

/// What servers are started from.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub binary: PathBuf,
}

/// A running server.
pub struct Server {
    recipe: Recipe,
    dir: TempDir,
    process: Option<Process>,
    pub address: SocketAddr,
    /// From its start to the line that says where it listens.
    pub ready_after: Duration,
}

impl Server {
    /// Starts a server with this configuration and an empty store.
    pub async fn start(recipe: &Recipe, config: &str) -> Result<Server> {
        let mut server = Server {
            recipe: recipe.clone(),
            dir: tempfile::tempdir()?,
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            ready_after: Duration::ZERO,
        };
        std::fs::write(server.dir.path().join("singletrack.toml"), config)?;
        server.boot()?;
        Ok(server)
    }

    /// Starts it again on the same store and port.
    pub fn boot(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("server.log"))?;
        let begun = Instant::now();
        let mut child = Command::new(&self.recipe.binary)
            .args(["serve", "--config", "singletrack.toml", "--store", "sqlite:load.db"])
            .args(["--listen", &self.address.to_string()])
            .current_dir(self.dir.path())
            .env_remove("SINGLETRACK_TOKEN")
            .env("SINGLETRACK_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.recipe.binary.display()))?;
        let mut stdout = BufReader::new(child.stdout.take().context("it has a standard output")?);
        self.process = Some(Process::of(child));
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let log = std::fs::read_to_string(self.path("server.log")).unwrap_or_default();
            bail!("the server did not start: {}", log.trim());
        };
        self.address = address.parse()?;
        self.ready_after = begun.elapsed();
        // Whatever else it prints must not block it.
        std::thread::spawn(move || _ = stdout.read_to_end(&mut Vec::new()));
        Ok(())
    }

    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the server runs")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A connection for raw load.
    pub async fn connect(&self) -> Result<Http> {
        Http::connect(self.address).await
    }

    /// A figure of its metrics: the sum of all lines that begin so.
    pub async fn metric(&self, prefix: &str) -> Result<f64> {
        let reply = self.connect().await?.call("GET", "/metrics", "", &[]).await?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let values = text.lines().filter(|line| line.starts_with(prefix));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

/// Builds the program, so that what is measured is what stands in the tree; a given one is taken as it is.
pub fn binary(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(std::path::absolute(given)?);
    }
    let own = std::env::current_exe()?;
    let folder = own.parent().context("a program lies in a folder")?;
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--locked", "--quiet", "--package", "singletrack", "--bin", "singletrack"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status()?;
        if !built.success() {
            bail!("the server does not build");
        }
    }
    let binary = folder.join("singletrack");
    if !binary.is_file() {
        bail!("{} is not there: build it, or name one with --server-bin", binary.display());
    }
    Ok(binary)
}
