//! NATS: a slot is a key of a key-value bucket. A client takes the slot by creating the key if it does not exist, and
//! gives the slot back by deleting the key. A bucket is a JetStream stream, and a client that waits for a key watches
//! the key.

use std::{
    collections::HashMap,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::subject::{Ability, Locker, Peer, Subject, Work};

use super::{
    daemon::{Daemon, program, version},
    nats_wire::{Message, Nats},
};

/// What a bucket named `slots` is made of, as NATS' own clients make it.
const BUCKET: &str = r#"{"name":"KV_slots","subjects":["$KV.slots.>"],"max_msgs_per_subject":1,"storage":"file",
    "retention":"limits","discard":"new","allow_rollup_hdrs":true,"allow_direct":true,"deny_delete":true,"num_replicas":1,
    "max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msg_size":-1,"duplicate_window":120000000000}"#;
/// What the subjects of its keys begin with.
const PREFIX: &str = "$KV.slots.";
/// The header of what takes the place of a deleted key.
const DELETED: &str = "KV-Operation: DEL\r\n";
/// JetStream's code for an expectation that did not hold: somebody else has written.
const WRONG_LAST_SEQUENCE: u32 = 10071;
/// In where a watched message is to be acknowledged stands its number: `$JS.ACK.STREAM.CONSUMER.TRIES.NUMBER.…`
const SEQUENCE_WORD: usize = 5;

pub const KV: Peer = Peer {
    name: "nats-kv",
    abilities: &[Ability::FreeSlots, Ability::Race],
    start: || Box::pin(async { Ok(Box::new(JetStream::start().await?) as Box<dyn Subject>) }),
};

struct JetStream {
    daemon: Daemon,
    version: String,
    /// Whether this version can be told to sync each write.
    syncs: bool,
    clients: AtomicUsize,
}

/// What JetStream answers to a write.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    seq: u64,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    err_code: u32,
    description: String,
}

impl JetStream {
    async fn start() -> Result<JetStream> {
        // Versions before 2.10 do not know the setting, and refuse what they do not know.
        match JetStream::boot(true).await {
            Ok(started) => Ok(started),
            Err(error) if error.to_string().contains("sync_interval") => JetStream::boot(false).await,
            Err(error) => Err(error),
        }
    }

    async fn boot(syncs: bool) -> Result<JetStream> {
        let nats = program("nats-server")?;
        let daemon = Daemon::start("nats-server", |dir, port| {
            let sync = if syncs { "sync_interval: always" } else { "" };
            let config = dir.join("nats.conf");
            let store = dir.join("store").display().to_string();
            std::fs::write(
                &config,
                format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}\n {sync} }}\n"),
            )?;
            let mut command = Command::new(&nats);
            command.arg("-c").arg(config);
            Ok(command)
        })
        .await?;
        // `nats-server: v2.9.10`
        let version = version(&nats, "--version")?.replace("nats-server: v", "NATS ");
        let started = JetStream { daemon, version, syncs, clients: AtomicUsize::new(0) };
        let made = started.connect().await?.ask("$JS.API.STREAM.CREATE.KV_slots", "", BUCKET).await?;
        written(&made)?;
        Ok(started)
    }

    async fn connect(&self) -> Result<Nats> {
        Nats::connect(self.daemon.address, self.clients.fetch_add(1, Ordering::Relaxed)).await
    }
}

impl Subject for JetStream {
    fn about(&self) -> String {
        let version = &self.version;
        if self.syncs {
            format!("{version}, JetStream with sync_interval always: each write synced before its answer")
        } else {
            format!(
                "{version}, JetStream, which before 2.10 cannot sync each write: what it acknowledges is synced within two \
                 minutes, so it is measured at less durability than all others"
            )
        }
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.daemon.id()]
    }

    fn locker(&self) -> Work<'_, Box<dyn Locker>> {
        Box::pin(async move { Ok(Box::new(Keys::of(self.connect().await?, false)) as Box<dyn Locker>) })
    }

    fn racer(&self) -> Work<'_, Box<dyn Locker>> {
        Box::pin(async move { Ok(Box::new(Keys::of(self.connect().await?, true)) as Box<dyn Locker>) })
    }
}

/// A client that creates and deletes keys.
struct Keys {
    nats: Nats,
    /// The number of the last write to each key, as far as we know: a new one must follow it.
    last: HashMap<String, u64>,
    /// Whether others write the keys too, so that it has to watch them.
    watches: bool,
}

impl Keys {
    fn of(nats: Nats, watches: bool) -> Keys {
        Keys { nats, last: HashMap::new(), watches }
    }

    /// Writes a key if the last write to it is the one that we know; whether it was.
    async fn write(&mut self, slot: &str, operation: &str) -> Result<bool> {
        let last = self.last.get(slot).copied().unwrap_or_default();
        let headers = format!("{operation}Nats-Expected-Last-Subject-Sequence: {last}\r\n");
        let answer = self.nats.ask(&subject(slot), &headers, "").await?;
        let sequence = written(&answer)?;
        if let Some(sequence) = sequence {
            self.last.insert(slot.to_owned(), sequence);
        }
        Ok(sequence.is_some())
    }

    /// Learns what was written to a free key before us.
    async fn look_up(&mut self, slot: &str) -> Result<()> {
        let question = serde_json::json!({"last_by_subj": subject(slot)}).to_string();
        let last = self.nats.ask("$JS.API.DIRECT.GET.KV_slots", "", &question).await?;
        ensure!(last.headers.contains(DELETED), "{slot} was taken by somebody else");
        let number = last.headers.lines().find_map(|line| line.strip_prefix("Nats-Sequence: ")?.parse().ok());
        self.last.insert(slot.to_owned(), number.context("JetStream numbers what it has")?);
        Ok(())
    }

    /// Begins to be told of all writes to a key, the last one first.
    async fn watch(&mut self, slot: &str) -> Result<()> {
        let config = serde_json::json!({"stream_name": "KV_slots", "config": {
            "deliver_subject": self.nats.watch_inbox(), "deliver_policy": "last_per_subject", "ack_policy": "none",
            "replay_policy": "instant", "filter_subject": subject(slot), "max_deliver": 1, "mem_storage": true,
        }});
        let made = self.nats.ask("$JS.API.CONSUMER.CREATE.KV_slots", "", &config.to_string()).await?;
        written(&made)?;
        self.last.insert(slot.to_owned(), 0);
        Ok(())
    }

    /// Waits until a key is deleted that was not when we last knew of it.
    async fn deleted(&mut self, slot: &str) -> Result<()> {
        loop {
            let told = self.nats.watched().await?;
            if told.subject != subject(slot) {
                continue;
            }
            let number = told.reply.split('.').nth(SEQUENCE_WORD).and_then(|number| number.parse().ok());
            let number: u64 = number.context("JetStream numbers what it delivers")?;
            let last = self.last.entry(told.subject[PREFIX.len()..].to_owned()).or_default();
            if number > *last && told.headers.contains(DELETED) {
                *last = number;
                return Ok(());
            }
        }
    }
}

impl Locker for Keys {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            if self.watches && !self.last.contains_key(slot) {
                self.watch(slot).await?;
            }
            while !self.write(slot, "").await? {
                if self.watches {
                    self.deleted(slot).await?;
                } else {
                    self.look_up(slot).await?;
                }
            }
            Ok(())
        })
    }

    fn give<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            ensure!(self.write(slot, DELETED).await?, "{slot} was not ours any more");
            Ok(())
        })
    }
}

fn subject(slot: &str) -> String {
    format!("{PREFIX}{slot}")
}

/// The number of what was written; none if something else had been written before.
fn written(answer: &Message) -> Result<Option<u64>> {
    let written: Written = serde_json::from_slice(&answer.body)
        .with_context(|| format!("JetStream answered {}{}", answer.headers, String::from_utf8_lossy(&answer.body)))?;
    match written.error {
        None => Ok(Some(written.seq)),
        Some(Fault { err_code: WRONG_LAST_SEQUENCE, .. }) => Ok(None),
        Some(fault) => bail!("JetStream: {}", fault.description),
    }
}
