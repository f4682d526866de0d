//! Singletrack's clients, as scenarios drive them.

use anyhow::{Context as _, Result};
use singletrack::api::{Accepted, LEASE_HEADER};

use crate::{
    http::Http,
    server::Server,
    subject::{Locker, Work},
};

/// A client that submits and finishes, over the lean HTTP client.
pub struct Raw {
    http: Http,
    held: Option<(String, String)>,
}

/// A submit that claims: its client is the worker.
pub const CLAIM: &[u8] = br#"{"executor":"client","claim":true,"actor":"load","ref":"main"}"#;
pub const SUCCEEDED: &[u8] = br#"{"status":"SUCCEEDED"}"#;

impl Raw {
    pub async fn connect(server: &Server) -> Result<Raw> {
        Ok(Raw { http: server.connect().await?, held: None })
    }
}

impl Locker for Raw {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            let path = format!("/v1/projects/{slot}/deployments");
            let reply = self.http.call("POST", &path, "", CLAIM).await?.expect(202)?;
            let accepted: Accepted = reply.json()?;
            let lease = accepted.lease.context("a claim carries its lease")?;
            let finish = format!("{path}/{}/finish", accepted.deployment.id);
            self.held = Some((finish, format!("{LEASE_HEADER}: {}\r\n", lease.secret)));
            Ok(())
        })
    }

    fn give<'a>(&'a mut self, _: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            let (path, lease) = self.held.take().context("it holds the slot")?;
            self.http.call("POST", &path, &lease, SUCCEEDED).await?.expect(200)?;
            Ok(())
        })
    }
}
