//! What an agent tells under a lease: each call once, and what its answer means.

use std::sync::Arc;

use super::journal::Taken;
use crate::{
    client::calls::{Connection, Fault, Worker},
    model::{DeploymentId, Report},
    wire::{ErrorCode, FinishRequest, ReportsRequest},
};

/// How a call under a lease went.
#[derive(Debug)]
pub enum Told<T> {
    /// As it should.
    Yes(T),
    /// The lease is not, or no longer, ours.
    Lost,
    /// The server's count of reports is another.
    Gap {
        /// The last one that is known.
        last: u64,
    },
    /// No, and it would be no again.
    Refused(String),
    /// Nobody knows; it may be asked again.
    Unknown,
}

/// A deployment's lease and the way to its server.
#[derive(Clone)]
pub struct Calls {
    connection: Arc<Connection>,
    taken: Taken,
}

impl Calls {
    /// Under the lease of what was taken.
    pub fn new(connection: Arc<Connection>, taken: Taken) -> Self {
        Calls { connection, taken }
    }

    /// The deployment.
    pub fn id(&self) -> DeploymentId {
        self.taken.deployment
    }

    /// Tells reports, the first of which has this number. Answers the number of the last that is known there.
    pub async fn report(&self, first: u64, reports: Vec<Report>) -> Told<u64> {
        judge(self.connection.reports(self.worker(), &ReportsRequest { first, reports }).await.map(|told| told.last))
    }

    /// Tells the end.
    pub async fn finish(&self, finish: &FinishRequest) -> Told<()> {
        judge(self.connection.finish(self.worker(), finish).await.map(|_| ()))
    }

    fn worker(&self) -> Worker<'_> {
        let Taken { project, deployment, lease } = &self.taken;
        Worker { project, id: *deployment, secret: &lease.secret }
    }
}

fn judge<T>(answer: Result<T, Fault>) -> Told<T> {
    match answer {
        Ok(value) => Told::Yes(value),
        Err(Fault::Refused(refusal)) => match (refusal.code, refusal.status) {
            // A server that does not know the deployment has lost it, and with it the lease.
            (Some(ErrorCode::LeaseLost | ErrorCode::NotFound), _) => Told::Lost,
            (Some(ErrorCode::ReportGap), _) => {
                Told::Gap { last: refusal.body.get("last").and_then(serde_json::Value::as_u64).unwrap_or(0) }
            }
            // A token may be mended, and a server may get well.
            (_, 401 | 403 | 408 | 429 | 500..) => Told::Unknown,
            (_, _) => Told::Refused(refusal.message),
        },
        Err(Fault::Unreachable { .. } | Fault::Foreign { .. } | Fault::Proxy { .. }) => Told::Unknown,
    }
}
