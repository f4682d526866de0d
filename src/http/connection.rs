//! One connection: hyper serves it, and lets go of it while a request only waits. See decision 0022.
//!
//! hyper keeps two buffers of 8 KiB for as long as it serves a connection, and it takes no smaller ones. A long-poll
//! spends its life waiting, with nothing to read and nothing to write. So a request that *stands by* is taken off hyper
//! together with its connection, and what is left is a socket and a wait. Its answer is a whole one, of a known length,
//! which needs no library to be written; for whatever the client sends next, hyper serves the connection again.

use std::{
    convert::Infallible,
    future::poll_fn,
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
    http::{HeaderMap, Method, Version, header, request::Parts},
    response::Response,
};
use http_body::Body as _;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::socket::{HEAD_LIMIT, HeadTimer, Socket, SocketSigns};
use crate::clock::Clock;

/// The largest head of a request that is read at all; the guard's limits are below it, so that they can be told properly.
const HEAD_BYTES: usize = 64 << 10;
/// How long after a connection was made its first request is waited for when the server ends: it is most likely on its way.
const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(1);

/// How long a client that does not read is waited for when the server ends.
const LAST_WRITE_LIMIT: Duration = Duration::from_secs(1);

/// What all connections share.
pub struct ConnectionShared {
    pub router: Router,
    pub clock: Arc<dyn Clock>,
    pub shutdown: CancellationToken,
}

/// Serves a connection to its end.
pub async fn serve(stream: TcpStream, shared: Arc<ConnectionShared>) {
    let mut socket = Socket::new(stream);
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
async fn serve_until_standby(socket: Socket, shared: Arc<ConnectionShared>) -> Option<(Socket, Waiting)> {
    let desk = Desk::of(&socket);
    let begun_at = Instant::now();
    let mut connection = http1::Builder::new()
        .timer(HeadTimer(socket.signs.clone()))
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
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
                    last_answers(&mut connection, &desk).await
                }
            }
        }
    };
    match served {
        Served::StandsBy(waiting) => {
            let parts = connection.into_parts();
            let mut socket = parts.io.into_inner();
            socket.put_back(&parts.read_buf);
            Some((socket, waiting))
        }
        Served::Ended(Ok(())) => None,
        Served::Ended(Err(error)) => {
            tracing::debug!(%error, "a connection ended early");
            None
        }
    }
}

/// Serves a connection that ends with what it has been asked. A client that does not read any more is not waited for.
async fn last_answers(connection: &mut Connection, desk: &Desk) -> Served {
    loop {
        let served = poll_fn(|context| poll_served(connection, desk, context));
        match timeout(LAST_WRITE_LIMIT, served).await {
            Ok(served) => return served,
            Err(_) if desk.signs.is_stuck() => return Served::Ended(Ok(())),
            Err(_) => {}
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
struct Desk {
    signs: Arc<SocketSigns>,
    /// Whether there was a request since hyper began to serve the connection.
    has_asked: AtomicBool,
    /// Whether the request is to stand by.
    stands_by: AtomicBool,
    /// The request, on its way off hyper.
    waiting: Mutex<Option<Waiting>>,
}

impl Desk {
    fn of(socket: &Socket) -> Arc<Desk> {
        let signs = socket.signs.clone();
        Arc::new(Desk { signs, has_asked: false.into(), stands_by: false.into(), waiting: Mutex::default() })
    }

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
    shared: Arc<ConnectionShared>,
    desk: Arc<Desk>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = AnswerUnderWay;

    fn call(&self, mut request: Request<Incoming>) -> AnswerUnderWay {
        self.desk.has_asked.store(true, Ordering::Relaxed);
        self.desk.signs.note_request();
        self.desk.stands_by.store(false, Ordering::Relaxed);
        let closes = closes_behind(&request);
        if closes.is_some() {
            request.extensions_mut().insert(self.desk.clone());
        }
        let answering: Answering = Box::pin(self.shared.router.clone().oneshot(request.map(Body::new)));
        AnswerUnderWay { answering: Some(answering), closes: closes.unwrap_or(false), desk: self.desk.clone() }
    }
}

/// An answer on its way, until its request stands by.
struct AnswerUnderWay {
    answering: Option<Answering>,
    closes: bool,
    desk: Arc<Desk>,
}

impl Future for AnswerUnderWay {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answering) = &mut self.answering else { return Poll::Pending };
        if let Poll::Ready(answer) = answering.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        let desk = &self.desk;
        if desk.stands_by.load(Ordering::Relaxed) && !desk.signs.is_write_pending() {
            let closes = self.closes;
            if let Some(answering) = self.answering.take() {
                self.desk.leave(Waiting { answering, closes });
            }
        }
        Poll::Pending
    }
}
