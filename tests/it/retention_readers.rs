//! What readers are told of what retention has removed: over HTTP and by the commands, on both engines.

use std::{process::Output, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    harness::{TestServer, gated_config, postgres},
    retention::{Care, NOTHING, deployed, failed, succeeded},
    store_trial::Trial,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Twenty deployments of `web`, four days apart, the last one of today; the output of each is compressed.
async fn eighty_days(trial: &Trial) {
    let now = Timestamp::now();
    trial.clock.set(now - SignedDuration::from_hours(24 * 4 * 19));
    for number in 1..=20 {
        // Number 11 has several pages of events.
        deployed(
            trial,
            "web",
            number,
            if number == 11 { 900 } else { 10 },
            if number == 20 { succeeded() } else { failed() },
        )
        .await;
        trial.clock.advance(DAY * 4);
    }
    Care::of(trial, NOTHING).look().await;
}

async fn page(server: &TestServer, path: &str) -> Value {
    let answer = server.get(path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    answer.body
}

fn numbers(list: &Value) -> Vec<u64> {
    list["deployments"].as_array().unwrap().iter().map(|it| it["number"].as_u64().unwrap()).collect()
}

fn tool(server: &TestServer, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = server.tool(args).env("SINGLETRACK_URL", &server.base).output().unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

async fn readers_are_told_what_went(store: &str) {
    // It keeps everything at first.
    let server = TestServer::start_on(store, &gated_config("[retention]\ninterval = \"1s\"\n"));
    let first = page(&server, "/v1/projects/web/deployments?limit=4").await;
    assert_eq!(numbers(&first), [20, 19, 18, 17]);
    let second = page(&server, &format!("/v1/projects/web/deployments?limit=4&cursor={}", cursor(&first))).await;
    assert_eq!(numbers(&second), [16, 15, 14, 13]);
    let events = "/v1/projects/web/deployments/11/events?maxWaitSeconds=0";
    let begun = page(&server, events).await;
    let read = begun["events"].as_array().unwrap().last().unwrap()["seq"].as_u64().unwrap();
    let whole = page(&server, "/v1/projects/web/deployments/11").await;
    let count = whole["eventCount"].as_u64().unwrap_or(u64::MAX);
    assert!(read < count);

    // Its rules change: 1 to 7 go, and the output of the others but the two newest.
    let rules = "[retention]\ninterval = \"1s\"\noutput = \"1h\"\ndeployments = \"50d\"\nkeep = 2\n";
    server.configure(&gated_config(rules));
    let (code, told) = tool(&server, &["reload"]);
    assert_eq!(code, Some(0), "{told}");
    let has_gone = async {
        loop {
            let is_there = server.get("/v1/projects/web/deployments/7").await.status == 200;
            let last = page(&server, "/v1/projects/web/deployments/18/events?maxWaitSeconds=0").await;
            if !is_there && !last["events"].as_array().unwrap().iter().any(|event| event["type"] == "log") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), has_gone).await.unwrap();

    // A list goes on behind what went, and ends.
    let third = page(&server, &format!("/v1/projects/web/deployments?limit=4&cursor={}", cursor(&second))).await;
    assert_eq!(numbers(&third), [12, 11, 10, 9]);
    let fourth = page(&server, &format!("/v1/projects/web/deployments?limit=4&cursor={}", cursor(&third))).await;
    assert_eq!((numbers(&fourth), &fourth["nextCursor"]), (vec![8], &Value::Null));

    // A reader of output that went in the middle is told of the gap, and of all that stays.
    let (mut after, mut met) = (read, Vec::new());
    while met.last().is_none_or(|event: &Value| event["type"] != "complete") {
        let rest = page(&server, &format!("{events}&after={after}")).await;
        let rest = rest["events"].as_array().unwrap().clone();
        after = rest.last().expect("there is more")["seq"].as_u64().unwrap();
        met.extend(rest);
    }
    let mut next = read + 1;
    for event in &met {
        let is_gap = event["type"] == "gap";
        assert!(event["type"] != "log", "{event}");
        assert_eq!(event[if is_gap { "from" } else { "seq" }], next, "{event}");
        next = event["seq"].as_u64().unwrap() + 1;
    }
    assert!(met.iter().any(|event| event["type"] == "gap"));

    // The commands say so, too.
    for more in [&[][..], &["--follow"], &["--tail", "3"]] {
        let (code, told) = tool(&server, &[&["logs", "web#11"], more].concat());
        assert!(code == Some(0) && told.contains("output is no longer kept") && told.contains("[retention]"), "{told}");
        assert!(!told.contains("compiling crate"), "{told}");
    }
    let (code, told) = tool(&server, &["logs", "web#20"]);
    assert!(code == Some(0) && told.contains("line 9 of 20") && !told.contains("no longer"), "{told}");
    for command in ["logs", "status"] {
        let (code, told) = tool(&server, &[command, "web#3"]);
        assert!(
            code == Some(2) && told.contains("web#3 (retention removes old ones); the last one is web#20"),
            "{command}: {code:?}: {told}"
        );
    }
    let (code, told) = tool(&server, &["status", "web#11"]);
    assert!(code == Some(0) && told.contains("FAILED"), "its record stays: {told}");
}

fn cursor(list: &Value) -> &str {
    list["nextCursor"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_readers_are_told_what_went() {
    let directory = tempfile::tempdir().unwrap();
    let trial = Trial::sqlite_at(directory.path());
    eighty_days(&trial).await;
    drop(trial);
    readers_are_told_what_went(&format!("sqlite:{}", directory.path().join("singletrack.db").display())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_readers_are_told_what_went() {
    let cluster = postgres::shared();
    let url = cluster.url(&cluster.database().await);
    let trial = Trial::postgres_at(&url).await;
    eighty_days(&trial).await;
    let store = trial.store.clone();
    drop(trial);
    store.shut_down().await;
    readers_are_told_what_went(&url).await;
}
