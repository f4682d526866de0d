//! A real Prometheus scrapes a real server, by what stands in `examples/monitoring`.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use regex::Regex;
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{TestServer, gated_config};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring").join(name)
}

/// A Prometheus that runs until it is dropped.
struct Prometheus {
    base: String,
    client: Client,
    child: Child,
    _dir: TempDir,
}

impl Prometheus {
    /// The example's, which scrapes this server more often.
    fn scraping(server: &TestServer) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let config = fs::read_to_string(example("prometheus.yml")).unwrap();
        let target = server.base.strip_prefix("http://").unwrap();
        let config = [("127.0.0.1:7878", target), ("15s", "2s")].into_iter().fold(config, |config, (from, to)| {
            assert!(config.contains(from), "{from} is not in prometheus.yml");
            config.replace(from, to)
        });
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        fs::copy(example("rules.yml"), dir.path().join("rules.yml")).unwrap();
        let mut child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus is there: scripts/prerequisites installs it");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut told = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "prometheus ended: {told}");
            told += &line;
            if let Some((_, address)) = line.split_once("msg=\"Listening on\" address=") {
                break address.trim().to_owned();
            }
        };
        // Read the rest, so that a full pipe does not block it.
        thread::spawn(move || _ = log.read_to_end(&mut Vec::new()));
        let client = Client::builder().no_proxy().build().unwrap();
        Prometheus { base: format!("http://{address}"), client, child, _dir: dir }
    }

    /// The data that its API answers.
    async fn api(&self, path: &str, query: &[(&str, &str)]) -> Value {
        loop {
            let answer = self.client.get(format!("{}/api/v1/{path}", self.base)).query(query).send().await.unwrap();
            // It listens before it is ready.
            if answer.status() == 503 {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
            let status = answer.status();
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["status"], "success", "{path} {query:?}: {status} {body}");
            return body["data"].clone();
        }
    }

    /// Waits until something of its API is so.
    async fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        loop {
            let data = self.api(path, &[]).await;
            if is_so(&data) {
                return data;
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    async fn query(&self, query: &str) -> Vec<Value> {
        self.api("query", &[("query", query)]).await["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All values of this key, however deep.
fn all_of<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            if name == key {
                found.push(value);
            }
            all_of(value, key, found);
        }),
        Value::Array(list) => list.iter().for_each(|value| all_of(value, key, found)),
        _ => {}
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(example("dashboard.json")).unwrap()).unwrap()
}

fn rules() -> Value {
    yaml_serde::from_str(&fs::read_to_string(example("rules.yml")).unwrap()).unwrap()
}

/// The queries of the dashboard and the rules, with values for Grafana's variables.
fn queries() -> Vec<String> {
    let (dashboard, rules) = (dashboard(), rules());
    let mut found = Vec::new();
    all_of(&dashboard, "expr", &mut found);
    let panels = found.len();
    all_of(&rules, "expr", &mut found);
    assert!(panels > 20 && found.len() > panels + 10, "{panels} {}", found.len());
    let values = [("$__rate_interval", "1m"), ("$__range", "1h"), ("$job", ".*"), ("$project", ".*")];
    let filled = |query: &Value| {
        values.iter().fold(query.as_str().unwrap().to_owned(), |query, (name, value)| query.replace(name, value))
    };
    let queries: Vec<_> = found.into_iter().map(filled).collect();
    assert!(queries.iter().all(|query| !query.contains('$')), "{queries:?}");
    queries
}

/// The series that a query names, with their labels.
fn selectors(query: &str) -> BTreeSet<String> {
    let selector = Regex::new(r"\b(?:(?:singletrack|process)_[a-z_]+|up)\b(?:\{[^}]*\})?").unwrap();
    selector.find_iter(query).map(|found| found.as_str().to_owned()).collect()
}

#[tokio::test]
async fn a_real_prometheus_scrapes_the_server_and_finds_every_series_of_dashboard_and_rules() {
    let server = TestServer::start(&gated_config(""));
    let id = server.accepted(json!({ "pipeline": "quick" })).await;
    server.finished(&id).await;
    let prometheus = Prometheus::scraping(&server);
    let targets = prometheus
        .until("targets", |data| ["up", "down"].iter().any(|known| data["activeTargets"][0]["health"] == **known))
        .await;
    let target = &targets["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&json!("up"), &json!("")), "{target}");
    let mut missing = Vec::new();
    for query in queries() {
        prometheus.query(&query).await;
        let named = selectors(&query);
        assert!(!named.is_empty(), "{query} names no series of ours");
        for selector in named {
            if prometheus.query(&format!("count({selector})")).await.is_empty() {
                missing.push(format!("{selector} in {query}"));
            }
        }
    }
    assert!(missing.is_empty(), "these have no series in a scrape:\n{}", missing.join("\n"));
    let evaluated = |data: &Value| {
        let mut health = Vec::new();
        all_of(data, "health", &mut health);
        !health.is_empty() && health.iter().all(|health| *health != "unknown")
    };
    let rules = prometheus.until("rules", evaluated).await;
    let (mut health, mut firing) = (Vec::new(), Vec::new());
    all_of(&rules, "health", &mut health);
    all_of(&rules, "state", &mut firing);
    assert!(health.iter().all(|health| *health == "ok"), "{rules:#}");
    assert!(firing.iter().all(|state| *state != "firing"), "a server in good health alerts nobody: {rules:#}");
    // It took what it asked for first.
    let asked = prometheus.query("singletrack_http_requests_total{route=\"/metrics\",status=\"200\"}").await;
    assert_eq!(asked.len(), 1, "{asked:?}");
    let counted =
        prometheus.query("singletrack_deployments_finished_total{status=\"SUCCEEDED\",project=\"web\"}").await;
    assert_eq!(counted[0]["value"][1], "1");
}

#[test]
fn promtool_finds_the_rules_and_the_configuration_good_and_each_alert_fires_when_it_should() {
    for (what, file) in
        [("check config", "prometheus.yml"), ("check rules", "rules.yml"), ("test rules", "rules_test.yml")]
    {
        let mut promtool = Command::new("promtool");
        promtool.args(what.split(' ')).arg(file).current_dir(example("")).stdin(Stdio::null());
        let told = promtool.output().expect("promtool is there: scripts/prerequisites installs it");
        let words = String::from_utf8_lossy(&told.stdout) + String::from_utf8_lossy(&told.stderr);
        assert!(told.status.success(), "promtool {what} {file}: {words}");
    }
    let (rules, tests): (Value, Value) =
        (rules(), yaml_serde::from_str(&fs::read_to_string(example("rules_test.yml")).unwrap()).unwrap());
    let (mut alerts, mut tested) = (Vec::new(), Vec::new());
    all_of(&rules, "alert", &mut alerts);
    all_of(&tests, "alertname", &mut tested);
    let untested: Vec<_> = alerts.into_iter().filter(|alert| !tested.contains(alert)).collect();
    assert!(untested.is_empty(), "no test sees these fire: {untested:?}");
}

#[test]
fn every_series_is_in_the_table_of_the_operators_book() {
    let book = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let chapter = book.split("\n## Metrics\n").nth(1).expect("a chapter").split("\n## ").next().unwrap();
    let server = TestServer::start(&gated_config(""));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let text = runtime.block_on(server.get("/metrics")).text;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let missing: Vec<_> = types.filter(|(name, kind)| !chapter.contains(&format!("| `{name}` | {kind} |"))).collect();
    assert!(missing.is_empty(), "docs/operations.md has no row, or another type, for {missing:?}");
    let known: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let gone: Vec<_> = rows.filter(|name| !known.contains(name)).collect();
    assert!(gone.is_empty(), "docs/operations.md tells of series that are not there: {gone:?}");
}
