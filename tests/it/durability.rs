//! What was acknowledged survives `kill -9`, at any moment and under load: told by whoever was killed, held against what
//! the store keeps.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use rusqlite::Connection;
use serde_json::{Value, json};
use singletrack::{
    clock::SystemClock,
    config::LiveConfig,
    model::{
        Caller, Deployment, DeploymentId, EventBody, Lapse, LeaseHolder, ProjectName, Revision, Spec, Status, Verdict,
        admission::{Admission, Cancellation, OnConflict, Submission},
    },
    queue::Queue,
    store::{ListQuery, Store, sqlite::SqliteStore},
};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    harness::TestServer,
    store_trial::{deaf, name, open},
};

/// How often each test kills its victim.
const KILL_COUNT: u32 = 50;

/// How many callers the victim serves at once.
const CALLER_COUNT: usize = 16;

/// Projects they share: few, so that they meet in one line, and more than one, so that commits are shared too.
const PROJECTS: [&str; 3] = ["web", "api", "docs"];

/// Where a deployment stood when a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    project: ProjectName,
    id: DeploymentId,
    revision: Revision,
    status: Status,
}

/// Everything that was told; of each deployment the latest.
#[derive(Default)]
struct Memory(HashMap<DeploymentId, Told>);

impl Memory {
    fn learn(&mut self, told: Told) {
        let known = self.0.entry(told.id).or_insert_with(|| told.clone());
        if known.revision <= told.revision {
            *known = told;
        }
    }

    /// Holds what the store keeps against what was told.
    async fn compare(&self, store: &dyn Store) {
        for told in self.0.values() {
            let kept = store.deployment(told.project.clone(), told.id).await.unwrap();
            let kept = kept.unwrap_or_else(|| panic!("{told:?} was told, and is lost")).deployment;
            assert!(kept.revision >= told.revision, "{told:?} was told, and the store went back to {kept:?}");
            if kept.revision == told.revision || told.status.is_final() {
                assert_eq!((kept.revision, kept.status()), (told.revision, told.status), "another end than was told");
            }
        }
    }
}

/// What must hold whenever a store is opened, whatever became of who used it before.
async fn check_whole(store: &dyn Store) {
    for (name, state) in store.projects(None, usize::MAX).await.unwrap() {
        let state = state.unwrap();
        let query = ListQuery { limit: usize::MAX, ..ListQuery::default() };
        let all = store.list(name.clone(), query).await.unwrap();
        let holders = all.iter().filter(|it| it.holds_slot()).count() as u64;
        let waiting = all.iter().filter(|it| it.is_waiting()).count() as u64;
        assert_eq!(state.project.waiting_count, waiting, "{name}");
        assert!(holders == 1 || (holders == 0 && waiting == 0), "{name}: {holders} hold the slot, {waiting} wait");
        let newest = all.iter().map(|it| it.revision).max();
        assert_eq!(newest, Some(state.project.revision), "{name}");
        // The latest ones are those that a kill could have torn.
        for deployment in all.iter().take(4 * CALLER_COUNT) {
            let events = store.events(deployment.id, 0, usize::MAX).await.unwrap();
            assert!(events.iter().map(|event| event.seq).eq(1..=deployment.event_count), "{events:?}");
            let is_over = events.last().is_some_and(|event| event.body == EventBody::Complete);
            assert_eq!(is_over, deployment.is_final(), "{deployment:?}");
        }
    }
}

fn check_file(path: &Path) {
    let file = Connection::open(path).unwrap();
    let told: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(told, "ok");
    let orphans = file.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap();
    assert!(!orphans, "a row refers to one that is not there");
}

#[tokio::test]
async fn what_the_store_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("singletrack.db");
    let mut all = Memory::default();
    for round in 0..KILL_COUNT {
        // A victim of its own size each time: sometimes killed while it opens its file, mostly in full flight.
        let patience = usize::from(fast_random() as u8) * (round as usize % 4);
        let mut told = Memory::default();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "durability::the_victim", "--ignored", "--nocapture"])
            .env("SINGLETRACK_VICTIM_STORE", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (&mut lines).map_while(Result::ok).filter_map(|line| parse(&line)).take(patience).for_each(|it| told.learn(it));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts, up to the last whole line.
        lines.map_while(Result::ok).filter_map(|line| parse(&line)).for_each(|it| told.learn(it));

        let store = open(&path).unwrap();
        told.compare(&store).await;
        check_whole(&store).await;
        store.close();
        told.0.into_values().for_each(|told| all.learn(told));
    }
    assert!(all.0.len() > 1000, "only {} deployments: the victims did too little", all.0.len());
    let ends = all.0.values().filter(|told| told.status.is_final()).count();
    assert!(ends > 100, "only {ends} ends were told");
    let store = open(&path).unwrap();
    all.compare(&store).await;
    drop(store);
    check_file(&path);
}

/// Not a test: the process that is killed. Serves a crowd of callers and says what it acknowledged to each of them.
#[test]
#[ignore = "it is run, and killed, by the test above"]
fn the_victim() {
    let Some(path) = env::var_os("SINGLETRACK_VICTIM_STORE") else { return };
    let store = Arc::new(SqliteStore::open(Path::new(&path), deaf()).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    // The harness has begun a line.
    std::io::stdout().write_all(b"\n").unwrap();
    runtime.block_on(async {
        let queue = Queue::new(store, Arc::new(SystemClock), LiveConfig::default());
        let callers = (0..CALLER_COUNT).map(|number| tokio::spawn(call(queue.clone(), number)));
        futures_util::future::join_all(callers).await;
    });
}

/// One caller, for ever: the first of each project works, the others submit, and cancel now and then.
async fn call(queue: Queue, number: usize) {
    let project = name(PROJECTS[number % PROJECTS.len()]);
    for turn in 0_u64.. {
        if number < PROJECTS.len() {
            work(&queue, &project, turn).await;
        } else {
            submit(&queue, &project, turn).await;
        }
    }
}

async fn submit(queue: &Queue, project: &ProjectName, turn: u64) {
    let id = DeploymentId::generate();
    let spec = Spec { pipeline: "deploy".to_owned(), ..Spec::default() };
    let key = Some((id.to_string().parse().unwrap(), [7; 32]));
    let wish = Submission {
        id,
        project: project.clone(),
        spec,
        key,
        on_conflict: OnConflict::Queue,
        refusal: None,
        sealed: None,
        claim: None,
    };
    let submitted = queue.submit(&Caller::server(), wish).await.unwrap();
    assert_eq!(submitted.admission, Admission::Accepted(id));
    tell(&submitted.own.expect("it is in").deployment);
    // So many that the line stays short enough to look at.
    if turn.is_multiple_of(3) || submitted.project.waiting_count > 20 {
        let (Cancellation::Requested(after) | Cancellation::Unchanged(after)) =
            queue.cancel(&Caller::server(), project.clone(), id, None, None).await.unwrap()
        else {
            panic!("{id} was in")
        };
        tell(&after);
    }
}

async fn work(queue: &Queue, project: &ProjectName, turn: u64) {
    let state = queue.store().project(project.clone(), 0).await.unwrap();
    let Some(holder) = state.and_then(|state| state.holder) else { return tokio::task::yield_now().await };
    match queue.claim(project.clone(), holder.id, LeaseHolder::worker("victim")).await.unwrap() {
        Some(claimed) => {
            tell(&claimed.deployment);
            let secret = claimed.secret.hash();
            queue.heartbeat(project.clone(), holder.id, secret).await.unwrap();
            let verdict = match turn % 3 {
                0 => Verdict::Stopped,
                _ => Verdict::Succeeded { outputs: Default::default() },
            };
            tell(&queue.finish(project.clone(), holder.id, secret, verdict).await.unwrap());
        }
        // What an earlier victim had claimed; its worker is gone with it.
        None => {
            let reaped = queue
                .reap(project.clone(), holder.id, holder.vital(), Lapse::WorkerGone, queue.clock().boot())
                .await
                .unwrap();
            if let Ok(ended) = reaped {
                tell(&ended);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_acknowledged_survives_kill_9() {
    let mut server = TestServer::start(QUICK_PIPELINES);
    let mut all = Memory::default();
    for round in 0..KILL_COUNT {
        let patience = 1 + usize::from(fast_random() as u8 / 4) * (round as usize % 4);
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut callers = JoinSet::new();
        for number in 0..CALLER_COUNT {
            let client = Client { http: server.client.clone(), base: server.base.clone(), tell: tell.clone() };
            callers.spawn(client.call(PROJECTS[number % PROJECTS.len()]));
        }
        drop(tell);
        let mut memory = Memory::default();
        for _ in 0..patience {
            memory.learn(told.recv().await.expect("the server serves"));
        }
        server.kill();
        // Each caller ends with its first unanswered request. What it heard until then counts.
        while let Some(heard) = told.recv().await {
            memory.learn(heard);
        }
        callers.join_all().await;

        let store = open(&server.path("test.db")).unwrap();
        memory.compare(&store).await;
        check_whole(&store).await;
        drop(store);
        memory.0.into_values().for_each(|told| all.learn(told));
        server.boot();
    }
    assert!(all.0.len() > 500, "only {} deployments: the server did too little", all.0.len());
    let ends = all.0.values().filter(|told| told.status.is_final()).count();
    assert!(ends > 100, "only {ends} ends were told");

    // No project is left locked: what runs next is served.
    for project in PROJECTS {
        let url = format!("{}/v1/projects/{project}/deployments", server.base);
        let next = server.client.post(&url).json(&json!({ "onConflict": "queue" })).send().await.unwrap();
        let next: Value = next.json().await.unwrap();
        let id = next["id"].as_str().unwrap();
        loop {
            let done = server.client.get(format!("{url}/{id}/completion?maxWaitSeconds=60")).send().await.unwrap();
            if done.status() == 200 {
                assert_eq!(done.json::<Value>().await.unwrap()["status"], "SUCCEEDED");
                break;
            }
        }
    }
    server.kill();
    let path = server.path("test.db");
    let store = open(&path).unwrap();
    all.compare(&store).await;
    check_whole(&store).await;
    drop(store);
    check_file(&path);
}

const QUICK_PIPELINES: &str = r#"
[[projects.web.pipelines.deploy.phases]]
name = "only"
run = "true"

[[projects.api.pipelines.deploy.phases]]
name = "only"
run = "true"

[[projects.docs.pipelines.deploy.phases]]
name = "only"
run = "true"
"#;

/// A caller of the server.
struct Client {
    http: reqwest::Client,
    base: String,
    tell: mpsc::UnboundedSender<Told>,
}

impl Client {
    /// Submits, and cancels or waits for the end, until the server answers no more.
    async fn call(self, project: &'static str) {
        let url = format!("{}/v1/projects/{project}/deployments", self.base);
        for turn in 0_u64.. {
            let key = DeploymentId::generate().to_string();
            let wish = json!({ "onConflict": "queue" });
            let submit = self.http.post(&url).header("Idempotency-Key", key).json(&wish);
            let Some((202, body)) = self.answer(project, submit).await else { return };
            let one = format!("{url}/{}", body["id"].as_str().unwrap());
            let second = match turn % 3 {
                0 => self.http.get(format!("{one}/completion?maxWaitSeconds=60")),
                _ => self.http.post(format!("{one}/cancel")),
            };
            let Some((200 | 202 | 408, _)) = self.answer(project, second).await else { return };
        }
    }

    /// What the server answered, told to the test; `None` where it did not.
    async fn answer(&self, project: &str, request: reqwest::RequestBuilder) -> Option<(u16, Value)> {
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let body: Value = response.json().await.ok()?;
        if matches!(status, 200 | 202) {
            let told = Told {
                project: name(project),
                id: body["id"].as_str().unwrap().parse().unwrap(),
                revision: Revision(body["revision"].as_u64().unwrap()),
                status: serde_json::from_value(body["status"].clone()).unwrap(),
            };
            self.tell.send(told).ok()?;
        } else {
            assert_eq!(status, 408, "{body}");
        }
        Some((status, body))
    }
}

/// Says what a caller was told, as one write, so that a kill cannot mix two.
fn tell(deployment: &Deployment) {
    static STDOUT: Mutex<()> = Mutex::new(());
    let line = format!(
        "told {} {} {} {}\n",
        deployment.project,
        deployment.id,
        deployment.revision,
        deployment.status().as_str()
    );
    let _one = STDOUT.lock().unwrap();
    let mut stdout = std::io::stdout();
    stdout.write_all(line.as_bytes()).unwrap();
    stdout.flush().unwrap();
}

fn parse(line: &str) -> Option<Told> {
    let mut words = line.strip_prefix("told ")?.split(' ');
    let mut word = || words.next().expect("a whole line");
    let (project, id, revision) = (name(word()), word().parse().unwrap(), Revision(word().parse().unwrap()));
    let status = serde_json::from_value(word().into()).unwrap();
    Some(Told { project, id, revision, status })
}

fn fast_random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
