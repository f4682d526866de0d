//! What the log says of each answer: at `debug`, and of refused requests and of the server's own faults more loudly, so
//! many a second and no more.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::http::{Method, StatusCode};
use tokio::time::Instant;

use super::error::echo;
use crate::{model::Identity, wire::ErrorCode};

/// How many lines of a kind are logged in a second. One hostile client must not fill the log's disk: 10 lines of 300
/// bytes a second are 260 MB a day.
const LINES_PER_SECOND: u32 = 10;

/// The answered request.
pub struct Answered<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub status: StatusCode,
    pub code: Option<ErrorCode>,
    pub caller: Option<&'a Identity>,
    pub address: Option<IpAddr>,
    pub begun_at: Option<Instant>,
}

/// How many lines of each kind were logged in the present second.
#[derive(Default)]
pub struct AccessLog {
    refusals: Mutex<Rate>,
    faults: Mutex<Rate>,
}

#[derive(Default)]
struct Rate {
    second_began_at: Option<Instant>,
    told_count: u32,
    left_out_count: u64,
}

impl Rate {
    /// How many lines were left out since the last one, if one may be logged now.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.second_began_at.is_none_or(|began_at| now.duration_since(began_at) >= Duration::from_secs(1)) {
            (self.second_began_at, self.told_count) = (Some(now), 0);
        }
        if self.told_count >= LINES_PER_SECOND {
            self.left_out_count += 1;
            return None;
        }
        self.told_count += 1;
        Some(std::mem::take(&mut self.left_out_count))
    }
}

impl AccessLog {
    /// When a request began, if that will be asked.
    pub fn begin() -> Option<Instant> {
        tracing::enabled!(tracing::Level::DEBUG).then(Instant::now)
    }

    /// Logs an answer.
    pub fn note(&self, answered: &Answered<'_>) {
        let Answered { method, path, status, code, caller, address, begun_at } = answered;
        let path = || echo(path);
        let (caller, address) = (|| caller.map(Identity::to_string), || address.map(|address| address.to_string()));
        let rate = match (status.as_u16(), code) {
            (401 | 403 | 429, _) => &self.refusals,
            // A server that drains says so to every client, which then asks again.
            (500.., code) if *code != Some(ErrorCode::ShuttingDown) => &self.faults,
            (status, _) => {
                let elapsed_ms =
                    begun_at.map_or(0, |begun_at| u64::try_from(begun_at.elapsed().as_millis()).unwrap_or(u64::MAX));
                tracing::debug!(%method, path = path(), status, code = code.map(ErrorCode::as_text), caller = caller(), address = address(), elapsed_ms, "answered");
                return;
            }
        };
        let left_out_count = rate.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now());
        let Some(left_out_count) = left_out_count else { return };
        let (status, path, code) = (status.as_u16(), path(), code.map(ErrorCode::as_text));
        let (caller, address) = (caller(), address());
        if status >= 500 {
            tracing::warn!(%method, path, status, code, caller, address, left_out_count, "answered a request with a fault");
        } else {
            tracing::info!(%method, path, status, code, caller, address, left_out_count, "refused a request");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refusals_in_a_second_a_few_are_logged_and_the_rest_is_counted() {
        let (mut rate, now) = (Rate::default(), Instant::now());
        let told = (0..1000).filter(|_| rate.next(now).is_some()).count();
        assert_eq!(told, usize::try_from(LINES_PER_SECOND).unwrap());
        let later = now + Duration::from_secs(1);
        assert_eq!(rate.next(later), Some(990));
        assert_eq!(rate.next(later), Some(0));
    }
}
