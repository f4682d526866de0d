//! What a configuration means for a restart, as far as that is known at the start: how long a stop takes at most, and
//! which limits are too short for that.

use std::time::Duration;

use crate::{
    config::{Config, StoreLocation, format_duration},
    http::END_LIMIT,
    worker::STOP_LAST_WORDS,
};

/// How long `deploy` and `run` wait by default (`--timeout`).
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How long a stop takes at most after the first stop signal; `None` if no pipelines run on the server, because then it
/// waits for nothing.
pub fn stop_limit(config: &Config) -> Option<Duration> {
    let runs_pipelines =
        config.projects.values().any(|project| project.agents.is_none() && !project.pipelines.is_empty());
    let limits = &config.limits;
    let stopping = limits.cancel_grace + limits.kill_budget + STOP_LAST_WORDS;
    runs_pipelines.then_some(config.shutdown_grace + stopping + END_LIMIT)
}

/// Each way in which a restart can outlast a lease or a client.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let limits = &config.limits;
    // What is left of a worker's lease if its last heartbeat before the stop is as old as possible.
    let left = limits.lease.saturating_sub(limits.heartbeat + limits.kill_budget);
    if left < END_LIMIT {
        found.push(format!(
            "limits.lease ({}) is too short for a restart: the last connections of this server may take {} to end, and a worker \
             that is not answered for {} stops what it runs. Use a longer lease",
            format_duration(limits.lease),
            format_duration(END_LIMIT),
            format_duration(left),
        ));
    }
    let is_only_server = !matches!(config.store, StoreLocation::Postgres(_));
    if let Some(limit) = stop_limit(config).filter(|limit| is_only_server && *limit > CLIENT_TIMEOUT) {
        found.push(format!(
            "after SIGTERM this server may take {} to end, and takes no new deployments meanwhile. Clients wait for {} by default. \
             Shorten shutdown_grace, or let agents run the long pipelines (run_by = \"agents\")",
            format_duration(limit),
            format_duration(CLIENT_TIMEOUT),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> Config {
        let web = "[[projects.web.pipelines.deploy.phases]]\nname = \"only\"\nrun = \"true\"\n";
        Config::parse(&format!("{text}\n{web}"), Path::new("test.toml")).expect("a test's configuration")
    }

    #[test]
    fn the_defaults_go_with_a_restart() {
        assert_eq!(stop_limit(&read("")), Some(Duration::from_secs(85)), "the handbook says so, too");
        assert_eq!(warnings(&read("")), [""; 0]);
        assert_eq!(stop_limit(&Config::default()), None, "there is nothing to wait for");
    }

    #[test]
    fn a_restart_that_outlasts_a_lease_is_warned_about() {
        let told = warnings(&read("[limits]\nlease = \"20s\"\nkill_budget = \"8s\""));
        assert!(told.len() == 1 && told[0].contains("limits.lease (20s)"), "{told:?}");
    }

    #[test]
    fn a_drain_that_outlasts_the_clients_is_warned_about_where_no_other_server_takes_them() {
        let told = warnings(&read("shutdown_grace = \"1h\""));
        assert!(told.len() == 1 && told[0].contains("may take 1h55s to end"), "{told:?}");
        let shared = read("shutdown_grace = \"1h\"\nstore = \"postgres://db.example/deploys\"");
        assert_eq!(warnings(&shared), [""; 0]);
        let elsewhere = "shutdown_grace = \"1h\"\n[projects.web]\nrun_by = \"agents\"";
        let elsewhere = Config::parse(elsewhere, Path::new("test.toml")).expect("a test's configuration");
        assert_eq!(warnings(&elsewhere), [""; 0]);
    }
}
