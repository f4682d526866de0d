//! The part of Redis' protocol that one client with one request at a time needs. This client is as lean as the load
//! client for HTTP, so that no peer is slower only because its client is heavier than ours.

use std::{io::Write as _, net::SocketAddr};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection.
pub struct Resp {
    stream: TcpStream,
    inbox: BytesMut,
    outbox: Vec<u8>,
}

/// An answer.
#[derive(Debug, PartialEq)]
pub enum Value {
    Nothing,
    Number(i64),
    Text(String),
    List(Vec<Value>),
}

impl Resp {
    pub async fn connect(address: SocketAddr) -> Result<Resp> {
        let stream = TcpStream::connect(address).await.context("cannot connect to Redis")?;
        stream.set_nodelay(true)?;
        Ok(Resp { stream, inbox: BytesMut::new(), outbox: Vec::new() })
    }

    /// Sends a command, and reads its answer; an error that Redis tells is ours.
    pub async fn call(&mut self, words: &[&str]) -> Result<Value> {
        self.outbox.clear();
        write!(self.outbox, "*{}\r\n", words.len())?;
        for word in words {
            write!(self.outbox, "${}\r\n{word}\r\n", word.len())?;
        }
        self.stream.write_all(&self.outbox).await?;
        loop {
            if let Some((value, length)) = parse(&self.inbox)? {
                self.inbox.advance(length);
                return Ok(value);
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                bail!("Redis closed the connection");
            }
        }
    }
}

/// The first value and its length, if all of it is there.
fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
        return Ok(None);
    };
    let line = std::str::from_utf8(bytes.get(1..end).context("Redis answered with an empty line")?)?;
    let mut length = end + 2;
    let value = match bytes[0] {
        b'+' => Value::Text(line.to_owned()),
        b'-' => bail!("Redis: {line}"),
        b':' => Value::Number(line.parse()?),
        b'$' | b'*' if line == "-1" => Value::Nothing,
        b'$' => {
            let text = line.parse::<usize>()?;
            if bytes.len() < length + text + 2 {
                return Ok(None);
            }
            let value = Value::Text(String::from_utf8_lossy(&bytes[length..length + text]).into_owned());
            length += text + 2;
            value
        }
        b'*' => {
            let mut list = Vec::new();
            for _ in 0..line.parse()? {
                let Some((value, part)) = parse(&bytes[length..])? else {
                    return Ok(None);
                };
                list.push(value);
                length += part;
            }
            Value::List(list)
        }
        other => bail!("Redis answered with {:?}", char::from(other)),
    };
    Ok(Some((value, length)))
}

#[cfg(test)]
mod tests {
    use super::{Value, parse};

    #[test]
    fn a_value_is_read_once_all_of_it_is_there() {
        let whole = b"*2\r\n$4\r\nslot\r\n:7\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]).unwrap(), None);
        }
        let list = Value::List(vec![Value::Text("slot".to_owned()), Value::Number(7)]);
        assert_eq!(parse(whole).unwrap(), Some((list, whole.len())));
        assert_eq!(parse(b"$-1\r\n").unwrap(), Some((Value::Nothing, 5)));
        assert!(parse(b"-WRONGTYPE\r\n").is_err());
    }
}
