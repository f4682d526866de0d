//! Redis with every write synced before its answer. A slot is a key that a client sets if it does not exist, or a token
//! in a list: the client that pops the token has the slot.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::subject::{Ability, Locker, Peer, Subject, Work};

use super::{
    daemon::{Daemon, program, version},
    resp::{Resp, Value},
};

/// How a key that somebody else holds is tried again: after a pause of between once and this many times a millisecond.
/// Much longer pauses cost at each hand-off, much shorter ones keep the server from everything else.
const RETRY_SPREAD_MS: u64 = 4;
/// A dead holder's key goes by itself, as whoever does this in earnest wants it.
const TTL_MS: &str = "60000";
/// Takes a key away if it is still ours.
const GIVE: &str = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

pub const SET_NX: Peer = Peer {
    name: "redis-setnx",
    abilities: &[Ability::FreeSlots, Ability::Race],
    start: || Box::pin(async { Ok(Box::new(Redis::start(Way::SetNx).await?) as Box<dyn Subject>) }),
};

pub const BLPOP: Peer = Peer {
    name: "redis-blpop",
    abilities: &[Ability::Race],
    start: || Box::pin(async { Ok(Box::new(Redis::start(Way::Blpop).await?) as Box<dyn Subject>) }),
};

#[derive(Clone, Copy)]
enum Way {
    SetNx,
    Blpop,
}

struct Redis {
    server: RedisServer,
    way: Way,
}

/// A Redis of our own; the job queue that sits on one starts it too.
pub struct RedisServer {
    pub daemon: Daemon,
    version: String,
    fsync: &'static str,
}

impl RedisServer {
    /// Starts one that keeps a log of what is written, and syncs it `always` or `everysec`.
    pub async fn start(fsync: &'static str) -> Result<RedisServer> {
        let redis = program("redis-server")?;
        let daemon = Daemon::start("redis-server", |dir, port| {
            let mut command = Command::new(&redis);
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"]);
            command.args(["--appendfsync", fsync, "--daemonize", "no", "--dir"]).arg(dir);
            Ok(command)
        });
        // `Redis server v=7.0.15 sha=…`
        let said = version(&redis, "--version")?;
        let number = said.split_once("v=").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("?");
        Ok(RedisServer { daemon: daemon.await?, version: format!("Redis {number}"), fsync })
    }

    pub fn about(&self) -> String {
        let promise = match self.fsync {
            "always" => "each write synced before its answer",
            _ => "synced every second: a crash loses up to a second of acknowledged writes",
        };
        format!("{}, appendfsync {}, {promise}", self.version, self.fsync)
    }
}

impl Redis {
    async fn start(way: Way) -> Result<Redis> {
        Ok(Redis { server: RedisServer::start("always").await?, way })
    }
}

impl Subject for Redis {
    fn about(&self) -> String {
        match self.way {
            Way::SetNx => format!("{}; whoever waits tries again every 1 to {RETRY_SPREAD_MS} ms", self.server.about()),
            Way::Blpop => format!("{}; nothing frees the slot of a dead holder", self.server.about()),
        }
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.server.daemon.id()]
    }

    fn prepare<'a>(&'a self, slots: &'a [String]) -> Work<'a, ()> {
        Box::pin(async move {
            let mut resp = Resp::connect(self.server.daemon.address).await?;
            for slot in slots {
                resp.call(&["DEL", slot]).await?;
                if let Way::Blpop = self.way {
                    resp.call(&["RPUSH", slot, "token"]).await?;
                }
            }
            Ok(())
        })
    }

    fn locker(&self) -> Work<'_, Box<dyn Locker>> {
        Box::pin(async move {
            let mut resp = Resp::connect(self.server.daemon.address).await?;
            Ok(match self.way {
                Way::Blpop => Box::new(Popper { resp }) as Box<dyn Locker>,
                Way::SetNx => {
                    let Value::Text(script) = resp.call(&["SCRIPT", "LOAD", GIVE]).await? else {
                        bail!("Redis did not take the script");
                    };
                    let Value::Number(id) = resp.call(&["CLIENT", "ID"]).await? else {
                        bail!("Redis did not number the client");
                    };
                    let token = format!("{:032x}", id);
                    Box::new(Setter { resp, script, token, random: id.unsigned_abs() | 1 })
                }
            })
        })
    }
}

/// Sets a key if it is not there.
struct Setter {
    resp: Resp,
    script: String,
    token: String,
    random: u64,
}

impl Locker for Setter {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            loop {
                match self.resp.call(&["SET", slot, &self.token, "NX", "PX", TTL_MS]).await? {
                    Value::Nothing => tokio::time::sleep(self.pause()).await,
                    _ => return Ok(()),
                }
            }
        })
    }

    fn give<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            match self.resp.call(&["EVALSHA", &self.script, "1", slot, &self.token]).await? {
                Value::Number(1) => Ok(()),
                other => bail!("{slot} was not ours any more: {other:?}"),
            }
        })
    }
}

impl Setter {
    /// Another one each time, so that those who wait do not march in step.
    fn pause(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        Duration::from_micros(1000 + self.random % (1000 * (RETRY_SPREAD_MS - 1)))
    }
}

/// Pops the slot's token, and pushes it back. Nothing frees the slot when its holder dies.
struct Popper {
    resp: Resp,
}

impl Locker for Popper {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            let popped = self.resp.call(&["BLPOP", slot, "0"]).await?;
            matches!(popped, Value::List(_)).then_some(()).context("Redis gave no token")
        })
    }

    fn give<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move { self.resp.call(&["RPUSH", slot, "token"]).await.map(|_| ()) })
    }
}
