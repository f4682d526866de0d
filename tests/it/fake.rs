//! A scripted server: it answers what a test says, and remembers what it was asked. It speaks just enough HTTP, so that
//! it can also be what stands in between: mute, broken, or not Singletrack at all.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

pub const OURS: &str = "01998c6e-0000-7000-8000-000000000001";
pub const HOLDER: &str = "01998c6e-0000-7000-8000-00000000000a";
pub const SUCCESSOR: &str = "01998c6e-0000-7000-8000-00000000000c";

/// How long a test waits for a request that should have come: then it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// `POST deployments`, `GET turn`: the method and the last part of the path.
    pub fn route(&self) -> String {
        format!("{} {}", self.method, self.path.rsplit('/').next().unwrap_or_default())
    }
}

/// What to answer.
pub enum Reply {
    /// JSON with this status.
    Json(u16, Value),
    /// JSON with more headers.
    With(u16, &'static [(&'static str, &'static str)], Value),
    /// Something else.
    Raw(u16, &'static str, &'static str),
    /// An event stream, in parts.
    Stream(Vec<Part>),
    /// Nothing, until the client goes away.
    Hang,
    /// The connection ends without a word.
    Drop,
}

/// A part of a stream.
pub enum Part {
    Text(String),
    Bytes(Vec<u8>),
    /// Nothing more, until the client goes away.
    Hang,
    /// The connection ends in the middle.
    Break,
}

/// A scripted server.
pub struct Fake {
    pub url: String,
    seen: Arc<(Mutex<Vec<Request>>, Condvar)>,
}

impl Fake {
    /// Starts one that answers each request as `script` says; the number counts earlier requests of the same route.
    pub fn start(script: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound address"));
        let seen = Arc::new((Mutex::new(Vec::<Request>::new()), Condvar::new()));
        let (script, memory) = (Arc::new(script), Arc::clone(&seen));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, memory) = (Arc::clone(&script), Arc::clone(&memory));
                thread::spawn(move || {
                    let Some(request) = read_request(&stream) else { return };
                    let nth = {
                        let mut requests = memory.0.lock().unwrap();
                        let nth = requests.iter().filter(|earlier| earlier.route() == request.route()).count();
                        requests.push(request.clone());
                        memory.1.notify_all();
                        nth
                    };
                    // A client that has gone away is part of many a script.
                    let _ = answer(stream, script(&request, nth));
                });
            }
        });
        Fake { url, seen }
    }

    /// Everything that was asked.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.0.lock().unwrap().clone()
    }

    /// What was asked of one route.
    pub fn of(&self, route: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.route() == route).collect()
    }

    /// The routes in the order in which they were asked.
    pub fn routes(&self) -> Vec<String> {
        self.requests().iter().map(Request::route).collect()
    }

    /// Waits until this route was asked.
    pub fn wait_for(&self, route: &str) {
        self.asked(route, 1);
    }

    /// Waits until this route was asked so many times.
    pub fn asked(&self, route: &str, times: usize) {
        let (requests, woken) = (&self.seen.0, &self.seen.1);
        let to_come = |seen: &mut Vec<Request>| seen.iter().filter(|it| it.route() == route).count() < times;
        let (seen, timeout) = woken.wait_timeout_while(requests.lock().unwrap(), PATIENCE, to_come).unwrap();
        assert!(!timeout.timed_out(), "{route} was not asked {times} times: {seen:#?}");
    }
}

/// A deployment of `web`.
pub fn deployment(id: &str, status: &str) -> Value {
    let is_final = matches!(status, "SUCCEEDED" | "FAILED" | "CANCELLED");
    let at = |is: bool| if is { json!("2026-03-01T12:00:00.000Z") } else { Value::Null };
    json!({
        "id": id, "project": "web", "logicalId": "web", "pipeline": "deploy", "status": status, "queuePosition": 0,
        "phase": null, "progress": 0, "message": null, "ref": null, "commit": null, "actor": null, "url": null,
        "order": null, "dryRun": false, "inputs": {}, "outputs": {},
        "result": if status == "SUCCEEDED" { json!({"outputs": {"url": "https://web.example"}}) } else { Value::Null },
        "error": if matches!(status, "FAILED" | "CANCELLED") {
            json!({"code": if status == "FAILED" { "PHASE_FAILED" } else { "CANCELLED" }, "message": "as the test says"})
        } else {
            Value::Null
        },
        "supersededBy": null, "retryOf": null, "createdAt": "2026-03-01T12:00:00.000Z",
        "startedAt": at(status != "PENDING"), "endedAt": at(is_final), "cancelRequestedAt": null,
        "lastHeartbeatAt": null, "revision": 1,
    })
}

/// The same, ended for this reason.
pub fn ended(status: &str, code: &str, superseded_by: Option<&str>) -> Value {
    let mut deployment = deployment(OURS, status);
    deployment["error"]["code"] = json!(code);
    deployment["supersededBy"] = json!(superseded_by);
    deployment
}

/// A problem.
pub fn problem(status: u16, code: &str) -> Value {
    json!({
        "type": "urn:singletrack:problem:test", "title": "A test's problem", "status": status,
        "detail": format!("the server says {code}"), "instance": "/", "statusCode": status, "error": "Error",
        "message": format!("the server says {code}"), "errorCode": code, "retryable": false,
    })
}

/// 409: `HOLDER` has the slot, and a place in line is kept for us.
pub fn conflict() -> Value {
    let mut body = problem(409, "DEPLOYMENT_IN_PROGRESS");
    body["deploymentId"] = json!(HOLDER);
    body["ticket"] = json!(OURS);
    body["queuePosition"] = json!(1);
    body["relation"] = json!("other");
    body["blocking"] = json!({
        "actor": "alice", "ref": "main", "commit": null, "url": "https://ci.example/17", "pipeline": "deploy",
        "status": "RUNNING", "phase": "migrate", "message": null, "progress": 40, "startedAt": "2026-03-01T12:00:00.000Z",
        "lastHeartbeatAt": null, "cancelRequestedAt": null, "liveness": "alive",
        "eta": {"p50Seconds": 60, "p90Seconds": 90},
    });
    body
}

/// 408 of `turn`: still in line.
pub fn still_waiting() -> Value {
    let mut body = problem(408, "STILL_WAITING");
    body["deployment"] = deployment(OURS, "PENDING");
    body["deployment"]["queuePosition"] = json!(1);
    body
}

/// One event as a stream carries it.
pub fn frame(seq: u64, event: &Value) -> String {
    let mut event = event.clone();
    event["seq"] = json!(seq);
    event["at"] = json!("2026-03-01T12:00:00.000Z");
    format!("id: {seq}\nevent: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
}

/// An event with a line of output.
pub fn log(line: &str) -> Value {
    json!({"type": "log", "stream": "stdout", "phase": "build", "lines": [line]})
}

/// The last event.
pub fn complete(deployment: &Value) -> Value {
    let mut event = deployment.clone();
    event["type"] = json!("complete");
    event
}

/// A stream of nothing but the end.
pub fn stream_to(deployment: &Value) -> Reply {
    Reply::Stream(vec![Part::Text(frame(1, &complete(deployment)))])
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

fn answer(mut stream: TcpStream, reply: Reply) -> std::io::Result<()> {
    let (status, content_type, headers, body) = match reply {
        Reply::Json(status, body) => (status, "application/json", &[][..], body.to_string()),
        Reply::With(status, headers, body) => (status, "application/json", headers, body.to_string()),
        Reply::Raw(status, content_type, body) => (status, content_type, &[][..], body.to_owned()),
        Reply::Stream(parts) => return answer_stream(stream, parts),
        Reply::Hang => return hang(stream),
        Reply::Drop => return Ok(()),
    };
    let mut head = format!("HTTP/1.1 {status} Test\r\ncontent-type: {content_type}\r\nconnection: close\r\n");
    head.push_str(&format!("content-length: {}\r\n", body.len()));
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(format!("{head}\r\n{body}").as_bytes())
}

fn answer_stream(mut stream: TcpStream, parts: Vec<Part>) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\
                connection: close\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    for part in parts {
        let bytes = match part {
            Part::Text(text) => text.into_bytes(),
            Part::Bytes(bytes) => bytes,
            Part::Hang => return hang(stream),
            Part::Break => return Ok(()),
        };
        stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
        stream.write_all(&bytes)?;
        stream.write_all(b"\r\n")?;
    }
    stream.write_all(b"0\r\n\r\n")
}

fn hang(mut stream: TcpStream) -> std::io::Result<()> {
    // Ends when the client closes its side.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(|_| ())
}
