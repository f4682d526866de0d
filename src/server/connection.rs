//! One connection: hyper serves it, and lets go of it while a request only waits.
//!
//! hyper keeps two buffers of 8 KiB for as long as it serves a connection, and it takes no smaller ones. A long-poll
//! spends its life waiting, with nothing to read and nothing to write. So a request that *stands by* is taken off hyper
//! together with its connection, and what is left is a socket and a wait. Its answer is a whole one, of a known length,
//! which needs no library to be written; for whatever the client sends next, hyper serves the connection again.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io::{self, IoSlice, Write as _},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, Request},
    http::{HeaderMap, HeaderName, Method, Version, header, request::Parts, response},
    response::Response,
};
use bytes::{Buf as _, Bytes};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::clock::Clock;

/// Headers that trickle slower than this are given up.
const HEADER_READ_LIMIT: Duration = Duration::from_secs(10);
/// The largest head of a request that is read at all; the guard's limits are below it, so that they can be told properly.
const HEAD_LIMIT: usize = 64 << 10;
/// How long after a connection was made its first request is waited for when the server ends: it is most likely on its way.
const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(1);

static DATES: DateTimePrinter = DateTimePrinter::new();

/// Room for the head of an answer.
const ANSWER_HEAD_BYTES: usize = 256;

/// What all connections share.
pub struct Shared {
    pub router: Router,
    pub clock: Arc<dyn Clock>,
    pub shutdown: CancellationToken,
}

/// Serves a connection to its end.
pub async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Answers are small and somebody waits for each.
    let _ = stream.set_nodelay(true);
    let mut socket = Socket { stream, ahead: Bytes::new(), desk: Arc::default() };
    // Boxed, so that a connection that stands by is rid of it.
    while let Some((mut left, waiting)) = Box::pin(serve_until_standby(socket, shared.clone())).await {
        let Some(answer) = stand_by(&left, waiting.answering).await else { return };
        // A client that must go on elsewhere does not send its next request here.
        let closes =
            waiting.closes || answer.headers().contains_key(header::CONNECTION) || shared.shutdown.is_cancelled();
        match left.tell(answer, closes, shared.clock.wall()).await {
            Ok(()) if !closes && left.is_asked_more(&shared.shutdown).await => socket = left,
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(%error, "a connection ended early");
                return;
            }
        }
    }
}

/// Serves a connection until it has ended, or until its request stands by.
async fn serve_until_standby(socket: Socket, shared: Arc<Shared>) -> Option<(Socket, Waiting)> {
    let desk = socket.desk.clone();
    desk.has_asked.store(false, Ordering::Relaxed);
    let begun_at = Instant::now();
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_LIMIT)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(socket), Service { shared: shared.clone(), desk: desk.clone() });
    let served = tokio::select! {
        served = poll_fn(|context| poll_served(&mut connection, &desk, context)) => served,
        () = shared.shutdown.cancelled() => {
            // One that seems idle is closed at once, and a request that is on its way would be lost with it.
            let first = poll_fn(|context| match poll_served(&mut connection, &desk, context) {
                Poll::Pending if desk.has_asked.load(Ordering::Relaxed) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
                Poll::Ready(served) => Poll::Ready(Some(served)),
            });
            match timeout_at(begun_at + FIRST_REQUEST_LIMIT, first).await {
                Ok(Some(served)) => served,
                Ok(None) | Err(_) => {
                    Pin::new(&mut connection).graceful_shutdown();
                    poll_fn(|context| poll_served(&mut connection, &desk, context)).await
                }
            }
        }
    };
    match served {
        Served::StandsBy(waiting) => {
            let parts = connection.into_parts();
            let mut socket = parts.io.into_inner();
            // Copied, since what is left of hyper's buffer would keep all of it.
            socket.ahead = Bytes::copy_from_slice(&parts.read_buf);
            Some((socket, waiting))
        }
        Served::Ended(Ok(())) => None,
        Served::Ended(Err(error)) => {
            tracing::debug!(%error, "a connection ended early");
            None
        }
    }
}

type Connection = http1::Connection<TokioIo<Socket>, Service>;

/// Drives a connection until there is a reason to serve it no longer.
fn poll_served(connection: &mut Connection, desk: &Desk, context: &mut Context<'_>) -> Poll<Served> {
    match Pin::new(connection).poll(context) {
        Poll::Ready(ended) => Poll::Ready(Served::Ended(ended)),
        Poll::Pending => desk.take_waiting().map_or(Poll::Pending, |waiting| Poll::Ready(Served::StandsBy(waiting))),
    }
}

/// Why hyper serves a connection no longer.
enum Served {
    Ended(hyper::Result<()>),
    StandsBy(Waiting),
}

/// Waits for the answer; `None` if the client hangs up before.
async fn stand_by(socket: &Socket, answering: Answering) -> Option<Response> {
    tokio::select! {
        biased;
        answer = answering => {
            let Ok(answer) = answer;
            Some(answer)
        }
        () = socket.hung_up() => None,
    }
}

/// How the router answers a request.
type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// A request that stands by.
struct Waiting {
    answering: Answering,
    /// Whether its client wants the connection closed behind the answer.
    closes: bool,
}

/// Where a connection and the request that it carries leave each other word. One request is answered after the other.
#[derive(Default)]
struct Desk {
    /// Whether there was a request since hyper began to serve the connection.
    has_asked: AtomicBool,
    /// Whether the request is to stand by.
    stands_by: AtomicBool,
    /// Whether something has been written that the socket did not take yet: as long as that is so, only hyper knows it.
    is_write_pending: AtomicBool,
    /// The request, on its way off hyper.
    waiting: Mutex<Option<Waiting>>,
}

impl Desk {
    fn leave(&self, waiting: Waiting) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(waiting);
    }

    fn take_waiting(&self) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// For handlers whose requests mostly wait.
pub struct Standby(Option<Arc<Desk>>);

impl Standby {
    /// From now on the request needs no buffers, whenever it waits.
    pub fn begin(self) {
        if let Some(desk) = self.0 {
            desk.stands_by.store(true, Ordering::Relaxed);
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Standby {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Standby(parts.extensions.remove::<Arc<Desk>>()))
    }
}

/// Whether the connection ends with the answer to this request; `None` if that is for hyper to say, as where its body may still
/// come, or where its client speaks an older HTTP or wishes for something uncommon.
fn closes_behind(request: &Request<Incoming>) -> Option<bool> {
    let is_plain =
        request.method() == Method::GET && request.version() == Version::HTTP_11 && request.body().is_end_stream();
    if is_plain { closes(request.headers()) } else { None }
}

fn closes(headers: &HeaderMap) -> Option<bool> {
    let mut wishes = headers.get_all(header::CONNECTION).iter();
    match (wishes.next().map(|wish| wish.as_bytes().to_ascii_lowercase()).as_deref(), wishes.next()) {
        (None | Some(b"keep-alive"), None) => Some(false),
        (Some(b"close"), None) => Some(true),
        (Some(_), None) | (_, Some(_)) => None,
    }
}

/// What hyper asks for answers.
struct Service {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, mut request: Request<Incoming>) -> Call {
        self.desk.has_asked.store(true, Ordering::Relaxed);
        self.desk.stands_by.store(false, Ordering::Relaxed);
        let closes = closes_behind(&request);
        if closes.is_some() {
            request.extensions_mut().insert(self.desk.clone());
        }
        let answering: Answering = Box::pin(self.shared.router.clone().oneshot(request.map(Body::new)));
        Call { answering: Some(answering), closes: closes.unwrap_or(false), desk: self.desk.clone() }
    }
}

/// An answer on its way, until its request stands by.
struct Call {
    answering: Option<Answering>,
    closes: bool,
    desk: Arc<Desk>,
}

impl Future for Call {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answering) = &mut self.answering else { return Poll::Pending };
        if let Poll::Ready(answer) = answering.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        let desk = &self.desk;
        if desk.stands_by.load(Ordering::Relaxed) && !desk.is_write_pending.load(Ordering::Relaxed) {
            let closes = self.closes;
            if let Some(answering) = self.answering.take() {
                self.desk.leave(Waiting { answering, closes });
            }
        }
        Poll::Pending
    }
}

/// A socket, and what is to be read before it.
struct Socket {
    stream: TcpStream,
    ahead: Bytes,
    desk: Arc<Desk>,
}

impl Socket {
    /// Resolves when the client hangs up. One who has sent more already is not seen to do so, as with hyper.
    async fn hung_up(&self) {
        if !self.ahead.is_empty() {
            return pending().await;
        }
        match self.stream.peek(&mut [0]).await {
            Ok(0) | Err(_) => {}
            Ok(_) => pending().await,
        }
    }

    /// Writes an answer that is there as a whole.
    async fn tell(&mut self, answer: Response, closes: bool, now: Timestamp) -> io::Result<()> {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let head = head(&parts, body.len(), closes, now)?;
        self.stream.write_all_buf(&mut head.as_slice().chain(body)).await
    }

    /// Whether the client sends something else, before it has been idle for too long.
    async fn is_asked_more(&self, shutdown: &CancellationToken) -> bool {
        if !self.ahead.is_empty() {
            return true;
        }
        let mut byte = [0];
        tokio::select! {
            biased;
            sent = timeout(HEADER_READ_LIMIT, self.stream.peek(&mut byte)) => matches!(sent, Ok(Ok(1..))),
            () = shutdown.cancelled() => false,
        }
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.desk.is_write_pending.store(written.is_pending(), Ordering::Relaxed);
        written
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
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let length = self.ahead.len().min(into.remaining());
        into.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.note(written)
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
