//! What a reload changes: where the file is, which keys hold at once, and which wait for a restart.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{Config, ConfigError, DEFAULT_FILE, StoreLocation};

/// Whether a configuration will do for a process, in place of the one before; the error says what is missing.
pub type Fitness = fn(Option<&Config>, &Config) -> Result<(), String>;

/// Where a configuration comes from: the file, and what stands in place of its values.
#[derive(Clone, Debug, Default)]
pub struct ConfigOrigin {
    /// The named file; `singletrack.toml` if unset.
    file: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--store`.
    pub store: Option<StoreLocation>,
    /// `--work-dir`.
    pub work_dir: Option<PathBuf>,
    /// What the process needs of a configuration besides the rules of the file; the error says what is missing.
    fitness: Option<Fitness>,
    /// Whether the file was there at some time. Then it is not taken for an empty one while it is missing, as it may be
    /// for a moment while it is replaced.
    was_there: bool,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reload {
    /// The projects that changed.
    pub projects: ChangedProjects,
    /// The other keys that changed, and hold from now on.
    pub keys: Vec<&'static str>,
    /// The keys whose values in the file are not those that the process runs with. They wait for a restart.
    pub waits_for_restart: Vec<&'static str>,
}

/// What came of a reload, for the audit log.
pub fn reload_in_words(reloaded: &Result<Reload, ConfigError>) -> String {
    let reload = match reloaded {
        Ok(reload) => reload,
        Err(error) => {
            let error = error.to_string();
            return format!("nothing has changed: {}", error.lines().next().unwrap_or_default());
        }
    };
    let Reload { projects, keys, waits_for_restart } = reload;
    let parts = [
        ("projects added", projects.added.join(", ")),
        ("projects removed", projects.removed.join(", ")),
        ("projects changed", projects.changed.join(", ")),
        ("keys changed", keys.join(", ")),
        ("keys that wait for a restart", waits_for_restart.join(", ")),
    ];
    let told: Vec<_> =
        parts.iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| format!("{what}: {names}")).collect();
    if told.is_empty() { "the file is as it was".to_owned() } else { told.join("; ") }
}

/// The names of projects whose configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedProjects {
    /// New in the file.
    pub added: Vec<String>,
    /// No longer in the file.
    pub removed: Vec<String>,
    /// In the file with other settings or pipelines.
    pub changed: Vec<String>,
}

impl ConfigOrigin {
    /// A file for a process that needs this of it.
    pub fn new(file: Option<PathBuf>, fitness: Fitness) -> Self {
        ConfigOrigin { file, fitness: Some(fitness), ..ConfigOrigin::default() }
    }

    /// Reads the configuration: flags and environment in place of the file's values, and the file's in place of the
    /// defaults.
    ///
    /// # Errors
    /// The file cannot be read, or is wrong.
    pub fn read(&mut self) -> Result<Config, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let named = self.file.as_deref().or_else(|| self.was_there.then_some(default));
        let config = Config::load(named)?;
        self.was_there |= named.is_some() || default.exists();
        let mut config = config.overriding(self.listen, self.store.clone());
        if self.work_dir.is_some() {
            config.work_dir.clone_from(&self.work_dir);
        }
        Ok(config)
    }

    /// Fails for a configuration with which the process cannot run.
    ///
    /// # Errors
    /// It is not fit.
    pub fn require_fit(&self, before: Option<&Config>, config: &Config) -> Result<(), ConfigError> {
        let Some(fitness) = self.fitness else { return Ok(()) };
        fitness(before, config).map_err(|why| self.unfit(why))
    }

    /// The error that the file does not fit, for this reason.
    pub(super) fn unfit(&self, why: String) -> ConfigError {
        let file = self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).display();
        ConfigError::Unfit(format!("{file}: {why}"))
    }
}

/// The configuration that holds after `before` when `read` was read, and what that changes. The keys that a process
/// reads only at its start keep their values.
pub(super) fn succeed(before: &Config, read: Config) -> (Config, Reload) {
    // Every key is named here, so that a new one must be put into one of the two lists.
    let Config {
        listen,
        store,
        postgres,
        work_dir,
        allowed_hosts,
        trusted_proxies,
        shutdown_grace,
        max_running,
        pass_env,
        secret_inputs,
        limits,
        artifacts,
        retention,
        tls,
        tokens,
        oidc,
        known_projects_only,
        notify,
        page,
        public_url,
        projects,
    } = &read;
    let is_tls_spoken = tls.is_some() == before.tls.is_some();
    let waits_for_restart = differing([
        ("listen", *listen == before.listen),
        ("store", *store == before.store),
        ("postgres", *postgres == before.postgres),
        ("work_dir", *work_dir == before.work_dir),
        // Whether TLS is spoken. The files are read again.
        ("tls", is_tls_spoken),
    ]);
    let keys = differing([
        ("allowed_hosts", *allowed_hosts == before.allowed_hosts),
        ("trusted_proxies", *trusted_proxies == before.trusted_proxies),
        ("shutdown_grace", *shutdown_grace == before.shutdown_grace),
        ("max_running", *max_running == before.max_running),
        ("pass_env", *pass_env == before.pass_env),
        ("secret_inputs", *secret_inputs == before.secret_inputs),
        ("limits", *limits == before.limits),
        ("artifacts", *artifacts == before.artifacts),
        ("retention", *retention == before.retention),
        ("tls", !is_tls_spoken || *tls == before.tls),
        ("tokens", *tokens == before.tokens),
        ("oidc", *oidc == before.oidc),
        ("notify", *notify == before.notify),
        ("page", *page == before.page),
        ("public_url", *public_url == before.public_url),
        ("known_projects_only", *known_projects_only == before.known_projects_only),
    ]);
    let mut changes = ChangedProjects::default();
    for (name, project) in projects {
        match before.projects.get(name) {
            None => changes.added.push(name.to_string()),
            Some(former) if former != project => changes.changed.push(name.to_string()),
            Some(_) => {}
        }
    }
    let removed = before.projects.keys().filter(|name| !projects.contains_key(*name));
    changes.removed = removed.map(ToString::to_string).collect();
    let config = Config {
        listen: before.listen,
        store: before.store.clone(),
        postgres: before.postgres,
        work_dir: before.work_dir.clone(),
        tls: if is_tls_spoken { tls.clone() } else { before.tls.clone() },
        ..read
    };
    (config, Reload { projects: changes, keys, waits_for_restart })
}

/// The keys whose values are not the same.
fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter(|(_, is_same)| !is_same).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Config {
        Config::parse(text, Path::new("test.toml")).expect("a test's configuration")
    }

    #[test]
    fn what_a_process_reads_only_at_its_start_stays_and_is_named_and_the_rest_is_taken() {
        let before = read("listen = \"127.0.0.1:1\"\nmax_running = 3\n[projects.old]\n[projects.web]\n[projects.same]");
        let after = "listen = \"127.0.0.1:2\"\nmax_running = 4\n[postgres]\nconnections = 3\n\
                     [projects.new]\n[projects.web]\npaused = true\n[projects.same]";
        let (config, reload) = succeed(&before, read(after));
        assert_eq!((config.listen, config.max_running), (before.listen, 4));
        assert_eq!(config.postgres, before.postgres);
        assert_eq!(reload.waits_for_restart, ["listen", "postgres"]);
        assert_eq!(reload.keys, ["max_running"]);
        let ChangedProjects { added, removed, changed } = &reload.projects;
        assert_eq!((added.join(","), removed.join(","), changed.join(",")), ("new".into(), "old".into(), "web".into()));
        assert_eq!(succeed(&config, config.clone()).1, Reload::default());
    }

    #[test]
    fn a_file_that_is_missing_for_a_moment_is_no_empty_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("singletrack.toml");
        std::fs::write(&file, "[projects.web]").expect("it is written");
        let mut origin = ConfigOrigin { file: Some(file.clone()), ..ConfigOrigin::default() };
        assert_eq!(origin.read().expect("it is there").projects.len(), 1);
        std::fs::remove_file(&file).expect("it is removed");
        assert!(matches!(origin.read(), Err(ConfigError::Unreadable { .. })));
    }
}
