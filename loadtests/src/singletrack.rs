//! Singletrack as one of the subjects.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use singletrack::wire::LEASE_HEADER;
use tokio::sync::Mutex;

use crate::{
    http::Http,
    jobs,
    racer::Racer,
    server::{Recipe, Server},
    subject::{Get, JobLoad, JobsDone, Locker, Subject, Topic, Work},
};

/// A submit that claims: its client is the worker. The lease is long, so that a parked run needs no heartbeat.
pub const CLAIM: &[u8] = br#"{"executor":"client","claim":true,"leaseSeconds":600,"actor":"load","ref":"main"}"#;
pub const SUCCEEDED: &[u8] = br#"{"status":"SUCCEEDED"}"#;

/// How many connections the workers of all topics share.
const CALLERS: usize = 64;

/// A server of ours.
pub struct Singletrack {
    pub server: Server,
}

impl Singletrack {
    pub async fn start(recipe: &Recipe, config: &str) -> Result<Singletrack> {
        Ok(Singletrack { server: Server::start(recipe, config).await? })
    }

    pub fn name(&self) -> &'static str {
        self.server.recipe().own_name()
    }
}

impl Subject for Singletrack {
    fn about(&self) -> String {
        format!("{}, {}, each commit synced", env!("CARGO_PKG_VERSION"), self.server.store_name())
    }

    fn processes(&self) -> Vec<u32> {
        self.server.processes()
    }

    fn locker(&self) -> Work<'_, Box<dyn Locker>> {
        Box::pin(async { Ok(Box::new(Raw::connect(&self.server).await?) as Box<dyn Locker>) })
    }

    fn racer(&self) -> Work<'_, Box<dyn Locker>> {
        Box::pin(async { Ok(Box::new(Racer::connect(&self.server, 0)?) as Box<dyn Locker>) })
    }

    fn wrapper(&self, slot: &str) -> Result<Command> {
        let mut command = Command::new(&self.server.recipe().binary);
        command.args(["run", "--server", &self.server.url(), "--project", slot, "--", "true"]);
        command.env_remove("SINGLETRACK_TOKEN").stdin(Stdio::null());
        Ok(command)
    }

    fn topics(&self, count: usize) -> Work<'_, Vec<Box<dyn Topic>>> {
        Box::pin(async move {
            let mut shared = Vec::new();
            for _ in 0..count.min(CALLERS) {
                shared.push(Arc::new(Mutex::new(self.server.connect().await?)));
            }
            let mut topics: Vec<Box<dyn Topic>> = Vec::with_capacity(count);
            for number in 0..count {
                let http = shared[number % CALLERS].clone();
                // Names of one run must not meet those of another on the same server.
                let slot = format!("topic-{}", uuid::Uuid::now_v7().simple());
                let mut held = http.lock().await;
                let (path, lease) = claim(&mut held, &slot).await?;
                let address = self.server.address;
                drop(held);
                topics.push(Box::new(Deployed { address, http, path, lease, reports: 0 }));
            }
            Ok(topics)
        })
    }

    fn jobs(&self, load: JobLoad) -> Work<'_, JobsDone> {
        Box::pin(jobs::run(&self.server, load))
    }

    fn own(&self) -> Option<&Singletrack> {
        Some(self)
    }
}

/// What its taker reads of an accepted claim: no more than peers' clients read of their answers.
#[derive(Deserialize)]
struct Granted<'a> {
    id: &'a str,
    #[serde(borrow)]
    lease: GrantedLease<'a>,
}

#[derive(Deserialize)]
struct GrantedLease<'a> {
    secret: &'a str,
}

/// Takes a slot that is free; answers the deployment's path, and the header that proves the lease.
pub async fn claim(http: &mut Http, slot: &str) -> Result<(String, String)> {
    let path = format!("/v1/projects/{slot}/deployments");
    let reply = http.call("POST", &path, "", CLAIM).await?.expect(202)?;
    let granted: Granted<'_> = reply.json()?;
    Ok((format!("{path}/{}", granted.id), format!("{LEASE_HEADER}: {}\r\n", granted.lease.secret)))
}

/// A client that submits and finishes, over the lean HTTP client.
pub struct Raw {
    http: Http,
    held: Option<(String, String)>,
}

impl Raw {
    pub async fn connect(server: &Server) -> Result<Raw> {
        Ok(Raw { http: server.connect().await?, held: None })
    }
}

impl Locker for Raw {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            self.held = Some(claim(&mut self.http, slot).await?);
            Ok(())
        })
    }

    fn give<'a>(&'a mut self, _: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            let (path, lease) = self.held.take().context("it holds the slot")?;
            self.http.call("POST", &format!("{path}/finish"), &lease, SUCCEEDED).await?.expect(200)?;
            Ok(())
        })
    }
}

/// A running deployment that others wait for.
struct Deployed {
    address: SocketAddr,
    http: Arc<Mutex<Http>>,
    path: String,
    lease: String,
    reports: u64,
}

impl Topic for Deployed {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn poll(&self) -> Get {
        Get { path: format!("{}/completion?maxWaitSeconds=60", self.path), headers: String::new() }
    }

    fn stream(&self) -> Get {
        Get { path: format!("{}/events", self.path), headers: "accept: text/event-stream\r\n".to_owned() }
    }

    fn answer(&mut self) -> Work<'_, ()> {
        Box::pin(async {
            let path = format!("{}/finish", self.path);
            self.http.lock().await.call("POST", &path, &self.lease, SUCCEEDED).await?.expect(200)?;
            Ok(())
        })
    }

    fn publish<'a>(&'a mut self, text: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            self.reports += 1;
            let (first, path) = (self.reports, format!("{}/reports", self.path));
            let body =
                format!(r#"{{"first":{first},"reports":[{{"type":"log","stream":"stdout","lines":["{text}"]}}]}}"#);
            self.http.lock().await.call("POST", &path, &self.lease, body.as_bytes()).await?.expect(200)?;
            Ok(())
        })
    }
}
