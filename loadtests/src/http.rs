//! A lean HTTP/1.1 client for raw load: one connection, one request at a time, hardly an allocation. The scenarios
//! about clients use the project's own client. For raw load that client would be the bottleneck, not the server.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BytesMut};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The most headers that an answer may have.
const HEADERS_LIMIT: usize = 32;

/// A connection.
pub struct Http {
    address: SocketAddr,
    stream: TcpStream,
    host: String,
    inbox: BytesMut,
    outbox: Vec<u8>,
}

async fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An answer, read whole.
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

enum Length {
    Known(usize),
    Chunked,
}

impl Reply {
    /// The body as JSON.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("HTTP {}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// Fails unless the status is this.
    pub fn expect(self, status: u16) -> Result<Reply> {
        if self.status == status { Ok(self) } else { bail!("{}", String::from_utf8_lossy(&self.body)) }
    }
}

impl Http {
    pub async fn connect(address: SocketAddr) -> Result<Http> {
        let (stream, host) = (open(address).await?, address.to_string());
        Ok(Http { address, stream, host, inbox: BytesMut::new(), outbox: Vec::new() })
    }

    /// Sends a request, and reads its answer.
    pub async fn call(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Reply> {
        self.send(method, path, headers, body).await?;
        self.reply().await
    }

    /// Sends a request. `headers` are whole lines, each with its end.
    pub async fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<()> {
        use std::io::Write as _;
        self.outbox.clear();
        let host = &self.host;
        write!(self.outbox, "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}")?;
        if method != "GET" {
            write!(self.outbox, "content-length: {}\r\n", body.len())?;
        }
        if !body.is_empty() && !headers.contains("content-type") {
            self.outbox.extend_from_slice(b"content-type: application/json\r\n");
        }
        self.outbox.extend_from_slice(b"\r\n");
        self.outbox.extend_from_slice(body);
        // Servers close what has been idle for long, as it is while ten thousand others are being opened.
        if matches!(self.stream.try_read(&mut [0]), Ok(0)) {
            self.stream = open(self.address).await?;
        }
        self.stream.write_all(&self.outbox).await?;
        Ok(())
    }

    /// Reads an answer to its end.
    pub async fn reply(&mut self) -> Result<Reply> {
        let (status, length) = self.head().await?;
        let body = match length {
            Length::Known(length) => {
                self.fill(length).await?;
                self.inbox.split_to(length).to_vec()
            }
            Length::Chunked => self.chunks().await?,
        };
        Ok(Reply { status, body })
    }

    async fn head(&mut self) -> Result<(u16, Length)> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
            let mut head = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(end) = head.parse(&self.inbox)? {
                let status = head.code.unwrap_or_default();
                let mut length = if status == 204 || status == 304 { Length::Known(0) } else { Length::Chunked };
                for header in head.headers.iter() {
                    if header.name.eq_ignore_ascii_case("content-length") {
                        length = Length::Known(std::str::from_utf8(header.value)?.parse()?);
                    }
                }
                self.inbox.advance(end);
                return Ok((status, length));
            }
            self.more().await?;
        }
    }

    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match memchr::memmem::find(&self.inbox, b"\r\n") {
                    Some(end) => break end,
                    None => self.more().await?,
                }
            };
            let length = usize::from_str_radix(std::str::from_utf8(&self.inbox[..end])?.trim(), 16)?;
            self.inbox.advance(end + 2);
            self.fill(length + 2).await?;
            body.extend_from_slice(&self.inbox[..length]);
            self.inbox.advance(length + 2);
            if length == 0 {
                return Ok(body);
            }
        }
    }

    async fn fill(&mut self, length: usize) -> Result<()> {
        while self.inbox.len() < length {
            self.more().await?;
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.inbox).await? == 0 {
            bail!("the connection was closed before the answer ended");
        }
        Ok(())
    }
}
