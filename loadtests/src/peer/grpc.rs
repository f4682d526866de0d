//! The part of gRPC that a lean client of etcd needs: calls with one request, and one or several answers, over one
//! HTTP/2 connection.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use prost::Message;
use tokio::net::TcpStream;

/// What stands before each message: whether it is compressed, which ours never are, and its length.
const FRAME_HEADER: usize = 5;

/// A connection, which ends with the last of its clones.
#[derive(Clone)]
pub struct Grpc {
    sender: SendRequest<Bytes>,
    authority: String,
}

/// An open call, from which answers come.
pub struct Answers {
    // Dropping it would reset the call.
    _questions: SendStream<Bytes>,
    body: RecvStream,
    inbox: BytesMut,
}

impl Grpc {
    pub async fn connect(address: SocketAddr) -> Result<Grpc> {
        let stream = TcpStream::connect(address).await.context("cannot connect to etcd")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        // It ends by itself once nobody can send on it; what goes wrong there, each call that it breaks tells.
        tokio::spawn(async move { _ = connection.await });
        Ok(Grpc { sender, authority: address.to_string() })
    }

    /// A call with one answer.
    pub async fn call<Q: Message, A: Message + Default>(&mut self, method: &str, question: &Q) -> Result<A> {
        let mut answers = self.open(method, question, true).await?;
        answers.next().await
    }

    /// A call with several answers, whose side of the questions stays open unless this is the `only` one.
    pub async fn open<Q: Message>(&mut self, method: &str, question: &Q, only: bool) -> Result<Answers> {
        let request = http::Request::post(format!("http://{}/{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        std::future::poll_fn(|context| self.sender.poll_ready(context)).await?;
        let (response, mut questions) = self.sender.send_request(request, false)?;
        questions.send_data(frame(question), only)?;
        let response = response.await?;
        if let Some(status) = response.headers().get("grpc-status").filter(|status| *status != "0") {
            bail!("etcd answered {method} with status {status:?}: {:?}", response.headers().get("grpc-message"));
        }
        Ok(Answers { _questions: questions, body: response.into_body(), inbox: BytesMut::new() })
    }
}

impl Answers {
    pub async fn next<A: Message + Default>(&mut self) -> Result<A> {
        loop {
            if let Some(length) = self.inbox.get(1..FRAME_HEADER).map(|mut header| header.get_u32() as usize)
                && self.inbox.len() >= FRAME_HEADER + length
            {
                self.inbox.advance(FRAME_HEADER);
                return Ok(A::decode(self.inbox.split_to(length))?);
            }
            let Some(part) = self.body.data().await else {
                let trailers = self.body.trailers().await?;
                bail!("etcd gave no answer: {:?}", trailers.as_ref().and_then(|trailers| trailers.get("grpc-message")));
            };
            let part = part?;
            self.body.flow_control().release_capacity(part.len())?;
            self.inbox.extend_from_slice(&part);
        }
    }
}

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A growing buffer has room for every message.
    let _ = message.encode(&mut frame);
    frame.freeze()
}
