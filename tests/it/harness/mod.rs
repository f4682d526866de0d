//! A real server for each test: the real binary, its own directory, a port of its own, and an end that leaves nothing.

pub mod openapi;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use reqwest::{Client, Method, RequestBuilder, Response};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub const SINGLETRACK: &str = env!("CARGO_BIN_EXE_singletrack");

/// A running `singletrack serve`.
pub struct TestServer {
    dir: TempDir,
    child: Option<Child>,
    /// While it is held, pipelines wait at the gate.
    gate: Option<File>,
    pub base: String,
    pub client: Client,
}

/// An answer, read whole and held against the API description.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub body: Value,
}

impl TestServer {
    /// Starts a server with this configuration and a fresh store.
    pub fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("singletrack.toml"), config).unwrap();
        let client = Client::builder().no_proxy().build().unwrap();
        let mut server = TestServer { dir, child: None, gate: None, base: String::new(), client };
        server.boot();
        server
    }

    /// A server whose project `web` has a pipeline that waits at a gate: it runs until `open_gate`.
    pub fn gated() -> Self {
        let mut server = TestServer::start(&gated_config(""));
        server.close_gate();
        server
    }

    /// The directory in which it runs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it, again if need be, on the same store. A restart keeps the port, as a supervised server does.
    pub fn boot(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let listen = self.base.strip_prefix("http://").unwrap_or("127.0.0.1:0").to_owned();
        let mut child = self.command().args(["--listen", &listen]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ");
        let Some(address) = address else { panic!("the server did not start: {line:?}, {:?}", child.wait()) };
        self.base = address.to_owned();
        // Whatever else it prints must not block it.
        thread::spawn(move || _ = stdout.read_to_end(&mut Vec::new()));
        self.child = Some(child);
    }

    /// The command that starts it, for tests of how it does not start.
    pub fn command(&self) -> Command {
        let mut command = Command::new(SINGLETRACK);
        command
            .args(["serve", "--config", "singletrack.toml", "--store", "sqlite:test.db"])
            .current_dir(self.dir.path())
            .env("TEST_DIR", self.dir.path())
            .env_remove("SINGLETRACK_TOKEN")
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
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.child.take().expect("it runs").wait().unwrap()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
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

    /// One of `web`'s deployments, or what is below it.
    pub async fn deployment(&self, id: &str, below: &str) -> Answer {
        self.get(&format!("/v1/projects/web/deployments/{id}{below}")).await
    }

    /// Cancels one of `web`'s deployments.
    pub async fn cancel(&self, id: &str, body: Value) -> Answer {
        self.post(&format!("/v1/projects/web/deployments/{id}/cancel"), body).await
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
    pub fn open_gate(&mut self) {
        self.gate = None;
    }

    /// Holds up the pipelines that come to the gate from now on.
    pub fn close_gate(&mut self) {
        let gate = File::create(self.path("gate")).unwrap();
        flock(&gate, FlockOperation::LockExclusive).unwrap();
        self.gate = Some(gate);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
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

/// Sends a request and holds the answer against the API description.
pub async fn send(request: RequestBuilder) -> Answer {
    let request = request.build().unwrap();
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = Client::builder().no_proxy().build().unwrap().execute(request).await.unwrap();
    read(&method, &path, response).await
}

/// Reads an answer and holds it against the API description.
pub async fn read(method: &Method, path: &str, response: Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    openapi::check(method.as_str(), path, status, kind, &body);
    Answer { status, headers, text, body }
}
