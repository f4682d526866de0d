//! A connection's socket, with time limits against a head that trickles, an idle client, and a client that does not
//! read.

use std::{
    future::pending,
    io::{self, IoSlice, Write as _},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    http::{HeaderName, header, response},
    response::Response,
};
use bytes::{Buf, Bytes};
use http_body_util::BodyExt as _;
use hyper::rt::{Sleep as HyperSleep, Timer};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// How long the head of a request may take. A new connection has the same time for its first byte.
pub const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may keep its connection idle after an answer. It is longer than the 60 s of load balancers,
/// because a balancer must be the first to close, not the last to learn that the connection is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(75);
/// How long a client may take none of the written data.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// How long a good-bye may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

static DATES: DateTimePrinter = DateTimePrinter::new();

/// Buffer size for the head of an answer.
const ANSWER_HEAD_BYTES: usize = 256;

/// The observed state of a socket.
#[derive(Default)]
pub struct SocketSigns {
    /// Whether data was written that the socket did not take yet. As long as that is so, only hyper has the data.
    is_write_pending: AtomicBool,
    /// Whether data was written since the last check.
    has_written: AtomicBool,
    /// Whether data has come since the wait for the next head began.
    has_head_begun: AtomicBool,
    has_ever_asked: AtomicBool,
}

impl SocketSigns {
    pub fn is_write_pending(&self) -> bool {
        self.is_write_pending.load(Ordering::Relaxed)
    }

    /// Whether the client took none of the pending data since the last check.
    pub fn is_stuck(&self) -> bool {
        !self.has_written.swap(false, Ordering::Relaxed) && self.is_write_pending()
    }

    /// Notes that a request has come.
    pub fn note_request(&self) {
        self.has_ever_asked.store(true, Ordering::Relaxed);
    }
}

/// The timer by which hyper waits for heads. An idle client has more time than one that has begun to send.
pub struct HeadTimer(pub Arc<SocketSigns>);

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn HyperSleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn HyperSleep>> {
        let signs = self.0.clone();
        signs.has_head_begun.store(false, Ordering::Relaxed);
        let is_known = signs.has_ever_asked.load(Ordering::Relaxed);
        let idle_until = if is_known { deadline + (IDLE_LIMIT - HEAD_LIMIT) } else { deadline };
        Box::pin(HeadSleep { signs, sleep: Box::pin(sleep_until(idle_until.into())), has_begun: false })
    }
}

struct HeadSleep {
    signs: Arc<SocketSigns>,
    sleep: Pin<Box<Sleep>>,
    has_begun: bool,
}

impl HyperSleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.has_begun && self.signs.has_head_begun.load(Ordering::Relaxed) {
            self.has_begun = true;
            let until = (Instant::now() + HEAD_LIMIT).into();
            if until < self.sleep.deadline() {
                self.sleep.as_mut().reset(until);
            }
        }
        self.sleep.as_mut().poll(context)
    }
}

/// A connection, and bytes that are to be read before the connection's own.
pub struct Socket {
    stream: Carrier,
    ahead: Bytes,
    pub signs: Arc<SocketSigns>,
}

/// What is written goes through here. The limits are below TLS, where a client takes data or does not.
enum Carrier {
    Plain(Guarded),
    Encrypted(Box<TlsStream<Guarded>>),
}

/// A TCP connection that gives up on a client which takes no data.
pub struct Guarded {
    stream: TcpStream,
    signs: Arc<SocketSigns>,
    /// Ends a write that is stuck.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub fn new(stream: TcpStream) -> Self {
        // Answers are small, and a client waits for each.
        let _ = stream.set_nodelay(true);
        Guarded { stream, signs: Arc::default(), stuck: None }
    }

    pub fn signs(&self) -> Arc<SocketSigns> {
        self.signs.clone()
    }

    /// Gives up on a client that takes no data.
    fn watch(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.signs.is_write_pending.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.signs.has_written.store(true, Ordering::Relaxed);
            self.stuck = None;
            return written;
        }
        ready!(self.stuck.get_or_insert_with(|| Box::pin(sleep(WRITE_LIMIT))).as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Socket {
    pub fn new(stream: TcpStream) -> Self {
        let guarded = Guarded::new(stream);
        Socket { signs: guarded.signs(), stream: Carrier::Plain(guarded), ahead: Bytes::new() }
    }

    /// A connection after its handshake.
    pub fn encrypted(stream: TlsStream<Guarded>, signs: Arc<SocketSigns>) -> Self {
        Socket { signs, stream: Carrier::Encrypted(Box::new(stream)), ahead: Bytes::new() }
    }

    /// Puts bytes that were read already before the socket's next bytes.
    pub fn put_back(&mut self, ahead: &[u8]) {
        // Copied, because a slice of hyper's buffer would keep the whole buffer in memory.
        self.ahead = Bytes::copy_from_slice(ahead);
    }

    /// Resolves when the client hangs up. If the client has sent more data already, its hang-up is not seen, as with
    /// hyper.
    pub async fn hung_up(&mut self) {
        if !self.ahead.is_empty() || self.sends().await {
            pending().await
        }
    }

    /// Waits for the client's next data. Returns whether it came, and no hang-up.
    async fn sends(&mut self) -> bool {
        match &mut self.stream {
            Carrier::Plain(plain) => matches!(plain.stream.peek(&mut [0]).await, Ok(1..)),
            Carrier::Encrypted(tls) => {
                // Only what is decrypted tells a request from a good-bye. Until something comes, no buffer is needed.
                if !matches!(tls.get_ref().0.stream.peek(&mut [0]).await, Ok(1..)) {
                    return false;
                }
                let mut byte = [0];
                let came = matches!(tls.read(&mut byte).await, Ok(1..));
                if came {
                    self.ahead = Bytes::copy_from_slice(&byte);
                }
                came
            }
        }
    }

    /// Writes a whole answer.
    pub async fn tell(&mut self, answer: Response, closes: bool, now: Timestamp) -> io::Result<()> {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let head = head(&parts, body.len(), closes, now)?;
        let mut answer = Buf::chain(head.as_slice(), body);
        self.write_all_buf(&mut answer).await?;
        self.flush().await
    }

    /// Says good-bye, where the protocol has one.
    pub async fn close(&mut self) {
        if matches!(self.stream, Carrier::Encrypted(_)) {
            // A client that does not listen any more loses nothing.
            let _ = timeout(CLOSE_LIMIT, self.shutdown()).await;
        }
    }

    /// Waits for the client's next data. Returns whether it came before the idle limit.
    pub async fn is_asked_more(&mut self, shutdown: &CancellationToken) -> bool {
        if !self.ahead.is_empty() {
            return true;
        }
        tokio::select! {
            biased;
            sent = timeout(IDLE_LIMIT, self.sends()) => matches!(sent, Ok(true)),
            () = shutdown.cancelled() => false,
        }
    }
}

/// The head of an answer with a body of this length.
fn head(parts: &response::Parts, length: usize, closes: bool, now: Timestamp) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(ANSWER_HEAD_BYTES);
    let (status, reason) = (parts.status.as_str(), parts.status.canonical_reason().unwrap_or_default());
    write!(head, "HTTP/1.1 {status} {reason}\r\n")?;
    let is_ours = |name: &HeaderName| *name == header::CONTENT_LENGTH || *name == header::CONNECTION;
    for (name, value) in parts.headers.iter().filter(|(name, _)| !is_ours(name)) {
        head.extend_from_slice(name.as_ref());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let date = DATES.timestamp_to_rfc9110_string(&now).map_err(io::Error::other)?;
    let connection = if closes { "connection: close\r\n" } else { "" };
    write!(head, "content-length: {length}\r\ndate: {date}\r\n{connection}\r\n")?;
    Ok(head)
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return match &mut self.stream {
                Carrier::Plain(plain) => Pin::new(plain).poll_read(context, into),
                Carrier::Encrypted(tls) => Pin::new(tls).poll_read(context, into),
            };
        }
        self.signs.has_head_begun.store(true, Ordering::Relaxed);
        let length = self.ahead.len().min(into.remaining());
        into.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Carrier::Plain(plain) => Pin::new(plain).poll_write(context, bytes),
            Carrier::Encrypted(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Carrier::Plain(plain) => Pin::new(plain).poll_write_vectored(context, bytes),
            Carrier::Encrypted(tls) => Pin::new(tls).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Carrier::Plain(plain) => plain.is_write_vectored(),
            Carrier::Encrypted(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Carrier::Plain(plain) => Pin::new(plain).poll_flush(context),
            Carrier::Encrypted(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Carrier::Plain(plain) => Pin::new(plain).poll_shutdown(context),
            Carrier::Encrypted(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.signs.has_head_begun.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
