//! The server under test: the release binary in its own process, with its own store.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use singletrack::wire::{Deployment, DeploymentList};
use tempfile::TempDir;

use crate::{
    http::{Http, Reply},
    postgres::Cluster,
    process::{Process, Usage, usage},
};

/// How many deployments a page of the history may have.
const PAGE: usize = 100;

/// Which store the server has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum StoreKind {
    #[default]
    Sqlite,
    Postgres,
}

/// What servers are started from.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub binary: PathBuf,
    pub store: StoreKind,
}

impl Recipe {
    /// What a server of it is called in the report.
    pub fn own_name(&self) -> &'static str {
        match self.store {
            StoreKind::Sqlite => "singletrack",
            StoreKind::Postgres => "singletrack-postgres",
        }
    }
}

/// A running server.
pub struct Server {
    recipe: Recipe,
    // In the order in which they must end.
    process: Option<Process>,
    cluster: Option<Cluster>,
    dir: TempDir,
    pub address: SocketAddr,
    /// From its last start to the line that says where it listens.
    pub ready_after: Duration,
}

impl Server {
    /// Starts a server with this configuration and an empty store.
    pub async fn start(recipe: &Recipe, config: &str) -> Result<Server> {
        let mut server = Server::prepare(recipe, config)?;
        server.boot()?;
        Ok(server)
    }

    /// A server that has not been started yet; a store may be put into its folder as `load.db`.
    pub fn prepare(recipe: &Recipe, config: &str) -> Result<Server> {
        let cluster = match recipe.store {
            StoreKind::Sqlite => None,
            StoreKind::Postgres => Some(Cluster::start()?),
        };
        let server = Server {
            recipe: recipe.clone(),
            process: None,
            cluster,
            dir: tempfile::Builder::new().prefix("loadtests-").tempdir()?,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            ready_after: Duration::ZERO,
        };
        std::fs::write(server.path("singletrack.toml"), config)?;
        Ok(server)
    }

    /// Starts it, or starts it again on the same store and port.
    pub fn boot(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("server.log"))?;
        let begun = Instant::now();
        let mut child = Command::new(&self.recipe.binary)
            .args(["serve", "--config", "singletrack.toml", "--store", &self.store_url()])
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

    /// Ends it as it should be ended, and waits until it is gone.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    pub fn store_url(&self) -> String {
        self.cluster.as_ref().map_or_else(|| "sqlite:load.db".to_owned(), Cluster::url)
    }

    pub fn store_name(&self) -> String {
        match &self.cluster {
            None => "SQLite".to_owned(),
            Some(cluster) => format!("PostgreSQL {}", cluster.version),
        }
    }

    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Its processes, and those of its database.
    pub fn processes(&self) -> Vec<u32> {
        let cluster = self.cluster.as_ref().map(Cluster::process);
        self.process.iter().chain(cluster).map(Process::id).collect()
    }

    pub fn usage(&self) -> Usage {
        usage(&self.processes())
    }

    /// How much of its own memory is resident, its program included; without its database.
    pub fn resident(&self) -> Result<u64> {
        let id = self.process.as_ref().context("the server runs")?.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let kib =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.context("the kernel tells it")? * 1024)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A connection for raw load.
    pub async fn connect(&self) -> Result<Http> {
        Http::connect(self.address).await
    }

    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.connect().await?.call("GET", path, "", &[]).await
    }

    /// A figure of its metrics: the sum of all lines that begin so.
    pub async fn metric(&self, prefix: &str) -> Result<f64> {
        let reply = self.get("/metrics").await?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let values = text.lines().filter(|line| line.starts_with(prefix));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// All deployments of a project, in the order of their tickets.
    pub async fn history(&self, project: &str) -> Result<Vec<Deployment>> {
        let mut http = self.connect().await?;
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let rest = cursor.map(|cursor: String| format!("&cursor={cursor}")).unwrap_or_default();
            let path = format!("/v1/projects/{project}/deployments?limit={PAGE}{rest}");
            let page: DeploymentList = http.call("GET", &path, "", &[]).await?.expect(200)?.json()?;
            all.extend(page.deployments);
            cursor = page.next_cursor;
            if cursor.is_none() {
                all.reverse();
                return Ok(all);
            }
        }
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
