//! Servers that are replaced one by one, while clients go on as if nothing were.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::process::Signal;
use serde_json::json;
use tokio::{
    process::Command,
    task::{JoinSet, block_in_place},
};

use crate::harness::{SINGLETRACK, TestServer, balancer::Balancer, gated_config, postgres};

/// A project whose pipeline runs for as long as the gate of its server is closed, and whose other one ends at once.
const LONG: &str = r#"
[[projects.long.pipelines.deploy.phases]]
name = "gate"
run = '''
echo "at the gate"
flock --shared "$TEST_DIR/gate" true
'''
[[projects.long.pipelines.quick.phases]]
name = "only"
run = "echo done"
"#;

/// Three servers behind a balancer, and clients that never stop asking.
struct Load {
    servers: Vec<TestServer>,
    clients: JoinSet<()>,
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    database: String,
    balancer: Arc<Balancer>,
}

impl Load {
    async fn start() -> Self {
        let cluster = postgres::shared();
        let database = cluster.database().await;
        let store = cluster.url(&database);
        let config = format!("{}{LONG}", gated_config("shutdown_grace = \"10m\"\n[limits]\nattendance = \"3s\""));
        let servers: Vec<TestServer> = (0..3).map(|_| TestServer::start_on(&store, &config)).collect();
        let balancer = Arc::new(Balancer::of(&servers.iter().map(|it| it.base.clone()).collect::<Vec<_>>()));
        let mut load =
            Load { servers, clients: JoinSet::new(), done: Arc::default(), over: Arc::default(), database, balancer };
        let commands: [&[&str]; 4] = [
            &["deploy", "--project", "web", "--pipeline", "quick"],
            &["deploy", "--project", "web", "--pipeline", "quick", "--on-conflict", "queue"],
            &["run", "--project", "job", "--", "true"],
            &["run", "--project", "job", "--", "true"],
        ];
        for arguments in commands {
            let (balancer, done, over) = (load.balancer.clone(), load.done.clone(), load.over.clone());
            load.clients.spawn(commands_one_by_one(arguments, balancer, done, over));
        }
        for number in 0..3 {
            let project = format!("direct-{number}");
            let (balancer, done, over) = (load.balancer.clone(), load.done.clone(), load.over.clone());
            load.clients.spawn(requests_one_by_one(project, balancer, done, over));
        }
        load
    }

    /// Waits until so much more was done.
    async fn gets_on(&mut self, by: u64) {
        let wanted = self.done.load(Ordering::Relaxed) + by;
        while self.done.load(Ordering::Relaxed) < wanted {
            assert!(self.clients.try_join_next().is_none(), "a client gave up, see above");
            tokio::task::yield_now().await;
        }
    }

    /// Has everybody come to an end, which must be a good one.
    async fn ends(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
    }
}

async fn commands_one_by_one(
    arguments: &'static [&'static str],
    balancer: Arc<Balancer>,
    done: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) {
    while !over.load(Ordering::Relaxed) {
        succeeds(arguments, &balancer).await;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

async fn succeeds(arguments: &[&str], balancer: &Balancer) {
    let mut command = Command::new(SINGLETRACK);
    command.args(arguments).env("SINGLETRACK_URL", &balancer.base).env("USER", "tester").stdin(Stdio::null());
    let ended = command.kill_on_drop(true).output().await.unwrap();
    assert!(ended.status.success(), "{arguments:?}: {} {}", ended.status, String::from_utf8_lossy(&ended.stderr));
}

/// Requests without any patience: each must be answered, though perhaps with the request to try again.
async fn requests_one_by_one(project: String, balancer: Arc<Balancer>, done: Arc<AtomicU64>, over: Arc<AtomicBool>) {
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let url = format!("{}/v1/projects/{project}/deployments", balancer.base);
    let asked = async |request: reqwest::RequestBuilder| loop {
        let answer = request.try_clone().unwrap().send().await.expect("no request is reset");
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.expect("no answer is cut off");
        match status {
            200 | 202 => return body,
            503 => tokio::task::yield_now().await,
            other => panic!("{other}: {body}"),
        }
    };
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let wish = json!({ "executor": "client", "claim": true });
        let submit = http.post(&url).header("Idempotency-Key", format!("{project}-{number}")).json(&wish);
        let body = asked(submit).await;
        let (id, secret) = (body["id"].as_str().unwrap(), body["lease"]["secret"].as_str().unwrap());
        asked(http.post(format!("{url}/{id}/heartbeat")).header("Singletrack-Lease", secret)).await;
        let finish = http.post(format!("{url}/{id}/finish")).header("Singletrack-Lease", secret);
        asked(finish.json(&json!({ "status": "SUCCEEDED" }))).await;
        assert_eq!(asked(http.get(format!("{url}/{id}/completion"))).await["status"], "SUCCEEDED");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_restarted_one_by_one_lose_no_request() {
    let mut load = Load::start().await;
    load.gets_on(20).await;
    for _round in 0..2 {
        for number in 0..3 {
            let server = &mut load.servers[number];
            let ended = block_in_place(|| server.terminate());
            assert!(ended.success(), "{ended}: {}", server.log());
            block_in_place(|| server.boot());
            load.gets_on(15).await;
        }
    }
    load.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_pipeline_outlives_the_restart_of_its_server_and_nobody_else_notices() {
    let mut load = Load::start().await;
    for server in &load.servers {
        server.close_gate();
    }
    let balancer = load.balancer.clone();
    let mut long = JoinSet::new();
    for arguments in [
        &["deploy", "--project", "long"][..],
        &["deploy", "--project", "long", "--pipeline", "quick"],
        &["deploy", "--project", "long", "--pipeline", "quick", "--on-conflict", "queue"],
    ] {
        let balancer = balancer.clone();
        let client = async move { succeeds(arguments, &balancer).await };
        long.spawn(client);
        let length = long.len() as u64 - 1;
        while !is_line_of(&load.servers[0], length).await {
            assert!(long.try_join_next().is_none(), "it ended too early");
        }
    }
    let mut was_waited_for = false;
    for number in 0..3 {
        load.servers[number].signal(Signal::TERM);
        // Far more is done than could be while everybody waits for the pipeline.
        load.gets_on(15).await;
        // Wherever it runs, it is the last of that server.
        let server = &mut load.servers[number];
        let is_draining = server.client.get(format!("{}/readyz", server.base)).send().await.is_ok();
        if is_draining {
            assert!(long.try_join_next().is_none(), "its server did not wait for it");
            load.gets_on(15).await;
            load.servers[number].open_gate();
            was_waited_for = true;
        }
        let server = &mut load.servers[number];
        let ended = block_in_place(|| server.exited());
        assert!(ended.success(), "{ended}: {}", server.log());
        block_in_place(|| server.boot());
        load.gets_on(15).await;
    }
    assert!(was_waited_for, "the pipeline ran on none of them");
    while let Some(ended) = long.join_next().await {
        ended.unwrap();
    }
    load.ends().await;
}

/// Whether the long pipeline's project has a running holder and so many in line.
async fn is_line_of(server: &TestServer, length: u64) -> bool {
    let view = server.get("/v1/projects/long").await.body;
    view["holder"]["status"] == "RUNNING" && view["lineLength"] == length
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_of_the_schema_has_clients_wait_and_loses_nothing() {
    let mut load = Load::start().await;
    load.gets_on(20).await;
    let cluster = postgres::shared();
    let admin = cluster.client(&load.database).await;
    // What a server of a newer version does when it starts. There is none yet, so this stands in for it.
    let upgrade = "BEGIN; LOCK TABLE singletrack.projects IN EXCLUSIVE MODE; \
        INSERT INTO singletrack.migrations (version, checksum) VALUES (99, ''); COMMIT";
    admin.batch_execute(upgrade).await.unwrap();
    // From then on the old ones change nothing, and say that they are of no use.
    let revisions = "SELECT coalesce(sum(revision), 0)::bigint FROM singletrack.projects";
    let before: i64 = admin.query_one(revisions, &[]).await.unwrap().get(0);
    for server in &load.servers {
        // What was found right holds for a moment.
        while server.get("/readyz").await.status != 503 {
            tokio::task::yield_now().await;
        }
        let refused = server.submit(json!({ "onConflict": "queue" })).await;
        assert_eq!(refused.refusal(), (503, "UNAVAILABLE"), "{}", refused.text);
        assert_eq!(server.get("/healthz").await.status, 200);
    }
    let newcomer = load.servers[0].tool(&["serve", "--listen", "127.0.0.1:0", "--work-dir", "another"]);
    let (code, told) = refusal(newcomer, &cluster.url(&load.database));
    assert!(code == Some(69) && told.contains("version 99"), "{told}");
    let after: i64 = admin.query_one(revisions, &[]).await.unwrap().get(0);
    assert_eq!(before, after, "something was changed by who does not know the schema");
    // Now servers that know the schema take over.
    admin.batch_execute("DELETE FROM singletrack.migrations WHERE version = 99").await.unwrap();
    load.gets_on(20).await;
    // So does what was found wrong.
    while load.servers[0].get("/readyz").await.status != 200 {
        tokio::task::yield_now().await;
    }
    load.ends().await;
}

fn refusal(mut serve: std::process::Command, store: &str) -> (Option<i32>, String) {
    let done = serve.args(["--store", store]).output().unwrap();
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}
