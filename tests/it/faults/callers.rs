//! Clients over HTTP. Each asks any of the servers, again and again until the answer is definite, and writes down what it
//! was told.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{
    ground::TOKEN,
    history::{Span, Told},
    random::Random,
};

/// How long a server may take beyond what it was asked to wait.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long to wait before somebody else is asked.
const PAUSE: Duration = Duration::from_millis(30);

/// What all clients share.
pub struct Crowd {
    bases: Vec<String>,
    http: reqwest::Client,
    began: Instant,
    told: Mutex<Vec<Told>>,
    steps: watch::Sender<u64>,
    over: AtomicBool,
    /// Who reads events. They go on until the deployments have ended.
    readers: TaskTracker,
}

impl Crowd {
    pub fn of(bases: Vec<String>) -> Arc<Self> {
        let mut headers = reqwest::header::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).default_headers(headers);
        Arc::new(Crowd {
            bases,
            http: http.build().unwrap(),
            began: Instant::now(),
            told: Mutex::default(),
            steps: watch::Sender::new(0),
            over: AtomicBool::new(false),
            readers: TaskTracker::new(),
        })
    }

    /// Something was told. It is also a sign that the crowd gets on.
    pub fn tell(&self, told: Told) {
        self.told.lock().unwrap().push(told);
        self.steps.send_modify(|steps| *steps += 1);
    }

    /// Waits until the crowd got so much further.
    pub async fn gets_on(&self, by: u64) {
        let mut steps = self.steps.subscribe();
        let wanted = *steps.borrow() + by;
        steps.wait_for(|steps| *steps >= wanted).await.unwrap();
    }

    /// For how long it is there.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Asks everybody to come to an end.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Waits for all readers, and gives what everybody was told.
    pub async fn told(&self) -> Vec<Told> {
        self.readers.close();
        self.readers.wait().await;
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// A definite answer.
struct Answer {
    status: u16,
    body: Value,
    /// When the attempt was sent that was answered, and when that was.
    at: Span,
    is_first: bool,
}

/// One client.
pub struct Caller {
    crowd: Arc<Crowd>,
    random: Random,
    name: String,
    /// The lease that it had last.
    former: Option<String>,
}

/// A request, to be sent any number of times.
struct Request<'a> {
    method: Method,
    path: String,
    header: Option<(&'static str, &'a str)>,
    body: Option<Value>,
    window: Duration,
}

impl<'a> Request<'a> {
    fn get(path: String) -> Self {
        Request { method: Method::GET, path, header: None, body: None, window: Duration::ZERO }
    }

    /// Parks for so long.
    fn parked(path: String, separator: char) -> Self {
        let path = format!("{path}{separator}maxWaitSeconds=2");
        Request { window: Duration::from_secs(2), ..Request::get(path) }
    }

    fn post(path: String, body: Value) -> Self {
        Request { method: Method::POST, body: Some(body), ..Request::get(path) }
    }

    fn with(self, name: &'static str, value: &'a str) -> Self {
        Request { header: Some((name, value)), ..self }
    }
}

impl Caller {
    pub fn new(crowd: &Arc<Crowd>, random: Random, name: String) -> Self {
        Caller { crowd: crowd.clone(), random, name, former: None }
    }

    /// Takes the slot of a project, does something under the lease, and gives it back or lets it lapse; until it is over.
    pub async fn work(mut self, project: &str) {
        let path = format!("/v1/projects/{project}/deployments");
        for turn in 0.. {
            if self.crowd.is_over() {
                return;
            }
            let key = format!("{}-{turn}", self.name);
            let on_conflict = if self.random.once_in(3) { "refuse" } else { "wait" };
            let wish = json!({ "executor": "client", "claim": true, "commit": key, "onConflict": on_conflict });
            let mut answer = self.submit(&path, &key, &wish).await;
            if answer.status == 409 {
                let ticket = self.conflict(project, &answer);
                match ticket {
                    Some(ticket) if self.turn(project, &path, &ticket).await => {
                        answer = self.submit(&path, &key, &wish).await;
                    }
                    Some(_) => continue,
                    None => {
                        let holder = answer.body["deploymentId"].as_str().unwrap().to_owned();
                        self.ended(&path, &holder, 1).await;
                        continue;
                    }
                }
            }
            assert_eq!(answer.status, 202, "{}", answer.body);
            let id = self.submitted(project, &key, &answer);
            self.read(&path, &id);
            let lease = answer.body["lease"].clone();
            if let Some(secret) = lease["secret"].as_str() {
                let fencing_token = lease["fencingToken"].as_u64().unwrap();
                let told = Told::Leased { at: answer.at, project: project.to_owned(), id: id.clone(), fencing_token };
                self.crowd.tell(told);
                self.hold(&path, &id, secret).await;
                self.former = Some(secret.to_owned());
            }
        }
    }

    /// Hands deployments to the servers, cancels some, and waits for their ends; until it is over.
    pub async fn queue(mut self, project: &str) {
        let path = format!("/v1/projects/{project}/deployments");
        for turn in 0.. {
            if self.crowd.is_over() {
                return;
            }
            let key = format!("{}-{turn}", self.name);
            let answer = self.submit(&path, &key, &json!({ "commit": key, "onConflict": "queue" })).await;
            assert_eq!(answer.status, 202, "{}", answer.body);
            let id = self.submitted(project, &key, &answer);
            self.read(&path, &id);
            if self.random.once_in(4) {
                let cancelled = self.ask(Request::post(format!("{path}/{id}/cancel"), json!({}))).await;
                assert!(matches!(cancelled.status, 200 | 202), "{}", cancelled.body);
                self.note(&cancelled);
            }
            self.ended(&path, &id, usize::MAX).await;
        }
    }

    async fn submit(&mut self, path: &str, key: &str, wish: &Value) -> Answer {
        self.ask(Request::post(path.to_owned(), wish.clone()).with("Idempotency-Key", key)).await
    }

    /// Writes down a conflict; the ticket, where a place in line is kept.
    fn conflict(&self, project: &str, answer: &Answer) -> Option<String> {
        let holder = answer.body["deploymentId"].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned();
        self.crowd.tell(Told::Conflict { at: answer.at, project: project.to_owned(), holder });
        answer.body["ticket"].as_str().map(str::to_owned)
    }

    /// Waits in line. Answers whether the slot is kept.
    async fn turn(&mut self, project: &str, path: &str, ticket: &str) -> bool {
        loop {
            let answer = self.ask(Request::parked(format!("{path}/{ticket}/turn"), '?')).await;
            if answer.status == 200 {
                self.note(&answer);
                return answer.body["status"] == "PENDING";
            }
            assert_eq!(answer.status, 408, "{}", answer.body);
            self.conflict(project, &answer);
        }
    }

    fn submitted(&self, project: &str, key: &str, answer: &Answer) -> String {
        let id = answer.body["id"].as_str().unwrap().to_owned();
        self.crowd.tell(Told::Submitted { project: project.to_owned(), key: key.to_owned(), id: id.clone() });
        self.note(answer);
        id
    }

    /// Works under a lease.
    async fn hold(&mut self, path: &str, id: &str, secret: &str) {
        if let Some(former) = self.former.clone() {
            self.beat(path, id, &former, false).await;
        }
        for number in 1..=self.random.within(0..4) {
            if self.random.once_in(2) {
                self.beat(path, id, secret, true).await;
            }
            let line = format!("{id} line {number}");
            if !self.report(path, id, secret, number, line).await {
                return;
            }
        }
        if self.random.once_in(5) {
            // Nothing is heard of it until its lease is over. What it says then must change nothing.
            self.ended(path, id, usize::MAX).await;
            self.beat(path, id, secret, true).await;
            self.report(path, id, secret, 5, format!("{id} too late")).await;
            let late = Request::post(format!("{path}/{id}/finish"), json!({ "status": "SUCCEEDED" }));
            let late = self.ask(late.with("Singletrack-Lease", secret)).await;
            return self.called(&late, id, true);
        }
        let finish = Request::post(format!("{path}/{id}/finish"), json!({ "status": "SUCCEEDED" }));
        let finished = self.ask(finish.with("Singletrack-Lease", secret)).await;
        match finished.status {
            200 => self.note(&finished),
            _ => self.called(&finished, id, true),
        }
    }

    async fn beat(&mut self, path: &str, id: &str, secret: &str, is_own: bool) {
        let beat = Request::post(format!("{path}/{id}/heartbeat"), Value::Null);
        let beaten = self.ask(Request { body: None, ..beat.with("Singletrack-Lease", secret) }).await;
        self.called(&beaten, id, is_own);
    }

    /// Reports a line. Answers whether the lease holds.
    async fn report(&mut self, path: &str, id: &str, secret: &str, number: u64, line: String) -> bool {
        let report = json!({ "first": number, "reports": [{ "type": "log", "stream": "stdout", "lines": [line] }] });
        let report = Request::post(format!("{path}/{id}/reports"), report).with("Singletrack-Lease", secret);
        let reported = self.ask(report).await;
        self.called(&reported, id, true);
        let is_accepted = reported.status == 200;
        // One that was sent before may have been accepted without our knowing.
        if is_accepted || reported.is_first {
            self.crowd.tell(Told::Reported { id: id.to_owned(), line, is_accepted });
        }
        is_accepted
    }

    fn called(&self, answer: &Answer, id: &str, is_own: bool) {
        let is_accepted = answer.status == 200;
        assert!(is_accepted || answer.body["errorCode"] == "LEASE_LOST", "{}", answer.body);
        self.crowd.tell(Told::Called { at: answer.at, id: id.to_owned(), is_own, is_accepted });
    }

    /// Waits for an end, for so many windows at most.
    async fn ended(&mut self, path: &str, id: &str, windows: usize) {
        for _ in 0..windows {
            let answer = self.ask(Request::parked(format!("{path}/{id}/completion"), '?')).await;
            match answer.status {
                200 => return self.note(&answer),
                408 => {}
                other => panic!("{other}: {}", answer.body),
            }
        }
    }

    /// Has somebody read the events, from the first to the last.
    fn read(&mut self, path: &str, id: &str) {
        let mut reader = Caller::new(&self.crowd, self.random.fork(), format!("{}'s reader", self.name));
        let (path, id) = (format!("{path}/{id}/events"), id.to_owned());
        self.crowd.readers.spawn(async move {
            let (mut after, mut events) = (0, Vec::new());
            loop {
                let page = reader.ask(Request::parked(format!("{path}?after={after}"), '&')).await;
                assert_eq!(page.status, 200, "{}", page.body);
                for event in page.body["events"].as_array().unwrap() {
                    events.push((event["seq"].as_u64().unwrap(), event["type"].as_str().unwrap().to_owned()));
                }
                after = page.body["last"].as_u64().unwrap();
                if page.body["final"] == true {
                    return reader.crowd.tell(Told::Streamed { id, events });
                }
            }
        });
    }

    fn note(&self, answer: &Answer) {
        let text = |name: &str| answer.body[name].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned();
        let revision = answer.body["revision"].as_u64().unwrap();
        let (project, id, status) = (text("project"), text("id"), text("status"));
        self.crowd.tell(Told::Deployment { at: Some(answer.at), project, id, status, revision });
    }

    /// Asks any server, and another one as long as there is no definite answer.
    async fn ask(&mut self, request: Request<'_>) -> Answer {
        for attempt in 0.. {
            let base = &self.crowd.bases[self.random.below(self.crowd.bases.len())];
            let mut sending = self.crowd.http.request(request.method.clone(), format!("{base}{}", request.path));
            sending = sending.timeout(request.window + ANSWER_LIMIT);
            if let Some((name, value)) = request.header {
                sending = sending.header(name, value);
            }
            if let Some(body) = &request.body {
                sending = sending.json(body);
            }
            let sent = self.now();
            let answered = async {
                let response = sending.send().await?;
                let status = response.status().as_u16();
                Ok::<_, reqwest::Error>((status, response.bytes().await?))
            };
            match answered.await {
                Ok((502..=504, _)) | Err(_) => tokio::time::sleep(PAUSE).await,
                Ok((status, bytes)) => {
                    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                    let at = Span { sent, answered: self.now() };
                    return Answer { status, body, at, is_first: attempt == 0 };
                }
            }
        }
        unreachable!("attempts do not run out")
    }

    fn now(&self) -> u64 {
        u64::try_from(self.crowd.began.elapsed().as_nanos()).unwrap()
    }
}
