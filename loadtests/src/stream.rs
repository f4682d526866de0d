//! A watcher of a stream of server-sent events: a state machine over the bytes as they come, because a thousand
//! watchers must not be the bottleneck.
//!
//! Each message carries its number between two `#`. A number that does not follow the last number is an error.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::subject::Get;

/// How much is read at once: a page of a flood.
const READ_LIMIT: usize = 16 << 10;
/// The longest head of an answer.
const HEAD_LIMIT: usize = 4 << 10;

/// A message that was read.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub number: u64,
    pub read_at: Instant,
}

impl Message {
    /// What is published as this message.
    pub fn text(number: u64) -> String {
        format!("#{number}#")
    }
}

/// An open stream.
pub struct Watcher {
    stream: TcpStream,
    numbers: Numbers,
    messages: Vec<Message>,
}

/// Finds the numbers in a stream of bytes.
#[derive(Default)]
struct Numbers {
    /// The number that is being read.
    open: Option<u64>,
    last: u64,
}

impl Numbers {
    /// Goes on with these bytes; `found` hears of each number.
    fn take(&mut self, bytes: &[u8], mut found: impl FnMut(u64)) -> Result<()> {
        let mut rest = bytes;
        loop {
            match self.open {
                None => {
                    let Some(at) = memchr::memchr(b'#', rest) else { return Ok(()) };
                    rest = &rest[at + 1..];
                    self.open = Some(0);
                }
                Some(number) => {
                    let Some((byte, tail)) = rest.split_first() else { return Ok(()) };
                    rest = tail;
                    match byte {
                        b'0'..=b'9' => self.open = Some(number * 10 + u64::from(byte - b'0')),
                        b'#' if number == self.last + 1 => {
                            (self.open, self.last) = (None, number);
                            found(number);
                        }
                        b'#' => bail!("message {number} came after {}", self.last),
                        byte => bail!("there is no number, but {byte:?}"),
                    }
                }
            }
        }
    }
}

impl Watcher {
    /// Opens a stream; answers when its head is there.
    pub async fn open(address: SocketAddr, get: &Get) -> Result<Watcher> {
        let mut stream = TcpStream::connect(address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let request = format!("GET {} HTTP/1.1\r\nhost: {address}\r\n{}\r\n", get.path, get.headers);
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        let end = loop {
            if let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") {
                break end;
            }
            if head.len() > HEAD_LIMIT || stream.read_buf(&mut head).await? == 0 {
                bail!("the stream has no head: {}", String::from_utf8_lossy(&head));
            }
        };
        if !head.starts_with(b"HTTP/1.1 200") {
            bail!("{}", String::from_utf8_lossy(&head));
        }
        let mut watcher = Watcher { stream, numbers: Numbers::default(), messages: Vec::new() };
        watcher.take(&head[end..])?;
        Ok(watcher)
    }

    /// Reads on, until this message has come.
    pub async fn read_until(&mut self, last: u64) -> Result<()> {
        // On the stack of nobody: a thousand of them are small while they wait.
        let mut buffer = Vec::with_capacity(READ_LIMIT);
        while self.numbers.last < last {
            buffer.clear();
            if self.stream.read_buf(&mut buffer).await? == 0 {
                bail!("the stream ended after message {}", self.numbers.last);
            }
            self.take(&buffer)?;
        }
        Ok(())
    }

    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let read_at = Instant::now();
        self.numbers.take(bytes, |number| self.messages.push(Message { number, read_at }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&str]) -> Result<Vec<u64>> {
        let (mut numbers, mut found) = (Numbers::default(), Vec::new());
        for part in parts {
            numbers.take(part.as_bytes(), |number| found.push(number))?;
        }
        Ok(found)
    }

    #[test]
    fn numbers_are_found_wherever_the_stream_is_cut() {
        assert_eq!(read(&["id: 1\ndata: #1#\n\nda", "ta: #", "2#\n\n#3", "#"]).expect("they are in order"), [1, 2, 3]);
    }

    #[test]
    fn a_message_that_is_lost_or_comes_twice_is_found() {
        assert!(read(&["#1##3#"]).is_err());
        assert!(read(&["#1##1#"]).is_err());
        assert!(read(&["#1#", "#x#"]).is_err());
    }
}
