//! A target of notifications: real sockets, answers as a test wants them, and a record of what came.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

/// How long a test waits for a request that must come. Much longer than it takes.
const PATIENCE: Duration = Duration::from_secs(100);

/// What it answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This status, these headers, and this body.
    Http(u16, &'static str, String),
    /// Nothing, until the client goes away.
    Hang,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Reply::Http(status, "", "{}".to_owned())
    }

    pub fn json(body: &Value) -> Self {
        Reply::Http(200, "", body.to_string())
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    /// With the query.
    pub target: String,
    /// With names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// `deployment.started`, of a webhook.
    pub fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap_or_default().to_owned()
    }

    pub fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub fn sent_at(&self) -> i64 {
        self.headers["webhook-timestamp"].parse().unwrap()
    }

    /// Checks the signature, with another implementation than the server's.
    pub fn assert_signed_with(&self, secret: &[u8]) {
        let message = [format!("{}.{}.", self.id(), self.headers["webhook-timestamp"]).as_bytes(), &self.body].concat();
        let wanted = format!("v1,{}", data_encoding::BASE64.encode(&hmac_sha256(secret, &message)));
        assert!(self.headers["webhook-signature"].split(' ').any(|it| it == wanted), "{:?}", self.headers);
    }
}

/// RFC 2104, by hand.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    assert!(key.len() <= 64);
    let pad = |with: u8| (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect::<Vec<_>>();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// The target.
pub struct Receiver {
    pub url: String,
    pub port: u16,
    shared: Arc<Shared>,
    received: AsyncMutex<mpsc::UnboundedReceiver<Received>>,
    dir: TempDir,
}

struct Shared {
    /// The next answers, by how the target of the request begins; then 200.
    replies: Mutex<Vec<(String, VecDeque<Reply>)>>,
    tell: mpsc::UnboundedSender<Received>,
}

/// The secret of each receiver.
pub const SECRET: &str = "a secret of the tests";

impl Receiver {
    pub fn start() -> Self {
        Receiver::at("127.0.0.1:0")
    }

    pub fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { replies: Mutex::default(), tell });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                // A client that has gone away is no mistake.
                thread::spawn(move || _ = shared.serve(stream));
            }
        });
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), format!("{SECRET}\n")).unwrap();
        Receiver { url: format!("http://127.0.0.1:{port}"), port, shared, received: AsyncMutex::new(received), dir }
    }

    /// The file with its secret.
    pub fn secret_file(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    /// What it answers next to requests for what begins so.
    pub fn answer(&self, begin: &str, replies: impl IntoIterator<Item = Reply>) {
        self.shared.replies.lock().unwrap().push((begin.to_owned(), replies.into_iter().collect()));
    }

    /// A rule for webhooks to this path, with more keys.
    pub fn webhook(&self, name: &str, more: &str) -> String {
        format!(
            "[[notify]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"{}/{name}\"\nsecret_file = \"{}\"\nallow_private = true\n{more}\n",
            self.url,
            self.secret_file().display()
        )
    }

    /// A rule of another kind.
    pub fn rule(&self, name: &str, kind: &str, more: &str) -> String {
        format!(
            "[[notify]]\nname = \"{name}\"\nkind = \"{kind}\"\nurl = \"{}/{name}\"\nallow_private = true\n{more}\n",
            self.url
        )
    }

    /// The next request.
    pub async fn next(&self) -> Received {
        let next = async { self.received.lock().await.recv().await };
        tokio::time::timeout(PATIENCE, next).await.expect("no request came").expect("it serves")
    }

    /// The next requests.
    pub async fn some(&self, count: usize) -> Vec<Received> {
        let mut some = Vec::new();
        while some.len() < count {
            some.push(self.next().await);
        }
        some
    }

    /// Whether a request is there that was not looked at.
    pub async fn has_more(&self) -> Option<Received> {
        self.received.lock().await.try_recv().ok()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
        let mut headers = BTreeMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let reply = {
            let mut replies = self.replies.lock().unwrap();
            let found = replies.iter_mut().find(|(begin, left)| target.starts_with(begin.as_str()) && !left.is_empty());
            found.and_then(|(_, left)| left.pop_front()).unwrap_or_else(|| Reply::status(200))
        };
        // A test that has ended hears nothing.
        let _ = self.tell.send(Received { method, target, headers, body });
        match reply {
            Reply::Http(status, headers, body) => stream.write_all(
                format!(
                    "HTTP/1.1 {status} Test\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            ),
            Reply::Hang => reader.read_to_end(&mut Vec::new()).map(|_| ()),
        }
    }
}
