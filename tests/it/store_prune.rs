//! `store prune`: what retention would remove, said beside servers, and removed at once.

use std::{fs, path::Path, process::Command, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use singletrack::model::Verdict;

use crate::{
    harness::{SINGLETRACK, TestServer, gated_config, postgres},
    retention::{Care, NOTHING, deployed, failed, succeeded},
    store_trial::Trial,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RULES: &str = "[retention]\noutput = \"90d\"\ndeployments = \"2y\"\nkeep = 3\n";

/// `singletrack store prune` with these rules: its exit code, and what it said.
fn prune(directory: &Path, store: &str, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(SINGLETRACK);
    command.args(["store", "prune", "--config", "rules.toml", "--store", store]).args(args);
    for name in ["SINGLETRACK_STORE", "SINGLETRACK_CONFIG"] {
        command.env_remove(name);
    }
    let done = command.current_dir(directory).output().unwrap();
    let [out, err] = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
    (done.status.code().unwrap(), format!("{out}{err}"))
}

/// Deployments of three years, by the machine's own clock: 40 of `web`, 27 days apart, of which only the first succeeded;
/// two of `api`, and one of today, by which ages are judged.
async fn three_years(trial: &Trial) {
    let now = Timestamp::now();
    trial.clock.set(now - SignedDuration::from_hours(24 * 27 * 40));
    deployed(trial, "api", 101, 5, succeeded()).await;
    deployed(trial, "api", 102, 5, succeeded()).await;
    for number in 1..=40 {
        let verdict: Verdict = if number == 1 { succeeded() } else { failed() };
        deployed(trial, "web", number, 20, verdict).await;
        trial.clock.advance(DAY * 27);
    }
    trial.clock.set(now);
    deployed(trial, "today", 201, 1, succeeded()).await;
    Care::of(trial, NOTHING).look().await;
}

/// What a dry run says of them: web has 13 that ended more than 730 days ago, of which the first is live; 37 ended more than
/// 90 days ago.
fn require_plan(told: &str) {
    let web = told.lines().find(|line| line.starts_with("web: ")).unwrap_or_else(|| panic!("{told}"));
    assert!(web.starts_with("web: 12 deployments, and the output of 24 others, would go ("), "{told}");
    assert!(web.ends_with("old enough, but kept: 1 as the last success or the success before it"), "{told}");
    let api = "api: nothing would go; old enough, but kept: 2 among the newest 3 (`keep`)";
    assert!(told.contains(api), "{told}");
    assert!(told.contains("all together, 12 deployments and the output of 24 others would go: "), "{told}");
    assert!(!told.contains("today") && !told.contains("behind the clock"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_beside_a_server_says_what_goes_and_why_others_stay_and_a_prune_waits_for_the_servers_end() {
    let directory = tempfile::tempdir().unwrap();
    let trial = Trial::sqlite_at(directory.path());
    three_years(&trial).await;
    drop(trial);
    fs::write(directory.path().join("rules.toml"), RULES).unwrap();
    let file = directory.path().join("singletrack.db");
    let store = format!("sqlite:{}", file.display());
    let mut server = TestServer::start_on(&store, &gated_config(""));
    let rows = || -> (u64, u64) {
        let db = Connection::open(&file).unwrap();
        let count = |table| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        (count("deployments"), count("output_blocks"))
    };
    let before = rows();
    let (code, told) = prune(directory.path(), "sqlite:singletrack.db", &["--dry-run"]);
    assert_eq!(code, 0, "{told}");
    require_plan(&told);
    assert_eq!(rows(), before, "a dry run removes nothing");

    let (code, told) = prune(directory.path(), "sqlite:singletrack.db", &[]);
    assert_eq!(code, 69, "{told}");
    assert!(told.contains("is in use by another singletrack server (pid ") && told.contains("reload it"), "{told}");
    assert_eq!(rows(), before);
    // The server noticed nothing of it.
    let id = server.accepted(serde_json::json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
    assert!(server.terminate().success());

    let (code, told) = prune(directory.path(), "sqlite:singletrack.db", &[]);
    assert_eq!(code, 0, "{told}");
    // The deployment of today succeeded, and the first one is the success before it.
    assert!(told.contains("web: 12 deployments, and the output of 24 others, went ("), "{told}");
    assert_eq!(rows().0, before.0 + 1 - 12);
    let (code, told) = prune(directory.path(), "sqlite:singletrack.db", &["--dry-run"]);
    assert!(code == 0 && told.contains("\nnothing would go"), "{told}");
    server.boot();
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.get("/v1/projects/web/deployments/13").await.status, 404);
    assert_eq!(server.get("/v1/projects/web/deployments/14").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_pruned_beside_its_servers() {
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let url = cluster.url(&database);
    let trial = Trial::postgres_at(&url).await;
    three_years(&trial).await;
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("rules.toml"), RULES).unwrap();
    let server = TestServer::start_on(&url, &gated_config(""));
    let (code, told) = prune(directory.path(), &url, &["--dry-run"]);
    assert_eq!(code, 0, "{told}");
    require_plan(&told);
    // The server has looked at its start; a minute later nobody would think that it is still at it.
    let admin = cluster.client(&database).await;
    let long_ago = "UPDATE singletrack.chores SET done_at = '-infinity' WHERE name = 'upkeep'";
    admin.batch_execute(long_ago).await.unwrap();
    let (code, told) = prune(directory.path(), &url, &[]);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("web: 12 deployments, and the output of 24 others, went ("), "{told}");
    let (code, told) = prune(directory.path(), &url, &["--dry-run"]);
    assert!(code == 0 && told.contains("\nnothing would go"), "{told}");
    let id = server.accepted(serde_json::json!({ "pipeline": "quick" })).await;
    assert_eq!(server.finished(&id).await["status"], "SUCCEEDED");
    trial.store.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_never_changes_the_schema_of_a_database() {
    let cluster = postgres::shared();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("rules.toml"), RULES).unwrap();
    let database = cluster.database().await;
    let admin = cluster.client(&database).await;
    admin.batch_execute("DROP SCHEMA IF EXISTS singletrack CASCADE").await.unwrap();
    for args in [&["--dry-run"][..], &[]] {
        let (code, told) = prune(directory.path(), &cluster.url(&database), args);
        assert!(code == 69 && told.contains("holds no store"), "{code}: {told}");
    }
    let schemas = admin.query("SELECT 1 FROM pg_namespace WHERE nspname = 'singletrack'", &[]).await.unwrap();
    assert!(schemas.is_empty());
}

#[tokio::test]
async fn a_prune_without_rules_or_a_store_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let prune = |store: &str, rules: &str| {
        fs::write(directory.path().join("rules.toml"), rules).unwrap();
        prune(directory.path(), store, &["--dry-run"])
    };
    let (code, told) = prune("sqlite:none.db", "");
    assert!(code == 78 && told.contains("no [retention]") && told.contains("--config"), "{code}: {told}");
    let (code, told) = prune("sqlite:none.db", "[retention]\noutput = \"ninety\"\n");
    assert!(code == 78 && told.contains("rules.toml:2"), "{code}: {told}");
    let (code, told) = prune("sqlite:none.db", RULES);
    assert!(code == 69 && told.contains("there is no file"), "{code}: {told}");
    let (code, told) = prune("memory:", RULES);
    assert!(code == 2 && told.contains("--store"), "{code}: {told}");
    let (code, told) = prune("mysql://x", RULES);
    assert!(code == 2 && told.contains("--store"), "{code}: {told}");
    assert!(fs::read_dir(directory.path()).unwrap().count() == 1, "nothing was made");
}
