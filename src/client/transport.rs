//! Calls over HTTP. Each call has its own time limit and is repeated while its fault is temporary.
//!
//! Temporary faults are: a broken connection; 429, 502, 503, 504, and 520 to 530; a 408 that does not come from
//! Singletrack; and, after Singletrack has answered once, any answer that does not come from Singletrack. The caller
//! makes sure that repeating a call does no harm, and drops the call when the overall deadline has passed. See
//! `patience` for how long that goes on.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    credentials::{Credentials, IdTokenRequest, NoToken},
    dial::{http_client, is_loopback, root_cause},
    error::SetupError,
    fault::{Fault, ServerRefusal},
    patience::{Patience, pauses},
    trouble::{Trouble, TroubleKind, message_of},
};
use crate::{
    clock::{BootInstant, Clock, span},
    model::IdempotencyKey,
    wire::{ErrorCode, IDEMPOTENCY_HEADER, LEASE_HEADER, REPLAYED_HEADER},
};

/// Added before a duration is cut to whole seconds, so that the duration is rounded: 14.9 s are printed as 15 s.
const HALF_A_SECOND: Duration = Duration::from_millis(500);
/// How much longer than its window a call may take. A server under load answers within this time.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How much longer than its window each of the first two attempts may take. While no answer comes, each later attempt
/// may take twice as long as the one before. The limit is short, because behind a load balancer another server may
/// answer the next attempt: a suspended server must not cost a waiting client its turn.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The least time that the last attempt gets, also when hardly any patience is left.
const LAST_ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// The largest answer that is read. A page of events has at most a few MiB, so a larger answer is not from Singletrack.
const BODY_LIMIT: usize = 32 << 20;
/// The query parameter that says how long the server may park a call.
pub(super) const WAIT_PARAMETER: &str = "maxWaitSeconds";
/// The longest `Retry-After` that is obeyed; a longer one would use up the caller's deadline.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(30);

/// Called for each fault that is retried.
pub type Notice = Box<dyn Fn(&str) + Send + Sync>;

/// The way to a server.
pub(super) struct Transport {
    http: reqwest::Client,
    pub(super) base: Url,
    credentials: Credentials,
    patience: Patience,
    notice: Notice,
    clock: Arc<dyn Clock>,
    contacted: AtomicBool,
    in_doubt: AtomicBool,
    trouble: Mutex<Option<ToldTrouble>>,
}

/// A fault after which the call is being retried.
struct ToldTrouble {
    why: String,
    /// Whether the fault was already reported.
    is_told: bool,
}

/// One call, ready to be sent any number of times.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) window: Duration,
    pub(super) key: Option<&'a IdempotencyKey>,
    pub(super) body: Option<Vec<u8>>,
    /// The secret of the lease under which a worker calls.
    pub(super) lease: Option<&'a str>,
    /// How long the answer may take beyond the window.
    pub(super) limit: Duration,
    /// Whether the caller can do without the answer. Then an answer that is not from Singletrack is returned as a fault
    /// at once, without a retry.
    pub(super) is_optional: bool,
}

/// An answer of a Singletrack server.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) replayed: bool,
    /// Whether an earlier attempt at the same submit may have reached the server.
    pub(super) was_in_doubt: bool,
    pub(super) with_token: bool,
    pub(super) body: Value,
}

/// What to do about one attempt.
pub(super) enum Attempt {
    Answered(Answer),
    Again {
        trouble: Trouble,
        after: Option<Duration>,
    },
    /// An answer that is not from Singletrack, although Singletrack has answered before.
    Strange {
        why: String,
        after: Option<Duration>,
    },
    Hopeless(Fault),
}

impl Transport {
    /// The way to `base`; nothing is sent yet.
    ///
    /// # Errors
    /// The certificate file cannot be used, or the address holds a password.
    pub fn new(
        base: Url,
        credentials: Credentials,
        ca_cert: Option<&Path>,
        patience: Patience,
        notice: Notice,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        if !base.username().is_empty() || base.password().is_some() {
            return Err(SetupError::PasswordInAddress);
        }
        let http = http_client(&base, ca_cert)?;
        let trouble = Mutex::new(None);
        let (contacted, in_doubt) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Transport { http, base, credentials, patience, notice, clock, contacted, in_doubt, trouble })
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        self.base.as_str()
    }

    /// The token that is shown, or how to get one, for a process that goes on in this one's place.
    pub fn testament(&self) -> (Option<String>, Option<IdTokenRequest>) {
        self.credentials.testament()
    }

    /// Whether a token is sent over an unencrypted connection to another machine.
    pub fn exposes_token(&self) -> bool {
        self.credentials.has_token() && self.base.scheme() == "http" && !is_loopback(&self.base)
    }

    /// The fault after which the call is being retried now, if any.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|told| told.why.clone())
    }

    /// Whether the last submit may have reached the server although no answer came. If every attempt to connect was
    /// refused, the server has nothing of it, and there is nothing to wait for.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Relaxed)
    }

    /// Sends until an answer comes, or patience ends.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Answer, Fault> {
        let mut retry = self.retry();
        let look = call.look();
        let (mut url, mut window) = (&call.url, call.window);
        let mut limit = FIRST_ANSWER_LIMIT.min(call.limit);
        let mut is_first = true;
        loop {
            let (trouble, after) = match self.attempt(call, url, window + limit).await {
                Attempt::Answered(answer) => {
                    self.end_trouble();
                    return Ok(answer);
                }
                Attempt::Hopeless(fault) => return Err(fault),
                Attempt::Strange { why, .. } if call.is_optional => return Err(self.foreign(why)),
                Attempt::Strange { why, after } => (Trouble::broken(why), after),
                Attempt::Again { trouble, after } => (trouble, after),
            };
            let is_silent = trouble.is_silent();
            let left = retry.pause(trouble, after).await?;
            if is_silent {
                // The awaited event may have come meanwhile, so the next attempt asks without parking.
                (url, window) = (&look, Duration::ZERO);
                limit = if is_first { limit } else { (limit * 2).min(call.limit) };
            } else {
                (url, window) = (&call.url, call.window);
            }
            if let Some(left) = left
                && call.window.is_zero()
            {
                // A server that sends nothing must not cost more time than the patience that was announced.
                limit = limit.min(left.max(LAST_ATTEMPT_LIMIT));
            }
            is_first = false;
        }
    }

    /// Sends once. The caller decides whether and how long to retry.
    pub(super) async fn send_once(&self, call: &Call<'_>) -> Result<Answer, Fault> {
        match self.attempt(call, &call.url, call.window + call.limit).await {
            Attempt::Answered(answer) => Ok(answer),
            attempt => Err(self.fault_of(attempt)),
        }
    }

    /// Begins a series of attempts now.
    pub(super) fn retry(&self) -> Retry<'_> {
        Retry { transport: self, pauses: Box::new(pauses()), begun: self.clock.boot() }
    }

    /// Sends a request of any kind, with the token; for requests that are no [`Call`].
    pub(super) async fn send_raw(
        &self,
        method: Method,
        url: Url,
        complete: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Attempt> {
        let request = match self.credentials.header(&*self.clock).await {
            Ok(header) => authorized(self.http.request(method, url), header.as_ref()),
            Err(error) => return Err(no_token(error)),
        };
        complete(request).send().await.map_err(|error| self.failed(&error))
    }

    /// Remembers a fault, and reports it once.
    fn note_trouble(&self, trouble: &Trouble, contacted: bool, tried_for: Duration, left: Option<Duration>) {
        let mut noted = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let was_told = noted.as_ref().is_some_and(|noted| noted.is_told);
        let is_told = was_told || trouble.is_worth_telling(tried_for);
        *noted = Some(ToldTrouble { why: trouble.why.clone(), is_told });
        drop(noted);
        if is_told && !was_told {
            let limit = match left {
                Some(left) => format!("for up to {}", span(left + HALF_A_SECOND)),
                None => "until the deadline".to_owned(),
            };
            (self.notice)(&trouble.sentence(self.server(), contacted, tried_for, &limit));
        }
    }

    /// Forgets the fault, because an answer came.
    pub(super) fn end_trouble(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// One attempt, and a second one if a token that expired meanwhile was to blame.
    async fn attempt(&self, call: &Call<'_>, url: &Url, limit: Duration) -> Attempt {
        let mut is_first = true;
        loop {
            let header = match self.credentials.header(&*self.clock).await {
                Ok(header) => header,
                Err(error) => return no_token(error),
            };
            let attempt = self.attempt_with(header.as_ref(), call, url, limit).await;
            let is_refused = matches!(&attempt, Attempt::Answered(answer) if answer.status == StatusCode::UNAUTHORIZED);
            if !(is_refused && is_first && self.credentials.renew()) {
                return attempt;
            }
            is_first = false;
        }
    }

    async fn attempt_with(&self, token: Option<&HeaderValue>, call: &Call<'_>, url: &Url, limit: Duration) -> Attempt {
        // Only a submit has a key, and only a submit creates something that would have to be cancelled.
        let was_in_doubt = call.key.is_some().then(|| self.in_doubt.swap(true, Ordering::Relaxed));
        let mut request = self.http.request(call.method.clone(), url.clone()).header(ACCEPT, "application/json");
        request = request.timeout(limit);
        if let Some(key) = call.key {
            request = request.header(IDEMPOTENCY_HEADER, key.as_str());
        }
        if let Some(secret) = call.lease.and_then(|secret| HeaderValue::from_str(secret).ok()) {
            let mut secret = secret;
            secret.set_sensitive(true);
            request = request.header(LEASE_HEADER, secret);
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        match authorized(request, token).send().await {
            Ok(response) => {
                let mut attempt = self.judge(response).await;
                if let Some(was_in_doubt) = was_in_doubt {
                    match &mut attempt {
                        Attempt::Answered(answer) => {
                            self.in_doubt.store(false, Ordering::Relaxed);
                            answer.was_in_doubt = was_in_doubt;
                        }
                        Attempt::Hopeless(_) => self.in_doubt.store(false, Ordering::Relaxed),
                        Attempt::Again { .. } | Attempt::Strange { .. } => {}
                    }
                }
                attempt
            }
            Err(error) => {
                if let (Some(was_in_doubt), true) = (was_in_doubt, error.is_connect()) {
                    self.in_doubt.store(was_in_doubt, Ordering::Relaxed);
                }
                self.failed(&error)
            }
        }
    }

    /// The result of an attempt without an answer.
    fn failed(&self, error: &reqwest::Error) -> Attempt {
        let why = why(error);
        // A retry would get the same certificate.
        if why.contains("certificate") {
            return Attempt::Hopeless(self.unreachable(why));
        }
        let kind = if error.is_timeout() { TroubleKind::Silent } else { TroubleKind::Broken };
        Attempt::Again { trouble: Trouble { why, kind }, after: None }
    }

    /// Tells an answer of the server from a fault on the way to it.
    pub(super) async fn judge(&self, response: Response) -> Attempt {
        let status = response.status();
        let replayed = response.headers().get(REPLAYED_HEADER).is_some_and(|value| value == "true");
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.trim().parse().ok())
            .map(Duration::from_secs);
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("nowhere");
            let to: String = to.chars().filter(|c| !c.is_control()).take(200).collect();
            return self.not_ours(status, after, format!("it redirects to {to}, and the client follows no redirects"));
        }
        let bytes = match read_limited(response).await {
            Ok(bytes) => bytes,
            Err(why) => return Attempt::Again { trouble: Trouble::broken(why), after },
        };
        let body = serde_json::from_slice::<Value>(&bytes).ok();
        let is_problem = body.as_ref().is_some_and(|body| body.get("errorCode").is_some_and(Value::is_string));
        let passes = match status.as_u16() {
            // 520 to 530 come from a proxy that does not reach the server.
            429 | 502 | 503 | 504 | 520..=530 => true,
            // A 408 from Singletrack always carries a code; a proxy's 408 does not. Singletrack's 408 for a request
            // that came in too slowly is temporary, too.
            408 => !matches!(
                body.as_ref().and_then(code_of),
                Some(ErrorCode::StillRunning | ErrorCode::StillWaiting | ErrorCode::NothingToDo)
            ),
            _ => false,
        };
        let is_ours = is_problem || (status.is_success() && body.is_some());
        if is_ours {
            self.contacted.store(true, Ordering::Relaxed);
        }
        if passes {
            let trouble = match body.as_ref().filter(|_| is_problem) {
                Some(body) => Trouble { why: message_of(body), kind: TroubleKind::Said(code_of(body)) },
                None => Trouble::broken(format!("HTTP {status}")),
            };
            return Attempt::Again { trouble, after };
        }
        match body {
            Some(body) if is_ours => {
                let with_token = self.credentials.has_token();
                Attempt::Answered(Answer { status, replayed, was_in_doubt: false, with_token, body })
            }
            Some(_) | None => self.not_ours(status, after, format!("HTTP {status} without an answer that can be read")),
        }
    }

    /// What to do about an answer that is not from Singletrack. If Singletrack has answered before, a proxy most likely
    /// answers while the server is being restarted. Otherwise the address is most likely wrong.
    fn not_ours(&self, status: StatusCode, after: Option<Duration>, why: String) -> Attempt {
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return Attempt::Hopeless(Fault::Proxy { server: self.server().to_owned() });
        }
        if self.contacted.load(Ordering::Relaxed) {
            return Attempt::Strange { why, after };
        }
        Attempt::Hopeless(self.foreign(why))
    }

    /// Opens an event stream; one attempt. `None`: no more events will come.
    pub(super) async fn open_stream(&self, url: Url, after: u64) -> Result<Option<Response>, Fault> {
        let complete = |request: RequestBuilder| {
            let request = request.header(ACCEPT, "text/event-stream");
            if after > 0 { request.header("Last-Event-ID", after.to_string()) } else { request }
        };
        let mut sent = self.send_raw(Method::GET, url.clone(), complete).await;
        let is_refused = |response: &Response| response.status() == StatusCode::UNAUTHORIZED;
        if sent.as_ref().is_ok_and(is_refused) && self.credentials.renew() {
            sent = self.send_raw(Method::GET, url, complete).await;
        }
        let response = match sent {
            Ok(response) => response,
            Err(attempt) => return Err(self.fault_of(attempt)),
        };
        let status = response.status();
        let is_stream = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
        if status.is_success() && is_stream {
            self.contacted.store(true, Ordering::Relaxed);
            return Ok(Some(response));
        }
        // The server sends 204 only after the last event, so a first request (`after` is 0) never gets it.
        if status == StatusCode::NO_CONTENT && after > 0 {
            return Ok(None);
        }
        match self.judge(response).await {
            Attempt::Answered(answer) if answer.status.is_success() => Err(self.foreign("no event stream".to_owned())),
            attempt => Err(self.fault_of(attempt)),
        }
    }

    /// What an attempt comes to that is not repeated.
    pub(super) fn fault_of(&self, attempt: Attempt) -> Fault {
        match attempt {
            Attempt::Answered(answer) => refused(answer),
            Attempt::Again { trouble, .. } => self.gave_up(trouble),
            Attempt::Strange { why, .. } => self.foreign(why),
            Attempt::Hopeless(fault) => fault,
        }
    }

    fn gave_up(&self, trouble: Trouble) -> Fault {
        match trouble.kind {
            TroubleKind::NoToken => Fault::NoToken { why: trouble.why },
            TroubleKind::Silent | TroubleKind::Said(_) | TroubleKind::Broken => self.unreachable(trouble.why),
        }
    }

    pub(super) fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<Box<T>, Fault> {
        serde_json::from_value(answer.body)
            .map(Box::new)
            .map_err(|error| self.foreign(format!("unreadable answer: {error}")))
    }

    pub(super) fn member<T: DeserializeOwned>(&self, mut answer: Answer, name: &str) -> Result<Box<T>, Fault> {
        answer.body = answer.body.get_mut(name).map(Value::take).unwrap_or_default();
        self.read(answer)
    }

    fn unreachable(&self, why: String) -> Fault {
        Fault::Unreachable { server: self.server().to_owned(), why }
    }

    fn foreign(&self, why: String) -> Fault {
        Fault::Foreign { server: self.server().to_owned(), why }
    }
}

/// The pauses between attempts, and the end of patience.
pub(super) struct Retry<'a> {
    transport: &'a Transport,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    begun: BootInstant,
}

impl Retry<'_> {
    /// Waits until it is time for the next attempt. Returns how much patience is left; `None` if it has no end.
    ///
    /// # Errors
    /// Patience has ended.
    pub(super) async fn pause(&mut self, trouble: Trouble, after: Option<Duration>) -> Result<Option<Duration>, Fault> {
        let Retry { transport, pauses, begun } = self;
        let contacted = transport.contacted.load(Ordering::Relaxed);
        let patience = if contacted { transport.patience.later } else { Some(transport.patience.first) };
        // The last attempt is made when patience ends, not up to a pause earlier.
        let tried_for = transport.clock.boot().since(*begun);
        let left = patience.map(|patience| patience.saturating_sub(tried_for));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(transport.gave_up(trouble));
        }
        let pause = pauses.next().unwrap_or(RETRY_AFTER_LIMIT).max(after.unwrap_or_default().min(RETRY_AFTER_LIMIT));
        let pause = pause.min(left.unwrap_or(pause));
        transport.note_trouble(&trouble, contacted, tried_for, left);
        tokio::time::sleep(pause).await;
        Ok(left.map(|left| left - pause))
    }
}

impl Call<'_> {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Call {
            method,
            url,
            window: Duration::ZERO,
            key: None,
            body: None,
            lease: None,
            limit: ANSWER_LIMIT,
            is_optional: false,
        }
    }

    /// The URL of the same call without parking.
    fn look(&self) -> Url {
        let mut url = self.url.clone();
        if !self.window.is_zero() {
            let asked = self.url.query_pairs().filter(|(name, _)| name != WAIT_PARAMETER);
            url.query_pairs_mut().clear().extend_pairs(asked).append_pair(WAIT_PARAMETER, "0");
        }
        url
    }
}

fn authorized(request: RequestBuilder, token: Option<&HeaderValue>) -> RequestBuilder {
    match token {
        Some(token) => request.header(AUTHORIZATION, token.clone()),
        None => request,
    }
}

/// The result of an attempt for which there was no ID token.
fn no_token(NoToken { why, may_pass }: NoToken) -> Attempt {
    if may_pass {
        Attempt::Again { trouble: Trouble { why, kind: TroubleKind::NoToken }, after: None }
    } else {
        Attempt::Hopeless(Fault::NoToken { why })
    }
}

async fn read_limited(mut response: Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| why(&error))? {
        if bytes.len() + chunk.len() > BODY_LIMIT {
            return Err("the answer is larger than 32 MiB".to_owned());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(super) fn refusal(answer: Answer) -> ServerRefusal {
    ServerRefusal {
        status: answer.status.as_u16(),
        code: code_of(&answer.body),
        with_token: answer.with_token,
        message: message_of(&answer.body),
        body: answer.body,
    }
}

pub(super) fn refused(answer: Answer) -> Fault {
    Fault::Refused(Box::new(refusal(answer)))
}

pub(super) fn code_of(body: &Value) -> Option<ErrorCode> {
    serde_json::from_value(body.get("errorCode")?.clone()).ok()
}

/// The useful reason, without the address, because the sentence around the reason already has the address.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() { "no connection in time".to_owned() } else { "no answer in time".to_owned() };
    }
    root_cause(error)
}
