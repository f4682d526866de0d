//! Requests as raw bytes, because no well-behaved client sends these.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{TestServer, openapi};

/// An answer as it came.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    /// In lower case.
    pub headers: BTreeMap<String, String>,
    pub text: String,
    /// Null where the text is no JSON.
    pub body: Value,
}

impl RawAnswer {
    /// The status and the error code.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.body["errorCode"].as_str().unwrap_or_default())
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl TestServer {
    /// A connection to it.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.authority()).await.unwrap()
    }

    /// Its host and port.
    pub fn authority(&self) -> &str {
        self.base.strip_prefix("http://").unwrap()
    }

    /// Sends a request of these lines, to which it adds `Host` and `Connection: close`, and this body.
    pub async fn raw(&self, lines: &[&[u8]], body: &[u8]) -> RawAnswer {
        let mut connection = self.connect().await;
        let mut request = lines.join(&b"\r\n"[..]);
        request.extend_from_slice(format!("\r\nHost: {}\r\nConnection: close\r\n\r\n", self.authority()).as_bytes());
        request.extend_from_slice(body);
        // The server may answer, and close, before it has read everything.
        let _ = connection.write_all(&request).await;
        let answer = read_to_end(&mut connection).await;
        let line = String::from_utf8_lossy(lines[0]).into_owned();
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
        // The HTTP library answers a request that is not HTTP, without a body.
        if !answer.text.is_empty() {
            let kind = answer.headers.get("content-type").map_or("", String::as_str);
            let path = path.split('?').next().unwrap_or_default();
            openapi::check(method, path, answer.status, kind, &answer.body);
        }
        answer
    }
}

/// Reads an answer that ends with its connection.
pub async fn read_to_end(connection: &mut TcpStream) -> RawAnswer {
    let mut bytes = Vec::new();
    let _ = connection.read_to_end(&mut bytes).await;
    answer(&bytes)
}

/// Reads an answer that states its length, and nothing after it.
pub async fn read_one(connection: &mut TcpStream) -> RawAnswer {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(connection.read_u8().await.unwrap());
    }
    let length: usize = answer(&bytes).header("content-length").parse().unwrap();
    let head = bytes.len();
    bytes.resize(head + length, 0);
    connection.read_exact(&mut bytes[head..]).await.unwrap();
    answer(&bytes)
}

fn answer(bytes: &[u8]) -> RawAnswer {
    let text = std::str::from_utf8(bytes).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { panic!("no answer, but {text:?}") };
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    RawAnswer {
        status: status.unwrap(),
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
        text: body.to_owned(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}
