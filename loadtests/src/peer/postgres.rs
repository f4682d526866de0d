//! PostgreSQL without tuning. A slot is a row that a client inserts if it does not exist, together with an event row and
//! a NOTIFY that wakes the waiting clients. Or a slot is an advisory lock, which leaves no record.

use std::future::poll_fn;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use crate::{
    postgres::Cluster,
    subject::{Ability, Locker, Peer, Subject, Work},
};

const SCHEMA: &str = "
    CREATE TABLE slots (name text PRIMARY KEY, holder int NOT NULL, taken_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slot text NOT NULL, kind text NOT NULL,
                         at timestamptz NOT NULL DEFAULT now());";
/// Takes the slot if it is free: one statement, one transaction, one flight.
const TAKE: &str = "
    WITH taken AS (INSERT INTO slots (name, holder) VALUES ($1, pg_backend_pid()) ON CONFLICT DO NOTHING RETURNING name)
    INSERT INTO events (slot, kind) SELECT name, 'taken' FROM taken";
const GIVE: &str = "
    WITH given AS (DELETE FROM slots WHERE name = $1 AND holder = pg_backend_pid() RETURNING name)
    INSERT INTO events (slot, kind) SELECT name, 'given' FROM given";
/// Also tells those who wait. It costs: transactions that notify commit one after the other.
const GIVE_AND_TELL: &str = "
    WITH given AS (DELETE FROM slots WHERE name = $1 AND holder = pg_backend_pid() RETURNING name),
         event AS (INSERT INTO events (slot, kind) SELECT name, 'given' FROM given)
    SELECT pg_notify('slots', name) FROM given";
const TAKE_ADVISORY: &str = "SELECT pg_advisory_lock(hashtextextended($1, 0))";
const GIVE_ADVISORY: &str = "SELECT pg_advisory_unlock(hashtextextended($1, 0))";

pub const ROW: Peer = Peer {
    name: "postgres-row",
    abilities: &[Ability::FreeSlots, Ability::Race],
    start: || Box::pin(async { Ok(Box::new(Postgres::start(Way::Row).await?) as Box<dyn Subject>) }),
};

pub const ADVISORY: Peer = Peer {
    name: "postgres-advisory",
    abilities: &[Ability::FreeSlots, Ability::Race],
    start: || Box::pin(async { Ok(Box::new(Postgres::start(Way::Advisory).await?) as Box<dyn Subject>) }),
};

#[derive(Clone, Copy)]
enum Way {
    Row,
    Advisory,
}

struct Postgres {
    cluster: Cluster,
    way: Way,
}

/// Starts a cluster of our own, which takes a while of one thread.
pub async fn cluster() -> Result<Cluster> {
    tokio::task::spawn_blocking(Cluster::start).await?
}

impl Postgres {
    async fn start(way: Way) -> Result<Postgres> {
        let postgres = Postgres { cluster: cluster().await?, way };
        let (client, _) = postgres.connect().await?;
        client.batch_execute(SCHEMA).await?;
        Ok(postgres)
    }

    /// A connection, and what it is notified of.
    async fn connect(&self) -> Result<(Client, mpsc::UnboundedReceiver<String>)> {
        let (client, mut connection) = tokio_postgres::connect(&self.cluster.url(), NoTls).await?;
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = tell.send(notification.payload().to_owned());
                }
            }
        });
        Ok((client, told))
    }

    async fn row(&self, give: &str) -> Result<Row> {
        let (client, told) = self.connect().await?;
        let (take, give) = (client.prepare(TAKE).await?, client.prepare(give).await?);
        Ok(Row { client, told, take, give })
    }
}

impl Subject for Postgres {
    fn about(&self) -> String {
        let version = &self.cluster.version;
        match self.way {
            Way::Row => {
                format!("PostgreSQL {version}, fsync and synchronous_commit on: each commit synced before its answer")
            }
            Way::Advisory => format!("PostgreSQL {version}, advisory locks: nothing is durable, nothing is recorded"),
        }
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.cluster.process().id()]
    }

    fn locker(&self) -> Work<'_, Box<dyn Locker>> {
        Box::pin(async move {
            Ok(match self.way {
                Way::Row => Box::new(self.row(GIVE).await?) as Box<dyn Locker>,
                Way::Advisory => {
                    let (client, _) = self.connect().await?;
                    let (take, give) = (client.prepare(TAKE_ADVISORY).await?, client.prepare(GIVE_ADVISORY).await?);
                    Box::new(Advisory { client, take, give })
                }
            })
        })
    }

    fn racer(&self) -> Work<'_, Box<dyn Locker>> {
        Box::pin(async move {
            if let Way::Advisory = self.way {
                return self.locker().await;
            }
            let row = self.row(GIVE_AND_TELL).await?;
            row.client.batch_execute("LISTEN slots").await?;
            Ok(Box::new(row) as Box<dyn Locker>)
        })
    }
}

/// Inserts the slot's row.
struct Row {
    client: Client,
    told: mpsc::UnboundedReceiver<String>,
    take: Statement,
    give: Statement,
}

impl Locker for Row {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            // What was told before this attempt says nothing that the attempt does not see.
            while self.told.try_recv().is_ok() {}
            while self.client.execute(&self.take, &[&slot]).await? == 0 {
                while self.told.recv().await.context("the connection to PostgreSQL ended")? != slot {}
            }
            Ok(())
        })
    }

    fn give<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            ensure!(self.client.execute(&self.give, &[&slot]).await? == 1, "{slot} was not ours any more");
            Ok(())
        })
    }
}

/// Takes the session's lock of the slot's name.
struct Advisory {
    client: Client,
    take: Statement,
    give: Statement,
}

impl Locker for Advisory {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move { Ok(self.client.query_one(&self.take, &[&slot]).await.map(|_| ())?) })
    }

    fn give<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            let given: bool = self.client.query_one(&self.give, &[&slot]).await?.get(0);
            ensure!(given, "{slot} was not ours any more");
            Ok(())
        })
    }
}
