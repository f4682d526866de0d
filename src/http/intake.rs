//! The incoming body of a request. Reading it has time limits. A body that no handler has read is read and thrown away
//! before the answer is sent, because a client that is still sending must get the answer and not a reset. See decision
//! 0046.
//!
//! This is the one place for that: it stands in front of all handlers and of the guard.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt as _;
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How long the next piece of a body may take.
const PIECE_LIMIT: Duration = Duration::from_secs(30);
/// How long the server waits for a whole body, longer by a second for each `SLOWEST_BYTES_PER_SECOND` bytes that came.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
/// How many bytes of an unwanted body are thrown away, and for how long.
const DRAIN_BYTES: u64 = 32 << 20;
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// For how long once the server shuts down.
const LAST_DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// A body came too slowly.
#[derive(Debug, Error)]
#[error("the body did not arrive in time")]
struct TooSlow;

/// Whether reading a body failed because it came too slowly.
pub fn is_too_slow(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<TooSlow>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The unread rest of a request's body after its handler has finished.
pub struct Rest {
    left: Arc<Mutex<Option<Intake>>>,
    awaits_consent: bool,
}

/// Puts a request's body under the time limits; `None` if it has none.
pub fn watch(request: &mut Request) -> Option<Rest> {
    if request.body().is_end_stream() {
        return None;
    }
    let left = Arc::new(Mutex::new(None));
    let awaits_consent = awaits_consent(request.headers());
    let body = std::mem::take(request.body_mut());
    let intake = Intake { body, has_begun: false, is_over: false, received: 0, waited: Duration::ZERO, wait: None };
    *request.body_mut() = Body::new(Returned { intake: Some(intake), left: left.clone() });
    Some(Rest { left, awaits_consent })
}

/// Whether the client sends its body only after `100 Continue`.
fn awaits_consent(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Rest {
    /// Reads the rest, within the limits. If something is still left, the answer closes the connection, with
    /// `Connection: close`.
    pub async fn settle(self, shutdown: &CancellationToken, response: &mut Response) {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        let is_settled = match left {
            Some(intake) if intake.is_over => true,
            // A client that waits for `100 Continue` sends nothing.
            Some(intake) if !intake.has_begun && self.awaits_consent => false,
            Some(intake) if intake.body.size_hint().lower() > DRAIN_BYTES => false,
            Some(intake) => tokio::select! {
                drained = timeout(DRAIN_LIMIT, drain(intake.body)) => drained.unwrap_or(false),
                () = async { shutdown.cancelled().await; tokio::time::sleep(LAST_DRAIN_LIMIT).await } => false,
            },
            None => false,
        };
        if !is_settled {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Reads a body to its end, within the limits. Returns whether it got there.
async fn drain(mut body: Body) -> bool {
    let mut left = DRAIN_BYTES;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        match left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}

/// A body under time limits.
struct Intake {
    body: Body,
    has_begun: bool,
    /// Whether its end was reached without an error.
    is_over: bool,
    received: u64,
    /// How long we have waited for it. The time that the handler needs to use the data does not count.
    waited: Duration,
    wait: Option<BodyWait>,
}

struct BodyWait {
    begun: Instant,
    limit: Pin<Box<Sleep>>,
}

/// How long the next piece of a body may take, by the bytes received so far and the time waited for them.
fn patience(received: u64, waited: Duration) -> Duration {
    let longer = Duration::from_secs(received / SLOWEST_BYTES_PER_SECOND);
    PIECE_LIMIT.min((WHOLE_LIMIT + longer).saturating_sub(waited))
}

impl Intake {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.has_begun = true;
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            let (begun, patience) = (Instant::now(), patience(self.received, self.waited));
            let wait =
                self.wait.get_or_insert_with(|| BodyWait { begun, limit: Box::pin(sleep_until(begun + patience)) });
            ready!(wait.limit.as_mut().poll(context));
            return Poll::Ready(Some(Err(axum::Error::new(TooSlow))));
        };
        self.waited += self.wait.take().map_or(Duration::ZERO, |wait| wait.begun.elapsed());
        match &frame {
            None => self.is_over = true,
            Some(Ok(frame)) => self.received += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => {}
        }
        self.is_over |= self.body.is_end_stream();
        Poll::Ready(frame)
    }
}

/// A body that is handed back when its reader is dropped, unless it broke.
struct Returned {
    intake: Option<Intake>,
    left: Arc<Mutex<Option<Intake>>>,
}

impl HttpBody for Returned {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(intake) = &mut self.intake else { return Poll::Ready(None) };
        let frame = ready!(intake.poll(context));
        if matches!(frame, Some(Err(_))) {
            self.intake = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.intake.as_ref().is_none_or(|intake| intake.is_over)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.intake.as_ref().map(|intake| intake.body.size_hint()).unwrap_or_default()
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = self.intake.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_trickles_has_a_minute_and_one_that_comes_steadily_has_as_long_as_it_takes() {
        let patience = |received, waited| patience(received, Duration::from_secs(waited)).as_secs();
        assert_eq!(patience(0, 0), 30);
        assert_eq!(patience(1, 29), 30);
        assert_eq!(patience(2, 58), 2);
        assert_eq!(patience(60, 60), 0);
        // 32 KiB a second, for a day.
        assert_eq!(patience(86_400 * (32 << 10), 86_400), 30);
        // 8 KiB a second.
        assert_eq!(patience(120 * (8 << 10), 120), 0);
    }
}
