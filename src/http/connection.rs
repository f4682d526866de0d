//! One connection: hyper serves it, and releases it while a request only waits. See decision 0022.
//!
//! hyper keeps two buffers of 8 KiB for as long as it serves a connection, and it takes no smaller ones. A long-poll
//! spends its life waiting, with nothing to read and nothing to write. So a request that *stands by* is taken off hyper
//! together with its connection. Only a socket and a wait are left. The answer has a known length and is written as a
//! whole, so no library is needed to write it. For the client's next request, hyper serves the connection again.

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
use super::{guard::PeerAddress, tls};
use crate::{
    clock::Clock,
    config::{LiveConfig, Tls},
};

/// The largest head of a request that is read at all. The guard's limits are lower, so that it can answer with a proper
/// error.
const HEAD_BYTES: usize = 64 << 10;
/// How long a new connection's first request is waited for when the server ends, because it is most likely on its way.
const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(1);

/// How long the server's end waits for a client that does not read.
const LAST_WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The values that all connections share.
pub struct ConnectionShared {
    pub router: Router,
    pub clock: Arc<dyn Clock>,
    pub shutdown: CancellationToken,
    /// Whose `[tls]` new connections are served with.
    pub config: LiveConfig,
}

/// Serves a connection to its end.
pub async fn serve(stream: TcpStream, shared: Arc<ConnectionShared>) {
    let peer = stream.peer_addr().ok().map(|address| PeerAddress(address.ip().to_canonical()));
    let Some(mut socket) = open(stream, &shared).await else { return };
    // Boxed, so that its memory is freed while the connection stands by.
    while let Some((mut left, waiting)) = Box::pin(serve_until_standby(socket, peer, shared.clone())).await {
        let Some(answer) = stand_by(&mut left, waiting.answering).await else { return };
        // The server ends or wants the client on another connection, so the client must not send its next request on
        // this one.
        let closes =
            waiting.closes || answer.headers().contains_key(header::CONNECTION) || shared.shutdown.is_cancelled();
        match left.tell(answer, closes, shared.clock.wall()).await {
            Ok(()) if !closes && left.is_asked_more(&shared.shutdown).await => socket = left,
            Ok(()) => {
                left.close().await;
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "a connection ended early");
                return;
            }
        }
    }
}

/// A connection as its first request needs it; `None` if it speaks no TLS, and must.
async fn open(stream: TcpStream, shared: &ConnectionShared) -> Option<Socket> {
    let server = shared.config.now().tls.as_ref().map(Tls::server);
    match server {
        // Boxed, because only the handshake needs that memory.
        Some(server) => Box::pin(tls::accept(stream, server, &shared.shutdown)).await,
        None => Some(Socket::new(stream)),
    }
}

/// Serves a connection until it has ended, or until its request stands by.
async fn serve_until_standby(
    socket: Socket,
    peer: Option<PeerAddress>,
    shared: Arc<ConnectionShared>,
) -> Option<(Socket, Waiting)> {
    let desk = Desk::of(&socket);
    let begun_at = Instant::now();
    let mut connection = http1::Builder::new()
        .timer(HeadTimer(socket.signs.clone()))
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), Service { shared: shared.clone(), desk: desk.clone(), peer });
    let served = tokio::select! {
        served = poll_fn(|context| poll_served(&mut connection, &desk, context)) => served,
        () = shared.shutdown.cancelled() => {
            // hyper closes a connection at once that seems idle, and a request that is on its way would be lost with
            // it.
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

/// Serves a connection that ends after the requests that have arrived. A client that no longer reads is not waited for.
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

/// Drives a connection until hyper need not serve it any longer.
fn poll_served(connection: &mut Connection, desk: &Desk, context: &mut Context<'_>) -> Poll<Served> {
    match Pin::new(connection).poll(context) {
        Poll::Ready(ended) => Poll::Ready(Served::Ended(ended)),
        Poll::Pending => desk.take_waiting().map_or(Poll::Pending, |waiting| Poll::Ready(Served::StandsBy(waiting))),
    }
}

/// Why hyper stopped serving a connection.
enum Served {
    Ended(hyper::Result<()>),
    StandsBy(Waiting),
}

/// Waits for the answer; `None` if the client hangs up first.
async fn stand_by(socket: &mut Socket, answering: Answering) -> Option<Response> {
    tokio::select! {
        biased;
        answer = answering => {
            let Ok(answer) = answer;
            Some(answer)
        }
        () = socket.hung_up() => None,
    }
}

/// The router's future answer to a request.
type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// A request that stands by.
struct Waiting {
    answering: Answering,
    /// Whether the client wants the connection closed after the answer.
    closes: bool,
}

/// How a connection and its present request exchange signals. A connection has one request at a time.
struct Desk {
    signs: Arc<SocketSigns>,
    /// Whether a request came since hyper began to serve the connection.
    has_asked: AtomicBool,
    /// Whether the request wants to stand by.
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
    /// From now on the request needs no buffers while it waits.
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

/// Whether the connection ends with the answer to this request; `None` if hyper must decide that: the request's body
/// may still come, or the client uses an older HTTP or an uncommon feature.
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

/// The service that hyper calls for answers.
struct Service {
    shared: Arc<ConnectionShared>,
    desk: Arc<Desk>,
    peer: Option<PeerAddress>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = AnswerUnderWay;

    fn call(&self, mut request: Request<Incoming>) -> AnswerUnderWay {
        self.desk.has_asked.store(true, Ordering::Relaxed);
        self.desk.signs.note_request();
        self.desk.stands_by.store(false, Ordering::Relaxed);
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let closes = closes_behind(&request);
        if closes.is_some() {
            request.extensions_mut().insert(self.desk.clone());
        }
        let answering: Answering = Box::pin(self.shared.router.clone().oneshot(request.map(Body::new)));
        AnswerUnderWay { answering: Some(answering), closes: closes.unwrap_or(false), desk: self.desk.clone() }
    }
}

/// An answer in preparation, until its request stands by.
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
