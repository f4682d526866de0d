//! The part of NATS' protocol that a lean client of its key-value buckets needs.

use std::{collections::VecDeque, io::Write as _, net::SocketAddr};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const HELLO: &str =
    r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"rust","version":"1"}"#;

/// A connection with two inboxes of its own: one for answers, one for what it watches.
pub struct Nats {
    stream: TcpStream,
    inbox: BytesMut,
    outbox: Vec<u8>,
    /// What its inboxes begin with.
    name: String,
    seen: VecDeque<Message>,
}

/// Something that arrived.
#[derive(Debug)]
pub struct Message {
    pub is_watched: bool,
    pub subject: String,
    pub reply: String,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Nats {
    /// `number` must be its own among all connections.
    pub async fn connect(address: SocketAddr, number: usize) -> Result<Nats> {
        let stream = TcpStream::connect(address).await.context("cannot connect to NATS")?;
        stream.set_nodelay(true)?;
        let name = format!("_INBOX.load{number}");
        let mut nats = Nats { stream, inbox: BytesMut::new(), outbox: Vec::new(), name, seen: VecDeque::new() };
        let name = &nats.name;
        write!(nats.outbox, "{HELLO}\r\nSUB {name}.answer 1\r\nSUB {name}.watch 2\r\nPING\r\n")?;
        nats.stream.write_all(&nats.outbox).await?;
        while nats.line().await? != "PONG" {}
        Ok(nats)
    }

    /// Where what it watches shall be sent to.
    pub fn watch_inbox(&self) -> String {
        format!("{}.watch", self.name)
    }

    /// Sends a message, and waits for its answer. `headers` are whole lines, each with its end.
    pub async fn ask(&mut self, subject: &str, headers: &str, body: &str) -> Result<Message> {
        self.outbox.clear();
        let name = &self.name;
        if headers.is_empty() {
            write!(self.outbox, "PUB {subject} {name}.answer {}\r\n{body}\r\n", body.len())?;
        } else {
            let head = "NATS/1.0\r\n".len() + headers.len() + 2;
            let all = head + body.len();
            write!(self.outbox, "HPUB {subject} {name}.answer {head} {all}\r\nNATS/1.0\r\n{headers}\r\n{body}\r\n")?;
        }
        self.stream.write_all(&self.outbox).await?;
        loop {
            let message = self.arrived().await?;
            if !message.is_watched {
                return Ok(message);
            }
            self.seen.push_back(message);
        }
    }

    /// The next message of those that it watches.
    pub async fn watched(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.seen.pop_front() {
                return Ok(message);
            }
            let message = self.arrived().await?;
            if message.is_watched {
                return Ok(message);
            }
        }
    }

    async fn arrived(&mut self) -> Result<Message> {
        loop {
            let line = self.line().await?;
            let words: Vec<&str> = line.split(' ').collect();
            // The subject, the number of the subscription, where to answer if anywhere, and one or two lengths.
            let (reply, head, all) = match words[..] {
                ["MSG", _, _, all] => ("", "0", all),
                ["MSG", _, _, reply, all] => (reply, "0", all),
                ["HMSG", _, _, head, all] => ("", head, all),
                ["HMSG", _, _, reply, head, all] => (reply, head, all),
                ["PING"] => {
                    self.stream.write_all(b"PONG\r\n").await?;
                    continue;
                }
                ["-ERR", ..] => bail!("NATS: {line}"),
                _ => continue,
            };
            let (head, all): (usize, usize) = (head.parse()?, all.parse()?);
            let (is_watched, subject, reply) = (words[2] == "2", words[1].to_owned(), reply.to_owned());
            while self.inbox.len() < all + 2 {
                self.more().await?;
            }
            let headers = String::from_utf8_lossy(&self.inbox[..head]).into_owned();
            let body = self.inbox[head..all].to_vec();
            self.inbox.advance(all + 2);
            return Ok(Message { is_watched, subject, reply, headers, body });
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.inbox, b"\r\n") {
                let line = self.inbox.split_to(end);
                self.inbox.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.inbox).await? == 0 {
            bail!("NATS closed the connection");
        }
        Ok(())
    }
}
