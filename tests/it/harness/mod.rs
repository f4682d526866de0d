//! A real server for each test: the real binary, its own directory, a port of its own, and an end that leaves no
//! process behind.

pub mod balancer;
pub mod client;
pub mod forbid;
pub mod issuer;
pub mod mounts;
pub mod nginx;
pub mod openapi;
pub mod placed;
pub mod postgres;
pub mod processes;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod stream;
pub mod terminal;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Mutex,
    thread,
};

use reqwest::{Client, Method, RequestBuilder, Response};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal},
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use placed::Place;

/// The binary under test.
pub const SINGLETRACK: &str = env!("CARGO_BIN_EXE_singletrack");

/// A port on which nobody listens, for as long as it is held: bound, so that no other test can get it.
pub struct DeafPort {
    pub port: u16,
    _bound: tokio::net::TcpSocket,
}

impl DeafPort {
    pub fn take() -> Self {
        DeafPort::at(0).expect("some port is free")
    }

    /// This port of 127.0.0.1, unless somebody has it.
    pub fn at(port: u16) -> Option<Self> {
        let bound = tokio::net::TcpSocket::new_v4().unwrap();
        bound.bind((std::net::Ipv4Addr::LOCALHOST, port).into()).ok()?;
        Some(DeafPort { port: bound.local_addr().unwrap().port(), _bound: bound })
    }
}

/// A running `singletrack serve`.
pub struct TestServer {
    dir: TempDir,
    child: Option<Child>,
    /// While it is held, pipelines wait at the gate.
    gate: Mutex<Option<File>>,
    /// The store that it uses.
    store: String,
    place: Place,
    pub base: String,
    pub client: Client,
}

/// An answer, read whole and checked against the API description.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub body: Value,
}

impl TestServer {
    /// Starts a server with this configuration and a fresh store.
    pub fn start(config: &str) -> Self {
        TestServer::start_on("sqlite:test.db", config)
    }

    /// Starts one of several servers of this store.
    pub fn start_on(store: &str, config: &str) -> Self {
        TestServer::start_at(Place::default(), store, config)
    }

    /// The same, at another place.
    pub fn start_at(place: Place, store: &str, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("singletrack.toml"), with_test_dir(config)).unwrap();
        // A connection for each request, so that none is stale after a restart.
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let mut server = TestServer {
            dir,
            child: None,
            gate: Mutex::default(),
            store: store.to_owned(),
            place,
            base: String::new(),
            client,
        };
        server.boot();
        server
    }

    /// A server whose project `web` has a pipeline that waits at a gate: it runs until `open_gate`.
    pub fn gated() -> Self {
        TestServer::gated_with("")
    }

    /// The same with `more` at the top of its configuration.
    pub fn gated_with(more: &str) -> Self {
        let server = TestServer::start(&gated_config(more));
        server.close_gate();
        server
    }

    /// The directory in which it runs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in that directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it, or starts it again, on the same store. A restart keeps the port, as a supervised server does.
    pub fn boot(&mut self) {
        let command = self.command();
        self.boot_by(command, self.log_file());
    }

    /// The same with another standard error than `server.log`.
    pub fn boot_logging_to(&mut self, stderr: Stdio) {
        let command = self.command();
        self.boot_by(command, stderr);
    }

    /// The same with changes to the command that starts it.
    pub fn boot_with(&mut self, change: impl FnOnce(&mut Command)) {
        let mut command = self.command();
        change(&mut command);
        self.boot_by(command, self.log_file());
    }

    fn log_file(&self) -> Stdio {
        OpenOptions::new().create(true).append(true).open(self.path("server.log")).unwrap().into()
    }

    /// The same with this many file descriptors.
    pub fn boot_with_descriptors(&mut self, count: u32) {
        let command = self.command();
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={count}:{count}")).arg(command.get_program()).args(command.get_args());
        limited.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        self.boot_by(limited, self.log_file());
    }

    fn boot_by(&mut self, mut command: Command, stderr: Stdio) {
        assert!(self.child.is_none(), "it runs already");
        let listen = self.base.strip_prefix("http://").unwrap_or(&self.place.listen).to_owned();
        let mut child = command.args(["--listen", &listen]).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ");
        let Some(address) = address else {
            panic!("the server did not start: {line:?}, {:?}\n{}", child.wait(), self.log())
        };
        self.base = address.to_owned();
        // Read the rest of its output, so that a full pipe does not block it.
        thread::spawn(move || _ = stdout.read_to_end(&mut Vec::new()));
        self.child = Some(child);
    }

    /// Everything that it wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("server.log")).unwrap()
    }

    /// Gives it another configuration, for its next start or reload. No reader ever sees half of it.
    pub fn configure(&self, config: &str) {
        fs::write(self.path("singletrack.toml.new"), with_test_dir(config)).unwrap();
        fs::rename(self.path("singletrack.toml.new"), self.path("singletrack.toml")).unwrap();
    }

    /// The command that starts it, for tests in which the start fails.
    pub fn command(&self) -> Command {
        self.tool(&["serve", "--config", "singletrack.toml", "--store", &self.store])
    }

    /// Another command of the program, in the server's directory.
    pub fn tool(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(SINGLETRACK);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("TEST_DIR", self.dir.path())
            .env_remove("SINGLETRACK_TOKEN")
            .env_remove("SINGLETRACK_LOG")
            .stdin(Stdio::null());
        command
    }

    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("it runs").id();
        Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exited()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.child.as_ref().expect("it runs"), signal);
    }

    /// Waits until it ends by itself.
    pub fn exited(&mut self) -> ExitStatus {
        self.child.take().expect("it runs").wait().unwrap()
    }

    /// The state of `web`.
    pub async fn project(&self) -> Value {
        self.get("/v1/projects/web").await.body
    }

    /// All of `web`'s deployments, newest first.
    pub async fn deployments(&self) -> Vec<Value> {
        let page = self.get("/v1/projects/web/deployments?limit=100").await.body;
        assert_eq!(page["nextCursor"], Value::Null, "there are more");
        page["deployments"].as_array().unwrap().clone()
    }

    /// Submits to `web`; returns the id of the new deployment.
    pub async fn accepted(&self, body: Value) -> String {
        let answer = self.submit(body).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.id()
    }

    /// Submits a deployment that stops at the gate; returns its id when it is there.
    pub async fn at_the_gate(&self) -> String {
        let id = self.accepted(json!({})).await;
        self.event(&id, |event| event["lines"][0] == "at the gate").await;
        id
    }

    /// Takes a ticket for `web` under this key.
    pub async fn ticket(&self, key: &str) -> String {
        let answer = self.submit_keyed(key, json!({ "onConflict": "wait", "pipeline": "quick" })).await;
        assert_eq!(answer.status, 409, "{}", answer.text);
        answer.body["ticket"].as_str().unwrap().to_owned()
    }

    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::POST, path).json(&body)).await
    }

    /// Submits to `web`.
    pub async fn submit(&self, body: Value) -> Answer {
        self.post("/v1/projects/web/deployments", body).await
    }

    /// Submits to `web` under a key.
    pub async fn submit_keyed(&self, key: &str, body: Value) -> Answer {
        let request = self.request(Method::POST, "/v1/projects/web/deployments");
        send(request.header("Idempotency-Key", key).json(&body)).await
    }

    /// One of `web`'s deployments, or a path below it.
    pub async fn deployment(&self, id: &str, below: &str) -> Answer {
        self.get(&format!("/v1/projects/web/deployments/{id}{below}")).await
    }

    /// Cancels one of `web`'s deployments.
    pub async fn cancel(&self, id: &str, body: Value) -> Answer {
        self.post(&format!("/v1/projects/web/deployments/{id}/cancel"), body).await
    }

    /// The audit log's entries about a deployment but its submit: each action and its detail.
    pub fn audit(&self, id: &str) -> Vec<(String, String)> {
        let store = rusqlite::Connection::open(self.path("test.db")).unwrap();
        let mut rows = store
            .prepare("SELECT action, detail FROM audit WHERE lower(hex(deployment)) = ?1 AND action <> 'submit' ORDER BY number")
            .unwrap();
        let id = id.replace('-', "");
        let rows = rows.query_map([id], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// The callers in the audit log's entries about a deployment, in order.
    pub fn callers(&self, id: &str) -> Vec<String> {
        let store = rusqlite::Connection::open(self.path("test.db")).unwrap();
        let mut rows =
            store.prepare("SELECT caller FROM audit WHERE lower(hex(deployment)) = ?1 ORDER BY number").unwrap();
        let rows = rows.query_map([id.replace('-', "")], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Waits until this many long-polls and streams are parked.
    pub async fn parked(&self, count: usize) {
        let line = format!("singletrack_parked_requests {count}");
        while !self.get("/metrics").await.text.lines().any(|known| known == line) {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the end of one of `web`'s deployments.
    pub async fn finished(&self, id: &str) -> Value {
        loop {
            let answer = self.deployment(id, "/completion?maxWaitSeconds=60").await;
            if answer.status == 200 {
                return answer.body;
            }
            assert_eq!(answer.status, 408, "{}", answer.text);
        }
    }

    /// Waits until one of `web`'s deployments has reported an event of this type for which `is_it` holds.
    pub async fn event(&self, id: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut after = 0;
        loop {
            let page = self.deployment(id, &format!("/events?after={after}&maxWaitSeconds=60")).await;
            assert_eq!(page.status, 200, "{}", page.text);
            if let Some(event) = page.body["events"].as_array().unwrap().iter().find(|event| is_it(event)) {
                return event.clone();
            }
            assert_ne!(page.body["final"], true, "it ended without that event: {}", page.text);
            after = page.body["last"].as_u64().unwrap();
        }
    }

    /// Lets the gated pipelines pass, from now on.
    pub fn open_gate(&self) {
        *self.gate.lock().unwrap() = None;
    }

    /// Holds up the pipelines that come to the gate from now on.
    pub fn close_gate(&self) {
        let mut closed = self.gate.lock().unwrap();
        assert!(closed.is_none(), "it is closed");
        let gate = File::create(self.path("gate")).unwrap();
        flock(&gate, FlockOperation::LockExclusive).unwrap();
        *closed = Some(gate);
    }
}

impl Answer {
    /// The `id` in the body.
    pub fn id(&self) -> String {
        self.body["id"].as_str().unwrap().to_owned()
    }

    /// The status and the error code.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.body["errorCode"].as_str().unwrap_or_default())
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Drop for TestServer {
    #[expect(clippy::print_stderr, reason = "a failed test shows what its server had to say")]
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("the server's log:\n{}", fs::read_to_string(self.path("server.log")).unwrap_or_default());
            return;
        }
        let log = self.log();
        assert!(!log.contains("panicked"), "the server panicked:\n{log}");
        // I12: every process that it started ends with it.
        let mark = format!("TEST_DIR={}", self.dir.path().display());
        assert!(processes::all_gone(&mark), "processes outlived their server:\n{log}");
    }
}

/// The configuration, with the server's folder passed on to phases. It is added to the first line, so that the line
/// numbers in error messages do not change.
fn with_test_dir(config: &str) -> String {
    format!("pass_env = [\"TEST_DIR\"]{}{config}", if config.starts_with('\n') { "" } else { "\n" })
}

/// A configuration with a project `web`, whose `deploy` waits at a gate and whose `quick` ends at once, and with `more`
/// at its top.
pub fn gated_config(more: &str) -> String {
    format!(
        r#"
{more}

[projects.web.pipelines.deploy]
timeout = "5m"
[[projects.web.pipelines.deploy.phases]]
name = "gate"
run = '''
echo "at the gate"
flock --shared "$TEST_DIR/gate" true
'''

[[projects.web.pipelines.quick.phases]]
name = "only"
run = "echo done"

[[projects.web.pipelines.broken.phases]]
name = "only"
run = "echo 'it is broken' >&2; exit 3"
"#
    )
}

/// A new token, and the table that makes a server know it.
pub fn a_token() -> (String, String) {
    let made = Command::new(SINGLETRACK).args(["token", "new", "--name", "ci"]).output().unwrap();
    assert!(made.status.success());
    let (token, told) = (String::from_utf8(made.stdout).unwrap(), String::from_utf8(made.stderr).unwrap());
    (token.trim().to_owned(), told[told.find("[[tokens]]").unwrap()..].to_owned())
}

/// A client that shows this token, with a connection for each request.
pub fn client_with(token: &str) -> Client {
    let shown = [(reqwest::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())];
    let headers = shown.into_iter().collect();
    Client::builder().no_proxy().pool_max_idle_per_host(0).default_headers(headers).build().unwrap()
}

/// Sends a request and checks the answer against the API description.
pub async fn send(request: RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = client.execute(request).await.unwrap();
    read(&method, &path, response).await
}

/// Reads an answer and checks it against the API description.
pub async fn read(method: &Method, path: &str, response: Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    openapi::check(method.as_str(), path, status, kind, &body);
    Answer { status, headers, text, body }
}
