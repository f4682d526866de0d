//! etcd: a slot is a line of keys under one prefix. Each key is bound to its client's lease, and the client with the
//! oldest key holds the slot. This is the recipe of etcd's own Go client (`concurrency.Mutex`), which `etcdctl lock`
//! uses, too.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::JoinHandle;

use crate::subject::{Ability, Locker, Peer, Subject, Work};

use super::{
    daemon::{Daemon, program, version},
    etcd_api::{
        ASCENDING, BY_CREATE_REVISION, CREATE_REVISION, Compare, DELETE, DELETE_RANGE, DESCENDING, DeleteRangeRequest,
        DeleteRangeResponse, LEASE_GRANT, LEASE_KEEP_ALIVE, LeaseGrantRequest, LeaseGrantResponse,
        LeaseKeepAliveRequest, LeaseKeepAliveResponse, NO_PUTS, PutRequest, RANGE, RangeRequest, RangeResponse,
        Request, RequestOp, Response, TXN, TxnRequest, TxnResponse, WATCH, WatchCreateRequest, WatchRequest,
        WatchResponse,
    },
    grpc::Grpc,
};

/// The Go client's own time to live.
const LEASE_SECONDS: i64 = 60;
const KEEP_ALIVE_PAUSE: Duration = Duration::from_secs(LEASE_SECONDS as u64 / 3);

pub const ETCD: Peer = Peer {
    name: "etcd",
    abilities: &[Ability::FreeSlots, Ability::Race],
    start: || Box::pin(async { Ok(Box::new(Etcd::start().await?) as Box<dyn Subject>) }),
};

pub const ETCDCTL: Peer = Peer {
    name: "etcdctl",
    abilities: &[Ability::Wrap],
    start: || {
        Box::pin(async {
            program("etcdctl")?;
            Ok(Box::new(Etcd::start().await?) as Box<dyn Subject>)
        })
    },
};

struct Etcd {
    daemon: Daemon,
    version: String,
}

impl Etcd {
    async fn start() -> Result<Etcd> {
        let etcd = program("etcd")?;
        let daemon = Daemon::start_with_two_ports("etcd", |dir, port, peer| {
            let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
            let mut command = Command::new(&etcd);
            command.arg("--data-dir").arg(dir.join("data")).args(["--name", "load", "--log-level", "error"]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &format!("load={peer}")]);
            Ok(command)
        })
        .await?;
        // `etcd Version: 3.4.23`
        let version = version(&etcd, "--version")?.replace("Version: ", "");
        Ok(Etcd { daemon, version })
    }
}

impl Subject for Etcd {
    fn about(&self) -> String {
        format!("{}, one member, each commit synced before its answer", self.version)
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.daemon.id()]
    }

    fn locker(&self) -> Work<'_, Box<dyn Locker>> {
        Box::pin(async move { Ok(Box::new(Mutex::connect(&self.daemon).await?) as Box<dyn Locker>) })
    }

    fn wrapper(&self, slot: &str) -> Result<Command> {
        let mut command = Command::new(program("etcdctl")?);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.daemon.address.to_string(), "lock", slot, "true"]);
        Ok(command)
    }
}

/// A client with its lease.
struct Mutex {
    grpc: Grpc,
    lease: i64,
    keeper: JoinHandle<()>,
}

impl Mutex {
    async fn connect(daemon: &Daemon) -> Result<Mutex> {
        let mut grpc = Grpc::connect(daemon.address).await?;
        let granted: LeaseGrantResponse = grpc.call(LEASE_GRANT, &LeaseGrantRequest { ttl: LEASE_SECONDS }).await?;
        let (mut keeping, lease) = (grpc.clone(), granted.id);
        let keeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEEP_ALIVE_PAUSE).await;
                let question = LeaseKeepAliveRequest { id: lease };
                // A lease that could not be kept shows when the slot is given back: its key is gone.
                let _ = keeping.call::<_, LeaseKeepAliveResponse>(LEASE_KEEP_ALIVE, &question).await;
            }
        });
        Ok(Mutex { grpc, lease, keeper })
    }

    fn key(&self, slot: &str) -> Vec<u8> {
        format!("{slot}/{:x}", self.lease).into_bytes()
    }

    /// Waits until no key of the line is older than this revision: each time for the youngest of them to go, so that
    /// whoever gives a slot back wakes one client.
    async fn wait_for_older(&mut self, slot: &str, revision: i64) -> Result<()> {
        let youngest = RangeRequest { max_create_revision: revision - 1, ..line(slot, DESCENDING) };
        loop {
            let found: RangeResponse = self.grpc.call(RANGE, &youngest).await?;
            let Some(before) = found.kvs.into_iter().next() else {
                return Ok(());
            };
            let seen = found.header.context("etcd tells its revision")?.revision;
            let create = WatchCreateRequest { key: before.key, start_revision: seen + 1, filters: vec![NO_PUTS] };
            let mut watch = self.grpc.open(WATCH, &WatchRequest { create: Some(create) }, false).await?;
            loop {
                let told: WatchResponse = watch.next().await?;
                ensure!(!told.canceled, "etcd cancelled a watch");
                if told.events.iter().any(|event| event.kind == DELETE) {
                    break;
                }
            }
        }
    }
}

impl Drop for Mutex {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Locker for Mutex {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            let key = self.key(slot);
            let is_new = Compare { result: 0, target: CREATE_REVISION, key: key.clone(), create_revision: Some(0) };
            let put = PutRequest { key, value: Vec::new(), lease: self.lease };
            let transaction = TxnRequest {
                compare: vec![is_new],
                success: [Request::Put(put), Request::Range(line(slot, ASCENDING))]
                    .map(|request| RequestOp { request: Some(request) })
                    .into(),
            };
            let done: TxnResponse = self.grpc.call(TXN, &transaction).await?;
            ensure!(done.succeeded, "we are in the line of {slot} already");
            let revision = done.header.context("etcd tells its revision")?.revision;
            let Some(Response::Range(holder)) = done.responses.into_iter().nth(1).and_then(|answer| answer.response)
            else {
                bail!("etcd did not tell who holds {slot}");
            };
            if holder.kvs.first().is_some_and(|holder| holder.create_revision != revision) {
                self.wait_for_older(slot, revision).await?;
            }
            Ok(())
        })
    }

    fn give<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            let question = DeleteRangeRequest { key: self.key(slot) };
            let gone: DeleteRangeResponse = self.grpc.call(DELETE_RANGE, &question).await?;
            ensure!(gone.deleted == 1, "{slot} was not ours any more");
            Ok(())
        })
    }
}

/// The key at one end of a slot's line: the oldest if ascending, else the youngest.
fn line(slot: &str, sort_order: i32) -> RangeRequest {
    RangeRequest {
        key: format!("{slot}/").into_bytes(),
        // What follows `/`: the end of all keys that begin so.
        range_end: format!("{slot}0").into_bytes(),
        limit: 1,
        sort_order,
        sort_target: BY_CREATE_REVISION,
        max_create_revision: 0,
    }
}
