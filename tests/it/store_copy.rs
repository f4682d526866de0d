//! `store copy`: everything of a SQLite store, with its artifacts, in a PostgreSQL database, or nothing of it.

use std::{
    fs,
    io::Read as _,
    process::{Child, Output, Stdio},
    time::Duration,
};

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::harness::{Answer, TestServer, gated_config, postgres, send};

const PATIENCE: Duration = Duration::from_secs(60);

/// A project run by an agent beside the gated one, so that leases of every kind are in flight.
fn config() -> String {
    gated_config("[projects.api]\nrun_by = \"agents\"")
}

fn copy(server: &TestServer, from: &str, to: &str) -> Output {
    server.tool(&["store", "copy", "--from", from, "--to", to]).output().unwrap()
}

#[track_caller]
fn copied(done: &Output) -> String {
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout.clone()).unwrap()
}

/// The exit code and what was said on standard error.
#[track_caller]
fn refused(done: &Output) -> (i32, String) {
    assert_eq!(String::from_utf8_lossy(&done.stdout), "");
    (done.status.code().unwrap(), String::from_utf8(done.stderr.clone()).unwrap())
}

/// Everything that the API tells of the projects, but for what a moment changes.
async fn told(server: &TestServer) -> Value {
    let mut all = json!({});
    for project in ["web", "other", "api"] {
        let mut view = server.get(&format!("/v1/projects/{project}")).await.body;
        // Its revisions go on far behind all that were handed out.
        for passing in ["revision", "liveness", "eta", "agents", "pipelines"] {
            view.as_object_mut().unwrap().remove(passing);
        }
        let list = server.get(&format!("/v1/projects/{project}/deployments?limit=100")).await.body;
        let mut events = Vec::new();
        for deployment in list["deployments"].as_array().unwrap() {
            let path = format!("/v1/projects/{project}/deployments/{}/events", deployment["id"].as_str().unwrap());
            let mut after = 0;
            loop {
                let page = server.get(&format!("{path}?after={after}&maxWaitSeconds=0")).await.body;
                events.push(page["events"].clone());
                if page["last"] == after || page["events"].as_array().unwrap().is_empty() {
                    break;
                }
                after = page["last"].as_u64().unwrap();
            }
        }
        all[project] = json!({ "view": view, "list": list, "events": events });
    }
    all
}

async fn claim_api(server: &TestServer) -> Answer {
    let offer = json!({ "worker": "a", "claimId": "1", "projects": { "api": ["deploy"] } });
    server.post("/v1/claims?maxWaitSeconds=0", offer).await
}

async fn finish(server: &TestServer, path: &str, secret: &str) -> Answer {
    let request = server.request(Method::POST, &format!("{path}/finish")).header("Singletrack-Lease", secret);
    send(request.json(&json!({ "status": "SUCCEEDED" }))).await
}

fn secret(answer: &Answer) -> String {
    answer.body["lease"]["secret"].as_str().unwrap().to_owned()
}

/// Whether there is nothing but an empty store.
async fn is_empty(database: &str) -> bool {
    let admin = postgres::shared().client(database).await;
    let rows = "SELECT (SELECT count(*) FROM singletrack.projects) + (SELECT count(*) FROM singletrack.events)";
    admin.query_one(rows, &[]).await.unwrap().get::<_, i64>(0) == 0
}

#[tokio::test]
async fn a_store_with_history_and_work_in_flight_goes_on_as_a_database() {
    let mut old = TestServer::start(&config());
    let artifact: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let name = {
        use sha2::Digest as _;
        data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&artifact))
    };
    let put = old.request(Method::PUT, &format!("/v1/artifacts/{name}")).body(artifact.clone());
    assert_eq!(send(put).await.status, 201);
    // History: what went well, failed, was cancelled with a word that PostgreSQL cannot keep as it is, and much output.
    let keyed = old.submit_keyed("k", json!({ "pipeline": "quick", "order": 7, "message": "m" })).await;
    old.finished(&keyed.id()).await;
    let broken = old.accepted(json!({ "pipeline": "broken" })).await;
    assert_eq!(old.finished(&broken).await["status"], "FAILED");
    old.close_gate();
    let held = old.at_the_gate().await;
    let waiting = old.submit_keyed("place", json!({ "onConflict": "wait", "pipeline": "quick" })).await;
    let ticket = waiting.body["ticket"].as_str().unwrap().to_owned();
    let queued = old.accepted(json!({ "onConflict": "queue", "pipeline": "quick", "deadlineSeconds": 3600 })).await;
    old.open_gate();
    assert_eq!(old.finished(&held).await["status"], "SUCCEEDED");
    // Its client does not come back for it in time, or does; either way it is in the way no more.
    old.cancel(&ticket, json!({ "reason": "changed \u{0} my \u{1a} mind" })).await;
    old.finished(&queued).await;
    let others = "/v1/projects/other/deployments";
    let running = old.post(others, json!({ "executor": "client", "claim": true, "leaseSeconds": 3600 })).await;
    let behind = old.post(others, json!({ "onConflict": "queue", "executor": "server" })).await;
    assert!(running.status == 202 && matches!(behind.status, 202 | 404), "{} {}", running.text, behind.text);
    // More output than is kept, so that its numbers have a gap.
    for first in 1..=60 {
        let lines: Vec<Value> =
            (0..4).map(|line| json!(format!("{first} {line} \u{0} {}", "x".repeat(60_000)))).collect();
        let report = old
            .request(Method::POST, &format!("{others}/{}/reports", running.id()))
            .header("Singletrack-Lease", secret(&running))
            .json(&json!({ "first": first, "reports": [{ "type": "log", "stream": "stdout", "lines": lines }] }));
        let report = send(report).await;
        assert_eq!(report.status, 200, "{}", report.text);
    }
    let with_agent = old
        .post("/v1/projects/api/deployments", json!({ "artifact": { "sha256": name }, "onConflict": "queue" }))
        .await;
    assert_eq!(with_agent.status, 202, "{}", with_agent.text);
    let claimed = claim_api(&old).await;
    assert_eq!(claimed.status, 200, "{}", claimed.text);
    let before = told(&old).await;
    assert!(before["other"]["events"].to_string().contains("\"gap\""), "nothing was cut");
    let tokens = |answer: &Answer| answer.body["lease"]["fencingToken"].as_u64().unwrap();
    let token = tokens(&running);

    let cluster = postgres::shared();
    let database = cluster.empty_database().await;
    let store = cluster.url(&database);
    let (code, why) = refused(&copy(&old, "sqlite:test.db", &store));
    assert!(code == 69 && why.contains("in use by another singletrack server"), "{code}: {why}");
    // Not even its end was in order.
    old.kill();
    let kept = fs::read(old.path("test.db")).unwrap();
    let summary = copied(&copy(&old, "sqlite:test.db", &store));
    assert!(summary.contains("projects: 3") && summary.contains(": 1, 3000000 bytes"), "{summary}");
    assert_eq!(fs::read(old.path("test.db")).unwrap(), kept, "the file stays as it is");

    let new = TestServer::start_on(&store, &config());
    assert_eq!(told(&new).await, before);
    let whole = new.request(Method::GET, &format!("/v1/artifacts/{name}")).send().await.unwrap();
    assert!(whole.bytes().await.unwrap() == artifact, "another artifact came");
    // Who held a lease holds it still, and the answer that was lost is told again.
    assert_eq!(secret(&claim_api(&new).await), secret(&claimed));
    for (path, answer) in [
        (format!("{others}/{}", running.id()), &running),
        (format!("/v1/projects/api/deployments/{}", claimed.body["deployment"]["id"].as_str().unwrap()), &claimed),
    ] {
        let ended = finish(&new, &path, &secret(answer)).await;
        assert_eq!(ended.body["status"], "SUCCEEDED", "{}", ended.text);
    }
    // A key still names its deployment, an older build is still older, and tokens go on behind all that there were.
    let again = new.submit_keyed("k", json!({ "pipeline": "quick", "order": 7, "message": "m" })).await;
    assert_eq!(again.id(), keyed.id());
    let older = new.submit(json!({ "pipeline": "quick", "order": 6 })).await;
    assert_eq!(older.refusal(), (409, "OUTDATED"), "{}", older.text);
    let next = new.post("/v1/projects/other/deployments", json!({ "executor": "client", "claim": true })).await;
    assert!(tokens(&next) > token + 1_000_000, "{} after {token}", tokens(&next));
    let deployed = new.accepted(json!({ "pipeline": "quick" })).await;
    assert_eq!(new.finished(&deployed).await["status"], "SUCCEEDED");

    // What is full, or served, is not filled.
    let (code, why) = refused(&copy(&old, "sqlite:test.db", &store));
    assert!(code == 69 && why.contains("a server is running on the database"), "{code}: {why}");
    drop(new);
    let full = async {
        loop {
            let (code, why) = refused(&copy(&old, "sqlite:test.db", &store));
            assert_eq!(code, 69, "{why}");
            if !why.contains("a server is running") {
                return why;
            }
        }
    };
    let why = timeout(PATIENCE, full).await.unwrap();
    assert!(why.contains("the database is not empty: it has 3 projects"), "{why}");
}

/// A store with so many deployments, each with output, made past all that a server does.
fn large_store(server: &TestServer, count: u64) {
    let db = Connection::open(server.path("test.db")).unwrap();
    db.execute_batch(&format!(
        "INSERT INTO projects (name, revision, waiting_count, preempted_count, recent_runs, deployment_count) \
            VALUES ('large', 2 * {count}, 0, 0, '[[],[]]', {count}); \
         WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < {count}) \
         INSERT INTO deployments (id, project, ticket, revision, state, executor, pulse, progress, event_count, \
            report_count, created_at, ended_at, cause, cause_message, log_total_bytes, log_head_end_seq, \
            log_trimmed_at_bytes, spec, outputs, short_number) \
            SELECT randomblob(16), (SELECT number FROM projects WHERE name = 'large'), 2 * n - 1, 2 * n, 'cancelled', \
            'server', 0, 0, 2, 0, n, n, 'CANCELLED', 'asked', 0, 0, 0, '{{\"pipeline\":\"deploy\"}}', '{{}}', n FROM n; \
         INSERT INTO events (deployment, seq, at, type, log_end_bytes, body) \
            SELECT number, 1, 0, 'status', NULL, '{{\"text\":\"' || hex(zeroblob(500)) || '\"}}' FROM deployments"
    ))
    .unwrap();
}

#[tokio::test]
async fn a_copy_that_is_killed_leaves_nothing_and_can_be_begun_again() {
    let mut old = TestServer::start("");
    old.terminate();
    large_store(&old, 20_000);
    let cluster = postgres::shared();
    let database = cluster.empty_database().await;
    let store = cluster.url(&database);
    let mut child: Child = old
        .tool(&["store", "copy", "--from", "sqlite:test.db", "--to", &store])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let admin = cluster.client(&database).await;
    let begun = async {
        let copying = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY events%'";
        while admin.query(copying, &[]).await.unwrap().is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "it was over before it could be killed");
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, begun).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_empty(&database).await);
    let done = async {
        loop {
            let done = copy(&old, "sqlite:test.db", &store);
            // The database may not have noticed yet that the first one is gone.
            if done.status.success() || !String::from_utf8_lossy(&done.stderr).contains("a server is running") {
                return done;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let summary = copied(&timeout(PATIENCE, done).await.unwrap());
    assert!(summary.contains("deployments: 20000") && summary.contains("events: 20000"), "{summary}");
    // A server takes it for what it is.
    let new = TestServer::start_on(&store, "");
    let page = new.get("/v1/projects/large/deployments?limit=1").await.body;
    assert_eq!(page["deployments"][0]["status"], "CANCELLED", "{page}");
}

#[tokio::test]
async fn what_cannot_be_copied_is_said_and_changes_nothing() {
    let mut server = TestServer::start("");
    server.terminate();
    let cluster = postgres::shared();
    let database = cluster.database().await;
    let store = cluster.url(&database);
    Connection::open(server.path("foreign.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    for (name, version) in [("newer.db", 9999), ("older.db", 0)] {
        fs::copy(server.path("test.db"), server.path(name)).unwrap();
        Connection::open(server.path(name)).unwrap().pragma_update(None, "user_version", version).unwrap();
    }
    fs::copy(server.path("test.db"), server.path("odd.db")).unwrap();
    Connection::open(server.path("odd.db"))
        .unwrap()
        .execute_batch("ALTER TABLE projects ADD COLUMN more TEXT")
        .unwrap();
    let missing = cluster.url("no_such_database");
    for (from, to, expected, says) in [
        ("sqlite:missing.db", store.as_str(), 69, "there is no file"),
        ("sqlite:foreign.db", &store, 69, "database of another program"),
        ("sqlite:newer.db", &store, 69, "written by a newer singletrack"),
        ("sqlite:older.db", &store, 69, "start this version on it once"),
        ("sqlite:odd.db", &store, 69, "projects has other columns"),
        ("sqlite:test.db", &missing, 69, "no_such_database"),
        ("sqlite:test.db", "postgres://u:hunter2@127.0.0.1:1/d", 69, "refused"),
        ("sqlite:test.db", "postgres://u:hunter2@h/d?sslmode=perhaps", 2, "--to: `sslmode`"),
        ("sqlite:test.db", "sqlite:other.db", 2, "--to: a store can only be copied into a database"),
        ("sqlite:test.db", "mysql://h/d", 2, "--to: must begin with"),
        ("memory:", &store, 2, "--from: only a store in a file can be copied"),
        ("sqlite:", &store, 2, "--from: names no file"),
    ] {
        let (code, why) = refused(&copy(&server, from, to));
        assert!(code == expected && why.contains(says), "{from} to {to}: {code}: {why}");
        assert!(why.lines().count() == 1 && !why.contains("hunter2"), "{from} to {to}: {why}");
        assert!(is_empty(&database).await, "{from} to {to}");
    }
    // An artifact that is none.
    let damaged = "singletrack-work/artifacts/".to_owned() + &"ab".repeat(32);
    fs::create_dir_all(server.path("singletrack-work/artifacts")).unwrap();
    fs::write(server.path(&damaged), "something else").unwrap();
    let (code, why) = refused(&copy(&server, "sqlite:test.db", &store));
    assert!(code == 69 && why.contains("is damaged"), "{code}: {why}");
    let admin = cluster.client(&database).await;
    let kept = "SELECT FROM singletrack.artifacts UNION ALL SELECT FROM singletrack.artifact_pieces";
    assert!(admin.query(kept, &[]).await.unwrap().is_empty(), "a piece of it stayed");
    // An empty store is a store, too.
    fs::remove_file(server.path(&damaged)).unwrap();
    assert!(copied(&copy(&server, "sqlite:test.db", &store)).contains("projects: 0"));
    let mut text = String::new();
    fs::File::open(server.path("server.log")).unwrap().read_to_string(&mut text).unwrap();
    assert!(!text.contains("panicked"));
}
