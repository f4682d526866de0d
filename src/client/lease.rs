//! The lessor of `run` and agents: a server, over HTTP.

use std::time::Duration;

use super::calls::{Connection, Fault, Worker};
use crate::{
    exec::lease::{Lessor, Renewed, Reply},
    model::{Report, Verdict},
    wire::{ErrorCode, FinishRequest, ReportsRequest},
};

/// The server that granted a lease.
#[derive(Clone, Copy)]
pub struct HttpLessor<'a> {
    connection: &'a Connection,
    worker: Worker<'a>,
}

impl<'a> HttpLessor<'a> {
    /// The server at the other end of `connection`, for calls under this lease.
    pub fn new(connection: &'a Connection, worker: Worker<'a>) -> Self {
        HttpLessor { connection, worker }
    }
}

impl Lessor for HttpLessor<'_> {
    async fn heartbeat(&self, park: Duration, limit: Duration) -> Reply<Renewed> {
        let renewed = self.connection.heartbeat(self.worker, park, limit).await;
        reply(renewed.map(|answer| Renewed {
            is_cancelled: answer.cancel_requested,
            reason: answer.reason,
            is_token_revoked: answer.token_revoked,
        }))
    }

    async fn report(&self, first: u64, reports: &[Report]) -> Reply<u64> {
        let request = ReportsRequest { first, reports: reports.to_vec() };
        reply(self.connection.reports(self.worker, &request).await.map(|answer| answer.last))
    }

    async fn finish(&self, verdict: &Verdict) -> Reply<()> {
        reply(self.connection.finish(self.worker, &FinishRequest::from(verdict.clone())).await.map(|_| ()))
    }
}

/// What a server's answer means for the holder of a lease.
fn reply<T>(answer: Result<T, Fault>) -> Reply<T> {
    match answer {
        Ok(value) => Reply::Done(value),
        Err(Fault::Refused(refusal)) => match (refusal.code, refusal.status) {
            // A server that does not know the deployment has lost it, together with the lease.
            (Some(ErrorCode::LeaseLost | ErrorCode::NotFound), _) => Reply::Lost,
            (Some(ErrorCode::ReportGap), _) => {
                Reply::Gap { last: refusal.body.get("last").and_then(serde_json::Value::as_u64).unwrap_or(0) }
            }
            // A token may be corrected, and a server may recover.
            (_, 401 | 403 | 408 | 429 | 500..) => Reply::Unknown(refusal.message),
            (_, _) => Reply::Refused(refusal.message),
        },
        Err(
            fault @ (Fault::Unreachable { .. } | Fault::Foreign { .. } | Fault::Proxy { .. } | Fault::NoToken { .. }),
        ) => Reply::Unknown(fault.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::calls::ServerRefusal;

    #[test]
    fn what_an_answer_means_to_a_worker() {
        let refused = |status, code, body| {
            let message = "why".to_owned();
            Fault::Refused(Box::new(ServerRefusal { status, code, with_token: true, message, body }))
        };
        let (no, unknown) = (|| Reply::Refused("why".to_owned()), || Reply::Unknown("why".to_owned()));
        let table: [(_, Reply<()>); 10] = [
            (refused(409, Some(ErrorCode::LeaseLost), json!({})), Reply::Lost),
            (refused(404, Some(ErrorCode::NotFound), json!({})), Reply::Lost),
            (refused(409, Some(ErrorCode::ReportGap), json!({ "last": 7 })), Reply::Gap { last: 7 }),
            (refused(409, Some(ErrorCode::ReportGap), json!({})), Reply::Gap { last: 0 }),
            (refused(400, Some(ErrorCode::InvalidBody), json!({})), no()),
            (refused(404, None, json!({})), no()),
            (refused(401, Some(ErrorCode::Unauthorized), json!({})), unknown()),
            (refused(403, Some(ErrorCode::ForbiddenOrigin), json!({})), unknown()),
            (refused(500, Some(ErrorCode::Internal), json!({})), unknown()),
            (refused(503, Some(ErrorCode::Unavailable), json!({})), unknown()),
        ];
        for (fault, meant) in table {
            let told = format!("{fault:?}");
            assert_eq!(reply::<()>(Err(fault)), meant, "{told}");
        }
        assert_eq!(reply(Ok(3)), Reply::Done(3));
    }
}
